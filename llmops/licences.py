"""Licences by their SPDX ids: written ones checked, those of a model's folder read; nothing is guessed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from llmops.errors import nearest

OWN = "Apache-2.0"
"""Of the embedded bases and domains, which are part of this project."""
_REFERENCE = re.compile(r"LicenseRef-[A-Za-z0-9.-]+")
_LOOKED_AT = 4_000  # letters: a licence says what it is at its start, and may quote others further down
_UNKNOWN = {"", "unknown", "none", "noassertion", "other"}

# The first lines of a licence's text and what else it must hold, to tell versions apart. In this order.
_TEXTS = (
    ("Apache-2.0", ("apache license version 2.0, january 2004",)),
    ("MIT", ("permission is hereby granted, free of charge", 'the software is provided "as is"')),
    ("BSD-3-Clause", ("redistribution and use in source and binary forms", "neither the name")),
    ("BSD-2-Clause", ("redistribution and use in source and binary forms",)),
    ("CC-BY-SA-4.0", ("attribution-sharealike 4.0 international",)),
    ("CC-BY-NC-SA-4.0", ("attribution-noncommercial-sharealike 4.0 international",)),
    ("CC-BY-NC-4.0", ("attribution-noncommercial 4.0 international",)),
    ("CC-BY-4.0", ("attribution 4.0 international",)),
    ("CC0-1.0", ("cc0 1.0 universal",)),
    ("LicenseRef-llama3.3", ("llama 3.3 community license agreement",)),
    ("LicenseRef-llama3.2", ("llama 3.2 community license agreement",)),
    ("LicenseRef-llama3.1", ("llama 3.1 community license agreement",)),
    ("LicenseRef-llama3", ("meta llama 3 community license agreement",)),
    ("LicenseRef-llama2", ("llama 2 community license agreement",)),
    ("LicenseRef-gemma", ("gemma terms of use",)),
)


def spdx(written: str) -> str:
    """A licence as SPDX spells it: an id, ids joined by AND, OR and WITH, or `LicenseRef-` and a name of one's own.

    Raises:
        ValueError: SPDX knows no such id; the nearest is named.
    """
    from boolean.boolean import ParseError
    from license_expression import ExpressionError, LicenseSymbol, Licensing, get_spdx_licensing

    licensing = get_spdx_licensing()
    known = set(licensing.known_symbols)
    own = sorted(set(_REFERENCE.findall(written)) - known)
    # Names of one's own are valid SPDX, but in no list: others stand in for them while the rest is checked.
    stood_in = written
    for place, name in enumerate(own):
        stood_in = re.sub(rf"{re.escape(name)}(?![A-Za-z0-9.-])", f"LicenseRef-scancode-own{place}", stood_in)
    stand_ins = {f"LicenseRef-scancode-own{place}": name for place, name in enumerate(own)}
    if stand_ins:
        licensing = Licensing([*licensing.known_symbols.values(), *map(LicenseSymbol, stand_ins)])
    try:
        parsed = licensing.parse(stood_in)
        strange = licensing.unknown_license_keys(parsed) if parsed is not None else [written]
    except (ExpressionError, ParseError):
        strange = [written]
    if strange:
        raise ValueError(
            f"{written!r} is no SPDX licence id{nearest(str(strange[0]), known)}; "
            "rows of your own, or under a contract, are LicenseRef-NAME"
        )
    normal = str(parsed)
    for stand_in, name in stand_ins.items():
        normal = re.sub(rf"{re.escape(stand_in)}(?![0-9])", name, normal)
    return normal


def of_card(metadata: dict[str, Any]) -> str | None:
    """The licence that a model card's metadata states; None where it states none, or one that nobody can look up.

    The hub's own names that SPDX does not have (`llama3.1`, `gemma`) become `LicenseRef-` names.
    """
    stated = metadata.get("license")
    names = [str(one or "").strip() for one in (stated if isinstance(stated, list) else [stated])]
    names = [str(metadata.get("license_name") or "") if one.lower() == "other" else one for one in names]
    if not names or any(one.strip().lower() in _UNKNOWN for one in names):
        return None
    name = " AND ".join(names)
    try:
        return spdx(name)
    except ValueError:
        return "LicenseRef-" + re.sub(r"[^A-Za-z0-9.-]+", "-", name)


def of_text(text: str) -> str | None:
    """The licence whose text this is; None for any other text."""
    plain = re.sub(r"[\s=*#–—-]+", " ", text).lower()
    for name, phrases in _TEXTS:
        if all(re.sub(r"[\s-]+", " ", phrase) in plain for phrase in phrases):
            return name
    return None


def of_folder(folder: Path) -> tuple[str | None, str]:
    """The licence of a model's folder, and where it is stated: in its README.md or its licence file."""
    card = folder / "README.md"
    if card.is_file() and (found := of_card(front_matter(card.read_text(encoding="utf-8", errors="replace")))):
        return found, "its model card"
    for file in sorted([*folder.glob("LICEN[SC]E*"), *folder.glob("licen[sc]e*")]):
        if file.is_file() and (found := of_text(file.read_text(encoding="utf-8", errors="replace")[:_LOOKED_AT])):
            return found, f"its {file.name}"
    return None, "nowhere"


def front_matter(card: str) -> dict[str, Any]:
    """The metadata in front of a model card; empty where there is none that can be read."""
    import yaml

    match = re.match(r"\s*---\r?\n(.*?)\r?\n---", card, re.DOTALL)
    try:
        found = yaml.safe_load(match[1]) if match else None
    except (yaml.YAMLError, ValueError, RecursionError):  # a date that is none is a ValueError
        return {}
    return found if isinstance(found, dict) else {}
