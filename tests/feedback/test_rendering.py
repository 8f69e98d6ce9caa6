"""Texts as HTML: Markdown as it is meant, nothing that acts, positions that can be counted, and never slow."""

from __future__ import annotations

import html
import re
import time
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmops.feedback.rendering import LONGEST, raw, rendered
from tests.patience import once_in_three

ALLOWED = set(
    "p div span h3 h4 h5 h6 ul ol li blockquote pre code em strong s table thead tbody tr th td br hr math".split()  # noqa: SIM905
)


class Read(HTMLParser):
    """Elements with their attributes, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(str(text))
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def as_written(shown: str) -> str:
    """The text back from its raw view, as the page's script counts it."""
    back = re.sub(r'<span class="unseen" dir="ltr">U\+([0-9A-F]+)</span>', lambda m: chr(int(m[1], 16)), shown)
    return html.unescape(back)


@given(st.text())
def test_the_raw_view_holds_every_character(text: str) -> None:
    shown = raw(text)
    kept = re.sub("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]", "\ufffd", text)
    assert as_written(shown) == kept
    assert {tag for tag, _ in Read(shown).elements} <= {"span"}


@settings(max_examples=200)
@given(st.text(alphabet=st.sampled_from(list("<>&\"'`*_[]()!#|$\\:/-=+~ \n\tab1{}^jx\u202e")), max_size=120))
def test_rendered_text_has_known_elements_and_attributes_alone(text: str) -> None:
    for tag, attributes in Read(rendered(text)).elements:
        assert tag in ALLOWED or tag.startswith("m")
        assert not {name for name in attributes if name.startswith("on")} | ({"style", "href", "src"} & set(attributes))


def test_markdown_is_rendered_as_commonmark_has_it() -> None:
    shown = rendered("# Title\n\nSome *words*, **more**, ~~less~~ and `code`.\n\n1. one\n2. two\n\n> said\n\n---\n")
    assert [tag for tag, _ in Read(shown).elements] == (
        "h3 p em strong s code ol li li blockquote p hr".split()  # noqa: SIM905
    )


def test_each_block_finds_its_own_direction() -> None:
    shown = rendered("שלום\n\nhello\n\n| א |\n|:--|\n| b |\n\n- ج\n\n```\nx\n```")
    found = Read(shown).elements
    assert all(attributes.get("dir") == "auto" for tag, attributes in found if tag in ("p", "li", "th", "td"))
    assert next(attributes for tag, attributes in found if tag == "pre")["dir"] == "ltr"


def test_links_and_images_show_where_they_point_and_lead_nowhere() -> None:
    shown = Read(rendered('[words](https://e.org/a?b=1&c "title") ![alt *text*](http://e.org/i.png) <https://e.org/x>'))
    assert shown.text.strip() == (
        'words (https://e.org/a?b=1&c "title") Image: alt *text* (http://e.org/i.png) https://e.org/x'
    )
    assert not {"a", "img"} & {tag for tag, _ in shown.elements}


def test_code_is_coloured_by_classes_and_stays_as_it_is() -> None:
    shown = rendered('```python\ndef f():\n    return "<b>"\n```')
    assert '<span class="t-k">def</span>' in shown
    assert Read(shown).text.strip() == 'def f():\n    return "<b>"'
    assert "<span" not in rendered("```nosuchlanguage\nx = 1\n```")


@pytest.mark.parametrize("sign", "\u202a\u202e\u2066\u2069\u200e\u200f\u061c\u200b\ufeff\U000e0041")
def test_signs_that_turn_text_or_cannot_be_seen_are_written_out(sign: str) -> None:
    for shown in (rendered(f"a{sign}b"), rendered(f"`a{sign}b`"), rendered(f"$a{sign}b$"), raw(f"a{sign}b")):
        assert sign not in shown
        assert f"U+{ord(sign):04X}" in shown


def test_joiners_of_persian_and_emoji_stay() -> None:
    assert "می\u200cخواهم" in rendered("می\u200cخواهم")
    assert "👩\u200d🚀" in rendered("👩\u200d🚀")


def test_a_text_over_the_limit_is_shown_as_it_was_written() -> None:
    assert "<em>" in rendered("*a*" + " b" * (LONGEST // 2 - 2))
    shown = rendered("*a*" + " b" * (LONGEST // 2))
    assert "<em>" not in shown
    assert "for its length" in shown


@pytest.mark.parametrize("piece", ["[", "[a](", "*a **b ", "_a*", ">", "- a\n", "a|", "$a ", "\\(", "`a``"])
@once_in_three
def test_time_grows_as_the_text_does(piece: str) -> None:
    """Four times the text takes about four times as long; sixteen times would let one answer hold up the service."""

    def seconds(length: int, number: int) -> float:
        text = f"{number} {piece * length}"[:length]  # one that is known already takes no time
        begun = time.process_time()
        rendered(text)
        return time.process_time() - begun

    quarter, whole = [], []
    for number in range(2):
        quarter.append(seconds(LONGEST // 4, number))
        whole.append(seconds(LONGEST, number))
    assert min(whole) <= 9 * max(min(quarter), 0.01)


def test_depth_is_cut_off() -> None:
    shown = rendered(">" * 500 + " x")
    assert shown.count("<blockquote") <= 41
    assert rendered("\n".join("  " * n + "- x" for n in range(300))).count("<ul>") <= 41
