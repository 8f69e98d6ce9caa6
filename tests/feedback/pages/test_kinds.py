"""Each kind of rating is given by keyboard alone, and arrives as it was meant."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import expect

from llmops.rubric import load_rubric
from tests.feedback.pages.hands import on_task, press, ready, stored
from tests.feedback.pages.site import FakeDesk
from tests.feedback.pages.tasks_shown import ANSWERS, CHECKED, RUBRICS, tasks
from tests.patience import wait_until

pytestmark = pytest.mark.xdist_group("rating-page")
Rate = Callable[..., Any]


def test_a_digit_and_enter_give_a_pairwise_rating_and_the_next_task(rate: Rate) -> None:
    desk = FakeDesk(tasks("pairwise", 10))
    _, tab = rate(desk)
    for number, key in enumerate("12345670"):
        on_task(tab, number)
        press(tab, key, "Enter")
    verdicts = [given.verdict for given in stored(desk, 8)]
    assert [verdict.step for verdict in verdicts] == [3, 2, 1, 0, -1, -2, -3, None]
    assert [verdict.both_bad for verdict in verdicts] == [False] * 7 + [True]
    given = stored(desk)[0]
    assert given.viewport == "1280x800"
    assert 0 <= given.active_ms <= given.total_ms < 60_000
    on_task(tab, 8)
    expect(tab.locator("#saved")).to_have_text("Saved")
    expect(tab.locator(".figures")).to_contain_text("8 of 30")


def test_nothing_is_submitted_before_something_is_chosen(rate: Rate) -> None:
    desk = FakeDesk(tasks("pairwise"))
    _, tab = rate(desk)
    press(tab, "Enter")
    expect(tab.locator("#wrong")).to_have_text("Choose an answer first.")
    assert not desk.arrivals


def test_tags_comment_flag_edit_and_a_marked_passage_go_with_the_verdict(rate: Rate) -> None:
    desk = FakeDesk(tasks("pairwise", responses=("The 🍺 pub is\r\ncheap.", "x")))
    _, tab = rate(desk)
    press(tab, "t", "Space", "c")
    tab.keyboard.type("fine 4 me")  # letters and digits in a text are text
    press(tab, "Escape", "f", "ArrowDown")
    press(tab, "Enter")
    expect(tab.locator("#flagged")).to_contain_text("Flagged: Harmful or illegal")
    press(tab, "m")
    expect(tab.locator("#passage-text")).to_be_focused()
    press(tab, "Control+Home")
    press(tab, *["ArrowRight"] * 4, *["Shift+ArrowRight"] * 11)
    tab.keyboard.type("not kept")  # the text of an answer cannot be changed there
    press(tab, "Tab")
    tab.keyboard.type("odd")
    press(tab, "Enter")
    expect(tab.locator(".marks li").first).to_contain_text("odd")
    press(tab, "e", "Control+End")
    tab.keyboard.type(" Truly.")
    press(tab, "Escape", "6", "Enter")
    given = stored(desk)[0]
    assert (given.tags, given.comment, given.flag) == (["wrong facts"], "fine 4 me", "Harmful or illegal")
    span = given.spans[0]
    raw = desk.tasks[0].responses[0]
    assert raw[span.start : span.end] == span.quote == "🍺 pub is\r\nch"
    assert (span.position, span.label) == (0, "odd")
    assert [(edit.position, edit.text) for edit in given.edits] == [(0, "The 🍺 pub is\ncheap. Truly.")]
    assert given.verdict.step == -2


def test_a_skip_has_a_reason(rate: Rate) -> None:
    desk = FakeDesk(tasks("pairwise"))
    _, tab = rate(desk)
    press(tab, "s", "Space", "Tab")
    tab.keyboard.type("too hard")
    press(tab, "Enter")
    on_task(tab, 1)
    assert (stored(desk)[0].skip, stored(desk)[0].verdict) == ("I cannot judge this: too hard", None)


def test_a_task_can_be_left_to_others(rate: Rate) -> None:
    desk = FakeDesk(tasks("pairwise"))
    _, tab = rate(desk)
    press(tab, "s")
    tab.get_by_role("button", name="Leave it to others").press("Enter")
    on_task(tab, 1)
    assert (desk.released, desk.arrivals) == ({"assignment-0"}, [])


def test_each_answer_is_scored_and_the_digits_walk_through_the_questions(rate: Rate) -> None:
    desk = FakeDesk(tasks("rating"))
    _, tab = rate(desk)
    press(tab, "4", "Enter")
    expect(tab.locator("#wrong")).to_have_text("Still open: Response B")
    press(tab, "2", "Enter")
    on_task(tab, 1)
    assert stored(desk)[0].verdict.scores == [4, 2]


def test_attributes_are_answered_with_1_for_yes_and_2_for_no(rate: Rate) -> None:
    desk = FakeDesk(tasks("rating", rubric=CHECKED))
    _, tab = rate(desk)
    press(tab, "1", "2", "2", "1", "Enter")
    assert stored(desk)[0].verdict.scores == [{"true": "yes", "rude": "no"}, {"true": "no", "rude": "yes"}]


def test_several_attributes_are_answered_on_the_same_steps(rate: Rate) -> None:
    desk = FakeDesk(tasks("rating", rubric=load_rubric(RUBRICS / "quality.yaml"), responses=("The pub is cheap.",)))
    _, tab = rate(desk)
    press(tab, "5", "3", "Enter")
    expect(tab.locator("#wrong")).to_have_text("Still open: Response A: Is it easy to follow?")
    press(tab, "1", "Enter")
    on_task(tab, 1)
    assert stored(desk)[0].verdict.scores == [{"correct": 5, "complete": 3, "clear": 1}]
    press(tab, "u")
    on_task(tab, 0)
    press(tab, "4", "Enter")
    assert stored(desk, 2)[1].verdict.scores == [{"correct": 5, "complete": 3, "clear": 4}], "the rest was there"


def test_answers_are_ranked_with_ties_and_unusable_ones(rate: Rate) -> None:
    desk = FakeDesk(tasks("ranking"))
    _, tab = rate(desk)
    press(tab, "3", "ArrowUp", "ArrowUp", "2", "=", "4", "x", "Enter")  # C, A and B level, D unusable
    on_task(tab, 1)
    verdict = stored(desk)[0].verdict
    assert (verdict.groups, verdict.invalid) == ([[2], [0, 1]], [3])
    press(tab, "Enter")
    expect(tab.locator("#wrong")).to_contain_text("Nothing was moved")
    press(tab, "Enter")
    assert stored(desk, 2)[1].verdict.groups == [[0], [1], [2], [3]]


def test_thumbs_are_1_and_2(rate: Rate) -> None:
    desk = FakeDesk(tasks("thumbs"))
    _, tab = rate(desk)
    press(tab, "1", "Enter")
    on_task(tab, 1)
    press(tab, "2", "Enter")
    assert [given.verdict.up for given in stored(desk, 2)] == [True, False]


def test_a_correction_is_the_text_as_it_should_be_or_that_it_is_right(rate: Rate) -> None:
    desk = FakeDesk(tasks("correction"))
    _, tab = rate(desk)
    press(tab, "Enter")
    expect(tab.locator("#wrong")).to_contain_text("Change the answer")
    press(tab, "e", "Control+End", "Backspace")
    tab.keyboard.type(" and 2 stars.")
    press(tab, "Escape", "Enter")
    on_task(tab, 1)
    press(tab, "1", "Enter")
    assert [given.verdict.text for given in stored(desk, 2)] == [ANSWERS[0][:-1] + " and 2 stars.", None]


def test_undo_and_back_replace_what_was_said(rate: Rate) -> None:
    desk = FakeDesk(tasks("pairwise"))
    _, tab = rate(desk)
    press(tab, "1", "Enter")
    on_task(tab, 1)
    press(tab, "u")
    on_task(tab, 0)
    expect(tab.get_by_role("radio", name="A much better")).to_be_checked()
    press(tab, "7", "Enter")
    on_task(tab, 1)
    first, second = stored(desk, 2)
    assert (second.supersedes, second.verdict.step) == (first.id, -3)
    press(tab, "c")
    tab.keyboard.type("not yet given")
    press(tab, "Escape", "Backspace")
    on_task(tab, 0)
    expect(tab.get_by_role("radio", name="B much better")).to_be_checked()
    press(tab, "4", "Enter")
    third = stored(desk, 3)[2]
    assert (third.supersedes, third.verdict.step) == (second.id, 0)
    on_task(tab, 1)
    expect(tab.locator("#comment")).to_have_value("not yet given")


def test_after_a_practice_task_the_right_answer_is_told(rate: Rate) -> None:
    first, *others = tasks("pairwise")
    desk = FakeDesk([*tasks("pairwise", 1, practice=True), *others])
    desk.expected[first.assignment] = {"kind": "pairwise", "step": -1, "both_bad": False}
    _, tab = rate(desk)
    expect(tab.locator(".badge")).to_have_text("Practice")
    press(tab, "1", "Enter")
    expect(tab.locator(".expected .said")).to_have_text("B slightly better")
    press(tab, "Enter")
    on_task(tab, 1)


def test_keys_with_modifiers_in_texts_and_while_composing_do_nothing(rate: Rate) -> None:
    desk = FakeDesk(tasks("pairwise"))
    _, tab = rate(desk)
    press(tab, "Control+3", "Alt+3", "Meta+3", "Shift+S", "Control+Enter")
    expect(tab.locator("input:checked")).to_have_count(0)
    tab.evaluate("document.dispatchEvent(new KeyboardEvent('keydown', {key: '3', isComposing: true, bubbles: true}))")
    expect(tab.locator("input:checked")).to_have_count(0)
    expect(tab.locator("dialog[open]")).to_have_count(0)


def test_keys_can_be_changed_and_switched_off(rate: Rate) -> None:
    desk = FakeDesk(tasks("pairwise"))
    _, tab = rate(desk)
    press(tab, "?")
    tab.get_by_role("button", name="Skip, with a reason: S. Change").press("Enter")
    press(tab, "r")
    expect(tab.locator("#keys-said")).to_have_text("R is already for “Raw text or rendered”.")
    tab.get_by_role("button", name="Skip, with a reason: S. Change").press("Enter")
    press(tab, "k", "Escape")
    press(tab, "s")
    expect(tab.locator("#reason")).to_be_hidden()
    tab.reload()
    ready(tab)
    press(tab, "k")
    expect(tab.locator("#reason")).to_be_visible()
    press(tab, "Escape", "?")
    tab.locator("#keys-on").press("Space")
    press(tab, "Escape", "k", "3")
    expect(tab.locator("#reason")).to_be_hidden()
    expect(tab.locator("input:checked")).to_have_count(0)
    tab.get_by_role("button", name="Keys").click()
    tab.get_by_role("button", name="As they were at first").click()
    press(tab, "Escape", "3")
    expect(tab.locator("#verdict input:checked")).to_have_count(1)


def test_views_raw_difference_guideline_and_linked_scroll(rate: Rate) -> None:
    long = "\n\n".join(f"Paragraph **{n}**" for n in range(80))
    desk = FakeDesk(tasks("pairwise", responses=(long, long.replace("40", "41"))))
    _, tab = rate(desk)
    texts = tab.locator(".answer .text")
    press(tab, "r")
    expect(texts.first).to_contain_text("**3**")
    press(tab, "d")
    assert tab.locator("del:visible").all_text_contents() == ["40"]
    assert tab.locator("ins:visible").all_text_contents() == ["41"]
    press(tab, "d", "r")
    texts.first.evaluate("element => { element.scrollTop = 600 }")
    wait_until(lambda: texts.nth(1).evaluate("element => element.scrollTop") == pytest.approx(600, abs=2))
    press(tab, "l")
    texts.first.evaluate("element => { element.scrollTop = 0 }")
    # What follows a scroll has happened when a frame is shown after it.
    tab.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    assert texts.nth(1).evaluate("element => element.scrollTop") == pytest.approx(600, abs=2)
    tab.locator("summary").press("Enter")
    expect(tab.locator(".turn")).to_be_hidden()
    tab.reload()
    ready(tab)
    expect(tab.locator(".turn")).to_be_hidden()  # it stays as the rater left it
    press(tab, "g")
    expect(tab.get_by_role("complementary", name="Guideline")).to_contain_text("helpfulness, version 1")
    press(tab, "Escape")
    expect(tab.locator("#guideline")).to_be_hidden()


def test_below_900_pixels_there_are_tabs_and_nothing_is_wider_than_the_screen(rate: Rate) -> None:
    desk = FakeDesk(tasks("pairwise"))
    _, tab = rate(desk, viewport={"width": 390, "height": 844})
    expect(tab.get_by_role("region", name="Response B")).to_be_hidden()
    tab.locator("[data-tab='1']").click()
    expect(tab.get_by_role("region", name="Response B")).to_be_visible()
    expect(tab.get_by_role("region", name="Response A")).to_be_hidden()
    assert tab.evaluate("document.documentElement.scrollWidth") == 390
    box = tab.locator("#verdict").bounding_box()
    assert box["y"] + box["height"] == pytest.approx(844, abs=1)
    tab.get_by_role("radio", name="A better", exact=True).check()
    tab.get_by_role("button", name="Submit").click()
    assert stored(desk)[0].verdict.step == 2
