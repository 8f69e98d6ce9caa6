"""`make screenshots`: the README's pictures of the rating service, drawn as SVG from its pages in chromium.

    python -m tests.feedback.pages.screenshots [FOLDER]

Drawn again in the same browser with the same fonts, the files are the same to the byte. With a folder the page's own
screenshots are put there, each beside what its drawing looks like, for the eye to compare.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmops.database import open_database
from llmops.workspace import Workspace
from tests.chromium import chromium_browser
from tests.feedback.pages.hands import press, ready
from tests.feedback.pages.pictured import ORDER, PAIRS, Pictured, pictured

PICTURES = Path(__file__).parents[3] / "feedback/pictures"
DRAWING = (Path(__file__).parent / "drawing.js").read_text()
LIGHT, DARK = "light", "dark"


@dataclass(frozen=True, slots=True)
class Scene:
    """A page in a window of some size, and keys that are pressed there; `name` is the file's."""

    name: str
    shows: str
    path: str
    size: tuple[int, int]
    scheme: str = LIGHT
    keys: tuple[str, ...] = ()
    owner: bool = False


SCENES = (
    Scene("pair", "Two answers side by side", f"/rate/{PAIRS}", (1280, 850), keys=("2",)),
    Scene("pair-dark", "Two answers side by side, dark", f"/rate/{PAIRS}", (1280, 850), DARK, keys=("2",)),
    Scene("narrow", "One of two answers on a telephone", f"/rate/{PAIRS}", (390, 844), keys=("2",)),
    Scene("narrow-dark", "One of two answers on a telephone, dark", f"/rate/{PAIRS}", (390, 844), DARK, keys=("2",)),
    Scene(
        "order",
        "Four answers in order",
        f"/rate/{ORDER}",
        (1280, 800),
        keys=("2", "ArrowUp", "4", "ArrowUp", "ArrowUp", "3", "x"),
    ),
    Scene("dashboard", "The owner's dashboard", f"/campaigns/{PAIRS}", (1280, 1136), owner=True),
)


def opened(browser: Any, house: Pictured, scene: Scene) -> Any:
    """A tab that shows the scene."""
    context = browser.new_context(
        viewport=dict(zip(("width", "height"), scene.size, strict=True)),
        color_scheme=scene.scheme, reduced_motion="reduce", locale="en-GB", timezone_id="UTC",
    )  # fmt: skip
    context.add_cookies([house.owner if scene.owner else house.rater])
    tab = context.new_page()
    tab.goto(house.address + scene.path)
    if not scene.owner:
        ready(tab)
    press(tab, *scene.keys)
    if scene.keys:
        tab.get_by_text("Draft kept").wait_for()
    return tab


def drawn(tab: Any, scene: Scene) -> str:
    """The scene as SVG; the tab is of no use afterwards."""
    return str(tab.evaluate(DRAWING, [scene.shows]))


def looked_at(browser: Any, svg: str, scene: Scene) -> bytes:
    """The drawing as a browser shows it, a PNG."""
    context = browser.new_context(viewport=dict(zip(("width", "height"), scene.size, strict=True)))
    tab = context.new_page()
    tab.set_content(f"<body style='margin:0'>{svg}")
    picture = bytes(tab.screenshot())
    context.close()
    return picture


def main(beside: Path | None) -> None:
    PICTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as home, chromium_browser() as browser:
        engine = open_database(Workspace(Path(home)), keep=10, survives="kill")
        with pictured(engine) as house:
            for scene in SCENES:
                tab = opened(browser, house, scene)
                if beside:
                    beside.mkdir(exist_ok=True)
                    tab.screenshot(path=beside / f"{scene.name}-page.png")
                svg = drawn(tab, scene)
                tab.context.close()
                (PICTURES / f"{scene.name}.svg").write_text(svg)
                if beside:
                    (beside / f"{scene.name}-drawn.png").write_bytes(looked_at(browser, svg, scene))
                print(f"feedback/pictures/{scene.name}.svg  {len(svg.encode()) / 1000:.1f} kB")
        engine.dispose()


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
