"""Tokens told from characters are as near to real tokenizers as it is said, and the upper end is one."""

from __future__ import annotations

import csv
import json
import re
import string
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops.serve.routing.length import at_most, estimated, parts
from tests.conftest import REPOSITORY

DATA = REPOSITORY.parent / "shared" / "data"
Count = Callable[[str], int]

# The first article of the Universal Declaration of Human Rights, as the United Nations publish it.
RIGHTS = {
    "de": "Alle Menschen sind frei und gleich an Würde und Rechten geboren. Sie sind mit Vernunft und Gewissen begabt "
    "und sollen einander im Geist der Brüderlichkeit begegnen.",
    "fr": "Tous les êtres humains naissent libres et égaux en dignité et en droits. Ils sont doués de raison et de "
    "conscience et doivent agir les uns envers les autres dans un esprit de fraternité.",
    "pl": "Wszyscy ludzie rodzą się wolni i równi pod względem swej godności i swych praw. Są oni obdarzeni rozumem i "
    "sumieniem i powinni postępować wobec innych w duchu braterstwa.",
    "ru": "Все люди рождаются свободными и равными в своем достоинстве и правах. Они наделены разумом и совестью и "
    "должны поступать в отношении друг друга в духе братства.",
    "el": "Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι στην αξιοπρέπεια και τα δικαιώματα. Είναι προικισμένοι με "
    "λογική και συνείδηση, και οφείλουν να συμπεριφέρονται μεταξύ τους με πνεύμα αδελφοσύνης.",
    "zh": "人人生而自由,在尊严和权利上一律平等。他们赋有理性和良心,并应以兄弟关系的精神相对待。",
    "ja": "すべての人間は、生れながらにして自由であり、かつ、尊厳と権利とについて平等である。"
    "人間は、理性と良心とを授けられており、互いに同胞の精神をもって行動しなければならない。",
    "hi": "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और समानता प्राप्त है। उन्हें बुद्धि और अन्तरात्मा "
    "की देन प्राप्त है और परस्पर उन्हें भाईचारे के भाव से बर्ताव करना चाहिए।",
}


@pytest.fixture(scope="module")
def tokenizers() -> list[Count]:
    """Mistral v3 and Tekken, whose files the package that vLLM installs brings along."""
    mistral = pytest.importorskip("mistral_common", reason="vLLM's tokenizers of Mistral are not installed")
    from mistral_common.tokens.tokenizers.sentencepiece import SentencePieceTokenizer
    from mistral_common.tokens.tokenizers.tekken import Tekkenizer

    folder = Path(mistral.__file__).parent / "data"
    small = SentencePieceTokenizer(str(folder / "mistral_instruct_tokenizer_240323.model.v3"))
    large = Tekkenizer.from_file(folder / "tekken_240911.json")
    return [lambda text, one=one: len(one.encode(text, False, False)) for one in (small, large)]  # type: ignore[misc]


def english() -> list[str]:
    """Texts by hand and by people: our own sources, and public data where it lies beside the repository."""
    found = [path.read_text()[:3000] for path in sorted((REPOSITORY / "llmops").rglob("*.py"))[::6]]
    if (DATA / "routing").is_dir():
        with (DATA / "routing" / "gsm8k_responses.csv").open(newline="", encoding="utf-8") as file:
            found += [cell for row in list(csv.reader(file))[1::40] for cell in (row[0], row[4])]
        rows = json.loads((DATA / "pandalm" / "testset-v1.json").read_text())
        found += [f"{row['instruction']}\n{row['response1']}" for row in rows[::20]]
    return [text for text in found if len(text) > 40]


def test_english_and_code_are_as_near_as_said(tokenizers: list[Count]) -> None:
    texts = english()
    for count in tokenizers:
        true = np.asarray([count(text) for text in texts])
        off = np.asarray([estimated(text) for text in texts]) / true - 1
        assert np.abs(off).mean() <= 0.10
        assert (np.abs(off) <= 0.25).mean() >= 0.95
        assert (np.asarray([at_most(text) for text in texts]) >= true).mean() >= 0.98


@pytest.mark.parametrize("language", RIGHTS)
def test_the_upper_end_holds_in_other_languages(tokenizers: list[Count], language: str) -> None:
    text = RIGHTS[language]
    true = [count(text) for count in tokenizers]
    assert max(true) <= at_most(text)
    assert at_most(text) <= 6 * min(true)
    assert 0.4 * max(true) <= estimated(text) <= 2.5 * min(true)


def slowly(text: str) -> list[int]:
    """The same parts by a loop over characters."""
    sizes = [len(character.encode("utf-8", "replace")) for character in text]
    blanks = sum(one in " \t\v\f" for one in text) + sum("\x1c" <= one <= "\x1f" for one in text)
    return [
        len(re.split(r"\s+", text.strip())) if text.strip() else 0,
        sum(one in string.ascii_letters for one in text),
        sum(one in string.digits for one in text),
        sum(size == 1 for size in sizes)
        - sum(one in string.ascii_letters + string.digits + "\n\r" for one in text)
        - blanks,
        max(0, blanks - len(text.split())),
        sum(one in "\n\r" for one in text),
        *(sum(size == wide for size in sizes) for wide in (2, 3, 4)),
    ]


@given(st.text(alphabet=st.characters(exclude_categories=["Cs", "Zs", "Zl", "Zp", "Cc"]) | st.sampled_from(" \n\t")))
def test_parts_are_those_of_a_loop(text: str) -> None:
    assert list(parts(text)) == slowly(text)


@given(st.text())
def test_the_upper_end_is_above_the_estimate(text: str) -> None:
    assert 0 <= estimated(text) <= at_most(text)


def test_nothing_is_no_token() -> None:
    assert estimated("") == at_most("") == 0
