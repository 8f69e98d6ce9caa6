"""A page is one file with the report's own numbers, in which whatever a model wrote is text."""

from __future__ import annotations

import html
import json
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rapidfuzz.distance import LCSseq

from llmops.eval.compare import compare
from llmops.eval.comparison_table import row
from llmops.eval.gates import Gate
from llmops.eval.measured import Measured, read
from llmops.eval.pages.comparison_page import comparison_page
from llmops.eval.pages.repeat import command, comparing
from llmops.eval.pages.report_page import report_page
from llmops.eval.report import interval_of, value_of
from llmops.eval.run import written
from llmops.eval.suite import Suite
from llmops.eval.verdict import judge
from llmops.plots import Row, histogram, intervals
from tests.eval.measurements import scored

HOSTILE = "</script><img src=x onerror=\"document.title='run'\"><script>document.title='run'</script>\u2028<!--"


def report_of(values: Sequence[float], folder: Path, *, model: str = "m", answers: Sequence[str] = ()) -> Measured:
    """A report as its file holds it, with slices and answers."""
    slices = [{"half": "even" if place % 2 == 0 else "odd"} for place in range(len(values))]
    made = scored(values, model=model, slices=slices)
    items = [replace(item, answer=text) for item, text in zip(made.items, answers, strict=False)]
    file = written(replace(made, items=(*items, *made.items[len(items) :])), folder).file
    assert file is not None
    return read(file)


class Reader(HTMLParser):
    """Names of the elements of a page, the texts of its answers, and its data block."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[str] = []
        self.texts: list[str] = []
        self.cells: list[str] = []
        self.data = ""
        self.inside = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        given = dict(attrs)
        self.inside = "data" if given.get("id") == "data" else f"p.{given.get('class')}" if tag == "p" else tag
        if self.inside == "p.text":
            self.texts.append("")
        elif tag == "td":
            self.cells.append("")

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside == "data":
            self.data += data
        elif self.inside == "p.text":
            self.texts[-1] += data
        elif self.inside == "td":
            self.cells[-1] += data


def read_page(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    reader.close()
    return reader


@given(st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), min_size=1) | st.just(HOSTILE))
def test_any_text_is_text_on_the_page_and_no_markup(text: str) -> None:
    made = scored([0.5, 0.25])
    item = replace(made.items[0], answer=text, references=(text,), messages=({"role": "user", "content": text},))
    plain = read_page(report_page(made))
    found = read_page(report_page(replace(made, items=(item, made.items[1]))))
    # A text of spaces is marked as empty.
    assert [one for one in found.elements if one != "span"] == plain.elements
    assert found.texts[:3] == [text] * 3
    first = json.loads(found.data)["items"][0]
    assert (first["prompt"], first["references"], first["answers"]) == (text, [text], [text])


def test_half_a_surrogate_pair_and_nul_can_be_written() -> None:
    made = scored([0.5])
    page = report_page(replace(made, items=(replace(made.items[0], answer="a\ud800b\x00c"),)))
    assert "a\ufffdb\ufffdc" in page.encode("utf-8").decode()


def test_the_tables_hold_the_numbers_of_the_report_and_of_the_comparison(tmp_path: Path) -> None:
    one = report_of([0.25, 0.5, 0.75, 0.5], tmp_path)
    two = report_of([0.5, 0.5, 1.0, 0.75], tmp_path, model="n")
    cells = read_page(report_page(one)).cells
    assert cells[:2] == [value_of(one.scores[0]), interval_of(one.scores[0])]
    assert "0.5000" in cells
    found = compare(one, two)
    cells = read_page(comparison_page(found)).cells
    assert cells[: 9 * 3] == [cell for one in found.differences for cell in row(one)[1:]]


def test_points_and_intervals_of_a_plot_lie_where_the_axis_says() -> None:
    rows = [Row("a", 0.5, 0.25, 0.875, "", "better"), Row("b", -1.5, None, float("inf"), "")]
    svg = next(ElementTree.fromstring(intervals(rows, title="t", axis="x", zero=True, margins=[-0.5])).iter("svg"))
    ticks = {
        float(one.attrib["data-tick"]): float(one.attrib["x"]) for one in svg.iter("text") if "data-tick" in one.attrib
    }
    (low, left), *_, (high, right) = sorted(ticks.items())

    def value(x: str) -> float:
        return low + (float(x) - left) / (right - left) * (high - low)

    assert [value(one.attrib["cx"]) for one in svg.iter("circle")] == pytest.approx([0.5, -1.5], abs=1e-4)
    ends = [one.attrib for one in svg.iter("line") if one.attrib["class"] == "interval"]
    assert [value(ends[0]["x1"]), value(ends[0]["x2"])] == pytest.approx([0.25, 0.875], abs=1e-4)
    assert [value(ends[1]["x1"]), value(ends[1]["x2"])] == pytest.approx([low, high], abs=1e-4)  # open: to the edges
    for kind, wanted in (("zero", 0.0), ("margin", -0.5)):
        assert [value(one.attrib["x1"]) for one in svg.iter("line") if one.attrib["class"] == kind] == pytest.approx(
            [wanted], abs=1e-4
        )


def test_a_gates_margin_is_drawn_in_the_plot_of_its_metric(tmp_path: Path) -> None:
    one = report_of([0.25, 0.5, 0.75, 0.5], tmp_path)
    two = report_of([0.5, 0.5, 1.0, 0.75], tmp_path, model="n")
    gate = Gate.model_validate(
        {
            "against": "champion",
            "rules": [
                {"suite": "s", "metric": "rougeL", "no_worse_by": 0.125},
                {"suite": "s", "metric": "rougeL", "at_least": 0.25},
            ],
        }
    )
    verdict = judge(gate, {"s": two}, {"s": one}, name="g", against="m")
    page = comparison_page(compare(one, two), verdict)
    assert page.count('class="margin"') == 1
    assert "margin -0.125" in page
    assert f"{verdict.result} by g against m" in page


def test_bars_of_a_histogram_count_every_item() -> None:
    svg = ElementTree.fromstring(histogram([0.0, 0.1, 0.1, 0.9, float("nan")], title="t", axis="x"))
    bars = [one.attrib for one in svg.iter("rect")]
    assert sum(int(one["data-count"]) for one in bars) == 4
    assert [float(one["height"]) for one in bars] == pytest.approx([138, 46])  # 3 items and 1 in a field 138 high


# In a browser


@pytest.fixture
def opened(chromium: Any, tmp_path: Path) -> Iterator[Callable[[str], Any]]:
    """Opens a page from a file; at the end it must have asked for nothing else, and have had no error."""
    requests: list[str] = []
    errors: list[str] = []
    tab = chromium.new_page(viewport={"width": 390, "height": 800})
    tab.set_default_timeout(120_000)
    tab.on("request", lambda request: requests.append(request.url))
    tab.on("console", lambda message: errors.append(message.text))
    tab.on("pageerror", lambda error: errors.append(str(error)))
    file = tmp_path / "page.html"

    def show(page: str) -> Any:
        file.write_text(page, encoding="utf-8")
        tab.goto(file.as_uri())
        return tab

    yield show
    tab.close()
    assert set(requests) <= {file.as_uri()}
    assert not errors


def expect_count(tab: Any, count: int) -> None:
    """Waits until so many items are shown; the page's policy forbids to wait by a script given as text."""
    from playwright.sync_api import expect

    expect(tab.locator("#items > li")).to_have_count(count, timeout=60_000)


def test_what_a_model_wrote_is_never_run(opened: Callable[[str], Any], tmp_path: Path) -> None:
    one = report_of([0.5, 1.0], tmp_path, model=HOSTILE, answers=[HOSTILE, "x"])
    two = report_of([0.5, 0.5], tmp_path, model="n", answers=["y " + HOSTILE, "x"])
    for page in (report_page(one), comparison_page(compare(one, two))):
        tab = opened(page)
        assert tab.title() != "run"
        assert tab.locator("img").count() == 0
        assert HOSTILE.replace("\u2028", "") in tab.locator("#items").text_content().replace("\u2028", "")


def test_items_are_sorted_searched_and_filtered(opened: Callable[[str], Any], tmp_path: Path) -> None:
    answers = ["red one", "blue two", "", "word " * 40, "red five"]
    tab = opened(report_page(report_of([0.5, 0.1, 0.0, 0.3, 0.9], tmp_path, answers=answers)))

    def ids() -> list[str]:
        return [text.split()[0] for text in tab.locator("#items .meta").all_text_contents()]

    assert ids() == [f"{place:06}" for place in range(5)]
    tab.select_option("#sort", "high 0")
    assert ids() == ["000004", "000000", "000003", "000001", "000002"]
    tab.fill("#search", "RED")
    expect_count(tab, 2)
    assert ids() == ["000004", "000000"]
    tab.fill("#search", "")
    expect_count(tab, 5)
    for problem, wanted in (("empty", ["000002"]), ("repeated", ["000003"]), ("truncated", [])):
        tab.select_option("#problem", problem)
        assert ids() == wanted
    tab.select_option("#problem", "")
    tab.select_option("#slice", "half=odd")
    assert ids() == ["000003", "000001"]
    assert tab.evaluate("document.documentElement.scrollWidth") == 390


def test_words_that_differ_between_two_answers_are_marked(opened: Callable[[str], Any], tmp_path: Path) -> None:
    one = report_of([0.5, 1.0], tmp_path, answers=["a cheap old pub", "same"])
    two = report_of([1.0, 1.0], tmp_path, model="n", answers=["a cheap new pub", "same"])
    tab = opened(comparison_page(compare(one, two)))
    assert tab.locator("del").all_text_contents() == ["old"]
    assert tab.locator("ins").all_text_contents() == ["new"]


def test_of_ten_thousand_items_fifty_are_drawn_and_all_are_searched(opened: Callable[[str], Any]) -> None:
    small, large = (scored([place % 101 / 100 for place in range(number)]) for number in (101, 10_000))
    everything = "document.querySelectorAll('*').length"
    elements = opened(report_page(small)).evaluate(everything)
    tab = opened(report_page(large))
    assert tab.locator("#items > li").count() == 50
    assert tab.evaluate(everything) == pytest.approx(elements, rel=0.1)
    tab.fill("#search", "question 009999")
    expect_count(tab, 1)
    tab.fill("#search", "")
    tab.get_by_role("button", name="Next").click()
    assert tab.locator("#items .meta").first.text_content().startswith(("000050", "009999"))


@pytest.mark.benchmark
def test_ten_thousand_items_open_and_are_searched_at_once(opened: Callable[[str], Any]) -> None:
    page = report_page(scored([place % 101 / 100 for place in range(10_000)]))
    start = time.monotonic()
    tab = opened(page)
    assert tab.locator("#items > li").count() == 50
    assert time.monotonic() - start < 3
    start = time.monotonic()
    tab.fill("#search", "question 009999")
    expect_count(tab, 1)
    assert time.monotonic() - start < 2


def test_without_its_script_a_page_still_shows_scores_plots_and_items(chromium: Any, tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    file.write_text(report_page(report_of([0.5, 1.0, 0.25], tmp_path, answers=["first answer"])), encoding="utf-8")
    tab = chromium.new_page(java_script_enabled=False)
    tab.goto(file.as_uri())
    assert tab.get_by_text("first answer").is_visible()
    assert tab.locator("svg").count() == 2
    assert tab.get_by_role("table", name="Scores on s").is_visible()
    assert not tab.locator("#controls").is_visible()
    tab.close()


def test_a_notebook_shows_a_report_in_a_frame_of_its_own(opened: Callable[[str], Any], tmp_path: Path) -> None:
    shown = report_of([0.5, 1.0], tmp_path)._repr_html_()
    assert shown.startswith("<iframe")
    assert read_page(shown).elements == ["iframe"]
    frame = opened(f'<!doctype html><meta charset="utf-8">{shown}').frame_locator("iframe")
    assert frame.locator("#count").text_content() == "2 of 2 items"


def test_earlier_turns_and_further_references_are_there_once_and_folded(
    opened: Callable[[str], Any], tmp_path: Path
) -> None:
    made = scored([0.5, 1.0, 0.25])
    shown = ({"role": "system", "content": "be kind"}, {"role": "user", "content": "hello"})
    items = [
        replace(item, messages=(*shown, {"role": "user", "content": f"ask {item.id}"}), references=("good", "kind"))
        for item in made.items
    ]
    page = report_page(replace(made, items=tuple(items)))
    data = json.loads(read_page(page).data)
    assert data["contexts"] == [[["system", "be kind"], ["user", "hello"]]]
    assert [item["context"] for item in data["items"]] == [0, 0, 0]
    tab = opened(page)
    folded = tab.locator("article").first.get_by_text("be kind")
    assert not folded.is_visible()
    tab.locator("summary").first.press("Enter")
    assert folded.is_visible()
    assert tab.locator("summary").all_text_contents()[:2] == ["2 earlier turns", "1 more reference"]


def test_neighbouring_words_are_one_mark_and_marks_can_be_switched_off(
    opened: Callable[[str], Any], tmp_path: Path
) -> None:
    answers = ["a cheap old pub by the river", "the same"], ["a cheap  new quiet bar by the river ", "the  same"]
    one, two = (
        report_of([0.5, 1.0], tmp_path, model=name, answers=texts) for name, texts in zip("mn", answers, strict=True)
    )
    tab = opened(comparison_page(compare(one, two)))
    # Spaces alone are no difference.
    assert tab.locator("del").all_text_contents() == ["old pub"]
    assert tab.locator("ins").all_text_contents() == ["new quiet bar"]
    assert answers[1][0] in tab.locator(".text").all_text_contents()
    tab.locator("#mark").uncheck()
    assert tab.locator("ins, del").count() == 0
    assert answers[1][0] in tab.locator(".text").all_text_contents()


def test_the_smallest_set_of_words_is_marked(opened: Callable[[str], Any], tmp_path: Path) -> None:
    """As many words stay unmarked as the longest common subsequence has, which rapidfuzz finds in its own way."""
    draw = np.random.default_rng(7)
    first, second = ([" ".join(draw.choice(list("abcdef"), 30)) for _ in range(12)] for _ in range(2))
    one, two = (
        report_of([0.5] * 12, tmp_path, model=name, answers=texts) for name, texts in (("m", first), ("n", second))
    )
    tab = opened(comparison_page(compare(one, two)))
    for place, (left, right) in enumerate(zip(first, second, strict=True)):
        card = tab.locator("article").nth(place)
        kept = len(left.split()) - sum(len(text.split()) for text in card.locator("del").all_text_contents())
        assert kept == LCSseq.similarity(left.split(), right.split())
        assert kept == len(right.split()) - sum(len(text.split()) for text in card.locator("ins").all_text_contents())


def test_answers_are_sorted_by_how_much_they_changed(opened: Callable[[str], Any], tmp_path: Path) -> None:
    one = report_of([0.5, 0.5, 0.5], tmp_path)
    two = report_of([0.25, 1.0, 0.5], tmp_path, model="n")
    tab = opened(comparison_page(compare(one, two)))
    for order, wanted in (("low 0", ["000000", "000002", "000001"]), ("high 0", ["000001", "000002", "000000"])):
        tab.select_option("#sort", order)
        assert [text.split()[0] for text in tab.locator("#items .meta").all_text_contents()] == wanted


def test_numbers_of_items_have_the_digits_of_their_metric(tmp_path: Path) -> None:
    page = report_page(report_of([0.5, 1 / 3], tmp_path))
    assert '<p class="note">rougeL 0.3333</p>' in page
    assert '<p class="note">rougeL 0.5000</p>' in page


def test_every_control_is_reached_by_keyboard_and_shows_it(opened: Callable[[str], Any], tmp_path: Path) -> None:
    tab = opened(report_page(report_of([0.5, 1.0], tmp_path)))
    seen = set()
    for _ in range(8):
        tab.keyboard.press("Tab")
        focused = tab.locator(":focus")
        seen.add(focused.get_attribute("id") or focused.get_attribute("class"))
        width = focused.evaluate("one => getComputedStyle(one).outlineWidth")
        assert float(width.removesuffix("px")) >= 2
    assert {"skip", "search", "sort", "slice", "problem", "mark", "scroll"} <= seen


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_ground_as_wcag_asks(scheme: str) -> None:
    """Contrast by the formula of WCAG 2, at least 4.5 for text (AA)."""
    style = files("llmops.eval.pages").joinpath("page.css").read_text()
    light, dark = (dict(re.findall(r"--(\w+): (#\w{6})", part)) for part in style.split(":root {")[1:3])
    colours = light if scheme == "light" else dark

    def luminance(colour: str) -> float:
        parts = [int(colours[colour][at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for ground in ("paper", "card"):
        for ink in ("ink", "quiet", "mark", "good", "bad"):
            bright, dim = sorted((luminance(ground), luminance(ink)), reverse=True)
            assert (bright + 0.05) / (dim + 0.05) >= 4.5, (ground, ink)
    for ground in ("more", "less"):
        bright, dim = sorted((luminance(ground), luminance("ink")), reverse=True)
        assert (bright + 0.05) / (dim + 0.05) >= 4.5, ground


def test_the_settings_on_a_page_are_a_suite_as_they_stand(tmp_path: Path) -> None:
    rows = tmp_path / "rows.csv"
    rows.write_text("q,a\none,two\n")
    suite = Suite.model_validate(
        {
            "name": "s",
            "items": {"source": str(rows), "prompt": "{q}", "references": "{a}"},
            "scorers": [{"bleu": {"lowercase": True}}, {"exact_match": {}}],
        }
    )
    settings = {**suite.model_dump(mode="json"), "scorers": [one.resolved() for one in suite.scorers]}
    made = scored([0.5])
    shown = re.findall("<pre>(.*?)</pre>", report_page(replace(made, suite={**made.suite, "settings": settings})), re.S)
    assert Suite.model_validate(json.loads(html.unescape(shown[-1]))) == suite


@pytest.mark.parametrize(
    ("engine", "wanted"),
    [
        ({"name": "transformers"}, "llmops eval 'a model' eval/suites/s.yaml --limit 5"),
        ({"name": "vllm"}, "llmops eval 'a model' eval/suites/s.yaml --engine vllm --limit 5"),
        (
            {"name": "endpoint", "url": "http://host:1/v1"},
            "llmops eval 'a model' eval/suites/s.yaml --endpoint http://host:1/v1 --limit 5",
        ),
        ({"name": "recorded"}, "llmops eval 'a model' eval/suites/s.yaml --answers FILE.jsonl --limit 5"),
    ],
)
def test_the_command_names_model_suite_engine_and_limit(engine: dict[str, str], wanted: str) -> None:
    made = scored([0.5], model="a model")
    suite = {**made.suite, "settings": {"items": {"limit": 5}}}
    assert command(replace(made, engine=engine, suite=suite)) == wanted


def test_a_comparisons_command_names_both_files_and_the_confidence(tmp_path: Path) -> None:
    one, two = report_of([0.5, 1.0], tmp_path), report_of([1.0, 1.0], tmp_path, model="n")
    found = compare(one, two, confidence=0.9)
    assert comparing(found) == f"llmops compare {one.file} {two.file} --confidence 0.9"
    assert comparing(found) in html.unescape(comparison_page(found))
