"""A licence is an SPDX id that exists, as written or as a model's folder states it; nothing is guessed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops.licences import OWN, front_matter, of_card, of_folder, of_text, spdx

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("written", "normal"),
    [
        ("Apache-2.0", "Apache-2.0"),
        ("cc-by-sa-4.0", "CC-BY-SA-4.0"),
        ("MIT or Apache-2.0", "MIT OR Apache-2.0"),
        ("GPL-2.0-only WITH Classpath-exception-2.0", "GPL-2.0-only WITH Classpath-exception-2.0"),
        ("LicenseRef-own", "LicenseRef-own"),
        ("LicenseRef-a AND (LicenseRef-ab OR MIT)", "LicenseRef-a AND (LicenseRef-ab OR MIT)"),
    ],
)
def test_ids_and_expressions_are_brought_to_their_own_spelling(written: str, normal: str) -> None:
    assert spdx(written) == normal
    assert spdx(normal) == normal


@pytest.mark.parametrize("written", ["", " ", "free", "CC BY SA 4.0", "NOASSERTION", "MIT AND", "LicenseRef-", "a b"])
def test_what_spdx_does_not_know_is_refused(written: str) -> None:
    with pytest.raises(ValueError, match="no SPDX licence id"):
        spdx(written)


def test_the_nearest_id_is_named() -> None:
    with pytest.raises(ValueError, match=r"did you mean `CC-BY-SA-4\.0`"):
        spdx("CC BY SA 4.0")


@pytest.mark.parametrize(
    ("metadata", "licence"),
    [
        ({"license": "apache-2.0"}, "Apache-2.0"),
        ({"license": "llama3.1"}, "LicenseRef-llama3.1"),
        ({"license": "other", "license_name": "my terms"}, "LicenseRef-my-terms"),
        ({"license": ["mit", "apache-2.0"]}, "MIT AND Apache-2.0"),
        ({"license": "other"}, None),
        ({"license": ["mit", "other"]}, None),
        ({"license": []}, None),
        ({"license": "unknown"}, None),
        ({"license": None}, None),
        ({}, None),
    ],
)
def test_a_model_cards_licence_is_read_as_the_hub_spells_it(metadata: dict[str, Any], licence: str | None) -> None:
    assert of_card(metadata) == licence


def test_our_own_is_that_of_this_project() -> None:
    assert of_text((ROOT / "LICENSE").read_text()) == OWN


def test_a_text_that_only_mentions_a_licence_is_not_that_licence() -> None:
    assert of_text("Some files are under the Apache License, Version 2.0. All rights reserved.") is None
    assert of_text("x" * 5000) is None


def test_a_folders_card_counts_before_its_licence_file(tmp_path: Path) -> None:
    assert of_folder(tmp_path) == (None, "nowhere")
    (tmp_path / "LICENSE").write_text((ROOT / "LICENSE").read_text())
    assert of_folder(tmp_path) == ("Apache-2.0", "its LICENSE")
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n# m\n")
    assert of_folder(tmp_path) == ("MIT", "its model card")
    (tmp_path / "README.md").write_text("---\nlicense: [\n---\n# broken\n")
    assert of_folder(tmp_path) == ("Apache-2.0", "its LICENSE")


def test_a_card_that_no_yaml_reader_takes_states_nothing() -> None:
    assert front_matter("---\nmade: 2001-99-99\n---\n") == {}
    assert front_matter("---\n- a list\n---\n") == {}


@given(st.text())
def test_any_card_can_be_read(text: str) -> None:
    assert isinstance(front_matter(text), dict)
    assert isinstance(front_matter(f"---\n{text}\n---\n"), dict)
