"""The lock of the gateway's image: of requirements/cpu.txt, what the core, the gateway and PostgreSQL need.

`python -m tests.gateway_lock` writes requirements/gateway.txt; tests/test_image.py holds it equal to that.
"""

from __future__ import annotations

import tomllib
from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
FILE = ROOT / "requirements" / "gateway.txt"
EXTRAS = ("gateway", "postgresql")
_HEAD = """\
# The gateway's image: the closure of the core and the extras gateway and postgresql, at the versions of cpu.txt.
# Made by `python -m tests.gateway_lock`; install with --no-deps.
"""


def closure() -> dict[str, str]:
    """Names (canonical) of all that is needed, with the names cpu.txt gives them and their versions."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = (ROOT / "requirements" / "cpu.txt").read_text().splitlines()
    pins = {canonicalize_name(line.split("==")[0]): line for line in lines if line and not line.startswith("#")}
    waiting = [
        Requirement(line)
        for line in [
            *project["dependencies"],
            *(line for extra in EXTRAS for line in project["optional-dependencies"][extra]),
        ]
    ]
    found: dict[str, str] = {}
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        one = waiting.pop()
        name, extras = canonicalize_name(one.name), frozenset(one.extras)
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        found[name] = pins[name]
        for line in distribution(name).requires or []:
            needed = Requirement(line)
            if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in {"", *extras}):
                waiting.append(needed)
    return dict(sorted(found.items()))


def text() -> str:
    """What requirements/gateway.txt should hold."""
    return _HEAD + "".join(f"{line}\n" for line in sorted(closure().values(), key=str.lower))


if __name__ == "__main__":
    FILE.write_text(text())
