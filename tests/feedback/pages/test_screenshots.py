"""The README's pictures are drawn from the page: a drawing looks like its page, and holds nothing but what is seen.

What is drawn is text, so that the repository holds no binary; `make screenshots` writes it anew.
"""

from __future__ import annotations

import io
import re
import shutil
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from llmops.database import open_database
from llmops.workspace import Workspace
from tests.feedback.pages.pictured import Pictured, pictured
from tests.feedback.pages.screenshots import PICTURES, SCENES, drawn, looked_at, opened

pytestmark = pytest.mark.xdist_group("rating-page")
README = Path(__file__).parents[3] / "README.md"
STORED = sorted(PICTURES.glob("*"))
SCENE = {scene.name: scene for scene in SCENES}
BLOCK = 16
"""Pixels along a block in which colours are averaged: about a letter's height, so that no edge of one counts much."""
SAME_BLOCK = 12.0
"""Levels of 255 by which a block's colour may differ; edges of letters differ by less, and what is missing by more."""
NAMESPACE = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def house(empty_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pictured]:
    home = tmp_path_factory.mktemp("pictured")
    shutil.copy(empty_database, home / "llmops.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("LLMOPS_DATABASE_URL", raising=False)
        engine = open_database(Workspace(home), keep=10, survives="kill")
    with pictured(engine) as service:
        yield service
    engine.dispose()


def apart(one: bytes, other: bytes) -> float:
    """The greatest difference between the mean colours of two pictures' blocks, in levels of 255."""
    first, second = (
        np.asarray(Image.open(io.BytesIO(picture)).convert("RGB"), dtype=float) for picture in (one, other)
    )
    assert first.shape == second.shape
    high, wide = (size // BLOCK for size in first.shape[:2])
    blocks = [
        picture[: high * BLOCK, : wide * BLOCK].reshape(high, BLOCK, wide, BLOCK, 3).mean((1, 3))
        for picture in (first, second)
    ]
    return float(np.abs(blocks[0] - blocks[1]).max())


def close(text: str) -> str:
    """Without spaces, and with the letters of formulas as common ones."""
    return re.sub(r"\s", "", unicodedata.normalize("NFKC", text))


@dataclass(frozen=True, slots=True)
class Seen:
    """A scene as the page's own screenshot (PNG), the text of the page, and the drawing."""

    page: bytes
    text: str
    svg: str


@pytest.fixture(scope="module")
def seen(house: Pictured, chromium: Any) -> Callable[[str], Seen]:
    @cache
    def once(name: str) -> Seen:
        tab = opened(chromium, house, SCENE[name])
        page, text = bytes(tab.screenshot()), str(tab.evaluate("document.body.textContent"))
        svg = drawn(tab, SCENE[name])
        tab.context.close()
        return Seen(page, close(text), svg)

    return once


@pytest.mark.parametrize("name", ["pair-dark", "dashboard"])
def test_a_drawing_looks_like_its_page(name: str, seen: Callable[[str], Seen], chromium: Any) -> None:
    found = seen(name)
    assert apart(found.page, looked_at(chromium, found.svg, SCENE[name])) < SAME_BLOCK


@pytest.mark.parametrize("name", ["pair-dark", "dashboard"])
def test_what_a_kept_picture_says_the_page_says_today(name: str, seen: Callable[[str], Seen]) -> None:
    kept = [text.text or "" for text in ElementTree.parse(PICTURES / f"{name}.svg").iter(f"{NAMESPACE}text")]
    assert len(kept) > 20
    # A tick and the numbers of a list are no text of the page.
    gone = {text for text in kept if close(text) not in seen(name).text} - {"✓", "1.", "2.", "3."}
    assert not gone, "`make screenshots` draws it anew"


def test_what_is_missing_in_a_drawing_is_seen(seen: Callable[[str], Seen], chromium: Any) -> None:
    found = seen("pair-dark")
    button = re.search(r"<rect(?=[^>]*fill=\"#7db4f0\")[^>]*/>\n<text[^>]*>Submit", found.svg)
    question = re.search(r"<text[^>]*>Which answer helps the person who asked more\?</text>", found.svg)
    assert button is not None
    assert question is not None
    for missing in (button[0].partition("\n")[0], question[0]):
        without = looked_at(chromium, found.svg.replace(missing, "", 1), SCENE["pair-dark"])
        assert apart(found.page, without) > 2 * SAME_BLOCK, missing


def test_the_same_page_gives_the_same_drawing(seen: Callable[[str], Seen], house: Pictured, chromium: Any) -> None:
    tab = opened(chromium, house, SCENE["pair-dark"])
    assert drawn(tab, SCENE["pair-dark"]) == seen("pair-dark").svg
    tab.context.close()


def test_every_scene_is_kept_and_shown_in_the_readme() -> None:
    assert [path.name for path in STORED] == sorted(f"{name}.svg" for name in SCENE)
    readme = README.read_text()
    for path in STORED:
        assert str(path.relative_to(README.parent)) in readme
    shown = re.findall(r"<img [^>]*>", readme)
    assert len(shown) >= 3
    for picture in shown:
        source, said = (re.search(rf'{key}="([^"]+)"', picture) for key in ("src", "alt"))
        assert source is not None
        assert (README.parent / source[1]).is_file()
        assert said is not None, f"{picture} says nothing to who cannot see it"


@pytest.mark.parametrize("path", STORED, ids=lambda path: path.stem)
def test_a_kept_picture_is_small_and_refers_to_nothing_outside_itself(path: Path) -> None:
    content = path.read_text()
    assert len(content.encode()) <= 60_000
    root = ElementTree.fromstring(content)
    known = {"svg", "title", "style", "defs", "clipPath", "filter", "feGaussianBlur", "g", "rect", "path", "circle"}
    assert {one.tag.removeprefix(NAMESPACE) for one in root.iter()} <= known | {"line", "text"}
    for one in root.iter():
        for name, value in one.attrib.items():
            assert not name.startswith("on")
            assert "href" not in name
            assert not re.search(r"url\((?!#)|:", value), f"{name}={value}"
    style = root.findtext(f"{NAMESPACE}style") or ""
    assert "@" not in style
    assert "url(" not in style
    assert content.count("http") == 1, "the namespace alone"
