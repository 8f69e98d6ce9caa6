"""No rating is lost and none is stored twice, whatever happens to network, server, session, page or browser."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import expect

from llmops.rubric import Rubric
from tests.feedback.pages.hands import caught, next_is_here, on_task, opened, press, ready, saved_mark, stored
from tests.feedback.pages.site import FakeDesk, Site
from tests.feedback.pages.tasks_shown import HELPFUL, task, tasks
from tests.patience import wait_until

pytestmark = pytest.mark.xdist_group("rating-page")
KINDER = Rubric.model_validate({**HELPFUL.model_dump(), "version": 2, "question": "Which is kinder?"})
Rate = Callable[..., tuple[Site, Any]]


def once_each(desk: FakeDesk, steps: list[int]) -> None:
    """The desk holds these steps for the first tasks in order, one rating each."""
    given = stored(desk, len(steps))
    assert [one.assignment for one in given] == [f"assignment-{number}" for number in range(len(steps))]
    assert [one.verdict.step for one in given] == steps


def test_ratings_given_offline_wait_and_are_sent_when_the_network_is_back(rate: Rate) -> None:
    desk = FakeDesk(tasks("pairwise", 5))
    _, tab = rate(desk)
    next_is_here(tab)
    tab.context.set_offline(True)
    saved_mark(tab, "Offline")
    press(tab, "1", "Enter")
    on_task(tab, 1)
    saved_mark(tab, "Offline · 1 waiting")
    press(tab, "2", "Enter")
    expect(tab.get_by_role("heading", name="The server is away")).to_be_visible()
    saved_mark(tab, "Offline · 2 waiting")
    assert not desk.ratings
    tab.context.set_offline(False)
    once_each(desk, [3, 2])
    saved_mark(tab, "Saved")
    press(tab, "Enter")  # ask now
    on_task(tab, 2)


def test_a_page_closed_offline_sends_when_it_is_opened_again(rate: Rate) -> None:
    desk = FakeDesk(tasks("pairwise"))
    site, tab = rate(desk)
    tab.context.set_offline(True)
    press(tab, "3", "Enter")
    saved_mark(tab, "Offline · 1 waiting")
    context = tab.context
    tab.close(run_before_unload=False)
    context.set_offline(False)
    again = opened(context, site)
    once_each(desk, [1])
    on_task(again, 1)
    saved_mark(again, "Saved")


def test_the_start_page_sends_what_waits(rate: Rate) -> None:
    desk = FakeDesk(tasks("pairwise"))
    site, tab = rate(desk)
    site.answering = False
    press(tab, "3", "Enter")
    saved_mark(tab, "1 waiting")
    site.answering = True
    tab.on("dialog", lambda dialog: dialog.accept())
    tab.goto(f"{site.address}/")
    once_each(desk, [1])
    saved_mark(tab, "Saved")


def test_a_server_killed_with_the_answer_on_its_way_gets_the_rating_once(rate: Rate) -> None:
    desk = FakeDesk(tasks("pairwise"))
    site, tab = rate(desk)
    site.swallowing = 2
    next_is_here(tab)
    press(tab, "6", "Enter")
    wait_until(lambda: len(desk.arrivals) >= 1, "nothing arrives")
    on_task(tab, 1)
    site.kill()
    press(tab, "5", "Enter")
    saved_mark(tab, "2 waiting")
    site.start()
    once_each(desk, [-2, -1])
    saved_mark(tab, "Saved")
    assert len(desk.arrivals) > 2
    assert len(set(desk.arrivals)) == 2


def test_a_task_is_not_asked_for_again_while_its_rating_waits(rate: Rate) -> None:
    desk = FakeDesk(tasks("pairwise"))
    site, tab = rate(desk)
    next_is_here(tab)
    site.taking = False
    press(tab, "6", "Enter")
    on_task(tab, 1)
    press(tab, "5", "Enter")
    expect(tab.get_by_role("heading", name="The server is away")).to_be_visible()
    site.taking = True
    press(tab, "Enter")  # ask now
    on_task(tab, 2)
    once_each(desk, [-2, -1])


def test_an_answer_that_comes_after_its_task_was_rated_is_not_shown(rate: Rate) -> None:
    desk = FakeDesk(tasks("pairwise"))
    site, tab = rate(desk)
    site.answering = False
    press(tab, "1", "Enter")
    tab.wait_for_selector("#place:not([aria-busy])")
    if tab.locator(".task").count():  # it was fetched before
        press(tab, "1", "Enter")
    expect(tab.get_by_role("heading", name="The server is away")).to_be_visible()
    site.answering = True
    late: list[Any] = []

    def hold_the_first(route: Any) -> None:
        answer = route.fetch()
        if late:
            route.fulfill(response=answer)
        else:
            late.append(lambda: route.fulfill(response=answer))

    tab.route("**/next", hold_the_first)
    press(tab, "Enter")  # ask now
    wait_until(lambda: tab.evaluate("1") and late, "the first answer does not come")
    press(tab, "Enter")  # and now
    expect(tab.locator(".task")).to_be_visible()
    held = tab.locator(".task").get_attribute("data-assignment")
    press(tab, "1", "Enter")
    expect(tab.locator(f".task[data-assignment='{held}']")).to_have_count(0)
    saved_mark(tab, "Saved")
    late[0]()
    tab.wait_for_timeout(200)
    expect(tab.locator(f".task[data-assignment='{held}']")).to_have_count(0)
    saved_mark(tab, "Saved")


def test_a_session_that_ended_keeps_the_outbox_until_after_the_login(rate: Rate) -> None:
    desk = FakeDesk(tasks("pairwise"))
    site, tab = rate(desk)
    site.logged_in = False
    press(tab, "7", "Enter")
    saved_mark(tab, "Logged out · 1 waiting · log in")
    assert not desk.ratings
    asked: list[Any] = []

    def noted(dialog: Any) -> None:
        asked.append(dialog.type)
        dialog.accept()

    tab.on("dialog", noted)
    tab.locator("#saved a").click()
    tab.locator("#on").click()
    ready(tab)
    once_each(desk, [-3])
    on_task(tab, 1)
    assert not asked


def test_after_a_login_in_another_tab_the_page_goes_on_with_the_new_token(rate: Rate) -> None:
    desk = FakeDesk(tasks("pairwise"))
    site, tab = rate(desk)
    site.csrf = "another-session"
    press(tab, "1", "Enter")
    once_each(desk, [3])
    saved_mark(tab, "Saved")


TWO_AT_ONCE = """async () => {
  const page = document.querySelector('script[src$="/rate.js"]');
  const { ask } = await import(page.src.replace("rate.js", "server.js"));
  const both = await Promise.all([1, 2].map(() => ask("POST", "/api/campaigns/help/ahead")));
  return both.map((answer) => answer.status);
}"""


def test_of_two_requests_with_the_old_token_both_go_on_with_the_new_one(rate: Rate) -> None:
    site, tab = rate(FakeDesk(tasks("pairwise")))
    site.csrf = "another-session"
    assert tab.evaluate(TWO_AT_ONCE) == [200, 200]


def test_two_tabs_share_one_outbox_and_one_draft(rate: Rate) -> None:
    desk = FakeDesk(tasks("pairwise", 6))
    site, one = rate(desk)
    two = opened(one.context, site)
    on_task(two, 0)
    site.answering = False
    press(one, "1", "Enter")
    saved_mark(two, "1 waiting")
    site.answering = True
    two.evaluate("dispatchEvent(new Event('online'))")
    once_each(desk, [3])
    saved_mark(one, "Saved")
    saved_mark(two, "Saved")
    assert len(desk.arrivals) == 1
    expect(two.locator(".turn, .state")).not_to_contain_text("Question 0")


def test_what_is_not_submitted_survives_a_reload(rate: Rate) -> None:
    desk = FakeDesk(tasks("pairwise"))
    _, tab = rate(desk)
    press(tab, "2", "c")
    tab.keyboard.type("half a thought")
    saved_mark(tab, "Draft kept")
    tab.reload()
    ready(tab)
    expect(tab.locator("#comment")).to_have_value("half a thought")
    expect(tab.get_by_role("radio", name="A better", exact=True)).to_be_checked()
    press(tab, "Enter")
    assert stored(desk)[0].comment == "half a thought"


def test_the_browser_warns_on_leaving_only_while_something_is_unsent(rate: Rate) -> None:
    desk = FakeDesk(tasks("pairwise"))
    site, tab = rate(desk)
    asked: list[str] = []

    def noted(dialog: Any) -> None:
        asked.append(dialog.type)
        site.answering = True  # not before, since then the page would send what is unsent
        dialog.accept()

    tab.on("dialog", noted)
    press(tab, "2")
    tab.reload()
    ready(tab)
    assert not asked
    site.answering = False
    press(tab, "Enter")
    saved_mark(tab, "1 waiting")
    tab.reload()
    ready(tab)
    assert asked == ["beforeunload"]
    once_each(desk, [2])


def test_a_changed_rubric_shows_both_wordings_and_the_rater_may_stand_by_their_rating(rate: Rate) -> None:
    desk = FakeDesk(tasks("pairwise"))
    _, tab = rate(desk)
    desk.rubric = KINDER
    press(tab, "1", "Enter")
    tab.locator("#saved button").click()
    dialog = tab.get_by_role("dialog", name="Ratings that need you")
    expect(dialog).to_contain_text("Which answer helps the person who asked more?")
    expect(dialog).to_contain_text("Which is kinder?")
    dialog.get_by_role("button", name="My rating stands").click()
    once_each(desk, [3])
    assert desk.accepted_old == [next(iter(desk.ratings))]
    assert stored(desk)[0].rubric == HELPFUL.digest
    expect(tab.locator("#question")).to_have_text("Which is kinder?")


def test_a_changed_rubric_lets_the_rater_rate_again(rate: Rate) -> None:
    desk = FakeDesk(tasks("pairwise"))
    _, tab = rate(desk)
    desk.rubric = KINDER
    press(tab, "1", "Enter")
    tab.locator("#saved button").click()
    tab.get_by_role("button", name="Rate again").click()
    on_task(tab, 0)
    expect(tab.locator("#question")).to_have_text("Which is kinder?")
    expect(tab.locator('[data-question] input[value="3"]')).to_be_checked()
    press(tab, "7", "Enter")
    once_each(desk, [-3])
    assert stored(desk)[0].rubric == KINDER.digest
    saved_mark(tab, "Saved")


@pytest.mark.parametrize("then", ["late", "fails"])
def test_who_rates_again_waits_for_nothing_else_that_is_on_its_way(rate: Rate, then: str) -> None:
    desk, held = FakeDesk(tasks("pairwise", 1)), list[Any]()
    _, tab = rate(desk)
    desk.rubric = KINDER
    tab.route("**/next", lambda route: route.continue_() if held else held.append(route))
    press(tab, "1", "Enter")  # refused; what comes next is asked for, and does not come
    tab.locator("#saved button").click()
    tab.get_by_role("button", name="Rate again").click()
    expect(tab.locator("#question")).to_have_text("Which is kinder?")
    awaited = caught(tab, held)
    if then == "fails":
        with tab.expect_event("requestfailed"):
            awaited.abort()
        tab.wait_for_timeout(200)
    press(tab, "7", "Enter")
    once_each(desk, [-3])
    if then == "late":
        awaited.continue_()


def test_what_was_chosen_by_the_new_words_stays_when_the_rater_asks_to_rate_again(rate: Rate) -> None:
    desk = FakeDesk(tasks("pairwise", 1))
    _, tab = rate(desk)
    desk.rubric = KINDER
    press(tab, "1", "Enter")  # refused, and the same task is the next one
    expect(tab.locator("#question")).to_have_text("Which is kinder?")
    press(tab, "7")
    tab.locator("#saved button").click()
    tab.get_by_role("button", name="Rate again").click()
    expect(tab.get_by_role("dialog")).to_be_hidden()
    press(tab, "Enter")
    once_each(desk, [-3])
    saved_mark(tab, "Saved")


LATE = """
let refused;
const refusal = new Promise((resolve) => (refused = resolve));
const { getAll } = IDBObjectStore.prototype, { postMessage } = BroadcastChannel.prototype;
BroadcastChannel.prototype.postMessage = function (said) {
  postMessage.call(this, said);
  if (said.kind === "needing") setTimeout(refused, 50);
};
IDBObjectStore.prototype.getAll = function () {
  const real = getAll.call(this);
  if (!window.late || !new Error().stack.includes("recall")) return real;
  const late = {};
  real.onsuccess = () => refusal.then(() => { late.result = real.result; late.onsuccess(); });
  return late;
};
"""
"""After `late` is set, the page shows a task only when another rating was refused."""


def test_a_refusal_that_comes_before_the_next_task_is_shown_gives_that_the_new_words(serve: Any, browse: Any) -> None:
    desk = FakeDesk(tasks("pairwise"))
    context = browse()
    context.add_init_script(LATE)
    tab = opened(context, serve(desk))
    next_is_here(tab)
    desk.rubric = KINDER
    tab.evaluate("window.late = true")
    press(tab, "1", "Enter")
    on_task(tab, 1)
    expect(tab.locator("#question")).to_have_text("Which is kinder?")
    expect(tab.locator("#told")).to_contain_text("The guideline has changed")


def test_new_words_for_a_task_that_the_rater_has_left_do_not_bring_it_back(rate: Rate) -> None:
    desk = FakeDesk(tasks("pairwise"))
    _, tab = rate(desk)
    next_is_here(tab)
    desk.rubric = KINDER
    held: list[Any] = []
    tab.route("**/api/assignments/*", lambda route: held.append(route))
    press(tab, "1", "Enter")
    on_task(tab, 1)
    late = caught(tab, held)
    press(tab, "2", "Enter")
    on_task(tab, 0)  # refused too, and this one is the next again
    with tab.expect_response("**/api/assignments/assignment-1") as answer:
        late.continue_()
    answer.value.finished()
    tab.wait_for_timeout(300)
    on_task(tab, 0)


def test_ratings_arrive_in_their_order_though_the_clock_is_set_back(rate: Rate) -> None:
    desk = FakeDesk(tasks("pairwise"))
    site, tab = rate(desk)
    next_is_here(tab)
    site.answering = False
    tab.evaluate("let now = Date.now(); Date.now = () => (now -= 60_000)")
    press(tab, "1", "Enter")
    on_task(tab, 1)
    press(tab, "u")
    on_task(tab, 0)
    press(tab, "7", "Enter")
    saved_mark(tab, "2 waiting")
    site.answering = True
    tab.evaluate("dispatchEvent(new Event('online'))")
    first, second = stored(desk, 2)
    assert (first.verdict.step, second.verdict.step, second.supersedes) == (3, -3, first.id)


def test_a_rating_is_kept_when_rating_again_finds_the_server_away(rate: Rate) -> None:
    desk = FakeDesk(tasks("pairwise"))
    site, tab = rate(desk)
    next_is_here(tab)
    desk.rubric = KINDER
    press(tab, "1", "Enter")
    on_task(tab, 1)
    tab.locator("#saved button").click()
    site.answering = False
    tab.get_by_role("button", name="Rate again").click()
    expect(tab.get_by_role("heading", name="The server is away")).to_be_visible()
    site.answering = True
    tab.locator("#saved button").click()
    tab.get_by_role("button", name="My rating stands").click()
    once_each(desk, [3])


def test_a_rating_that_was_replaced_elsewhere_asks_the_rater_which_stands(rate: Rate, browse: Any) -> None:
    desk = FakeDesk(tasks("pairwise"))
    site, tab = rate(desk)
    other = opened(browse(), site)  # another computer
    press(other, "1", "Enter")
    stored(desk)
    press(tab, "7", "Enter")
    tab.locator("#saved button").click()
    tab.get_by_role("button", name="Put this one in its place").click()
    first, second = stored(desk, 2)
    assert (second.supersedes, second.verdict.step) == (first.id, -3)
    assert desk.standing("assignment-0") == second


def test_a_refused_rating_is_kept_until_the_rater_discards_it(rate: Rate) -> None:
    desk = FakeDesk([task("pairwise", 0, rubric=HELPFUL), task("pairwise", 1)])
    _, tab = rate(desk)
    tab.evaluate("document.querySelector('.task').dataset.assignment")  # the page is up
    desk.tasks[0], kept = task("pairwise", 7), desk.tasks[0]
    desk.submit, real = _refuses(desk), desk.submit  # type: ignore[method-assign]
    press(tab, "1", "Enter")
    saved_mark(tab, "1 needs you")
    tab.reload()
    ready(tab)
    saved_mark(tab, "1 needs you")
    desk.submit, desk.tasks[0] = real, kept  # type: ignore[method-assign]
    tab.locator("#saved button").click()
    tab.get_by_role("button", name="Send again").click()
    once_each(desk, [3])
    saved_mark(tab, "Saved")


def _refuses(desk: FakeDesk) -> Any:
    from llmops.feedback.faults import NotThere

    def submit(*_: Any, **__: Any) -> Any:
        raise NotThere("you have no such task", fix="ask for the next one")

    return submit


def test_a_lease_is_extended_while_the_rater_is_at_work(rate: Rate) -> None:
    desk = FakeDesk(tasks("pairwise"))
    real = desk._seen
    desk._seen = lambda task: _ending(real(task))  # type: ignore[method-assign]
    _, tab = rate(desk)
    wait_until(lambda: "assignment-0" in desk.extended, "it is not extended")
    press(tab, "1", "Enter")
    once_each(desk, [3])


def test_what_becomes_of_a_lease_is_not_told_of_the_next_task(serve: Callable[..., Site], browse: Any) -> None:
    desk, held, context = FakeDesk(tasks("pairwise")), list[Any](), browse()
    real = desk._seen
    desk._seen = lambda task: _ending(real(task)) if task is desk.tasks[0] else real(task)  # type: ignore[method-assign]
    context.route("**/assignment-0/extend", lambda route: held.append(route))
    tab = opened(context, serve(desk))
    late = caught(tab, held)
    press(tab, "1", "Enter")
    on_task(tab, 1)
    with tab.expect_response("**/assignment-0/extend") as answer:
        late.fulfill(status=409, json={"error": "others have it", "fix": "go on", "kind": "conflict"})
    answer.value.finished()
    tab.wait_for_timeout(200)
    expect(tab.locator("#told")).to_be_hidden()


def _ending(one: Any) -> Any:
    import time
    from dataclasses import replace

    return replace(one, until=time.time() + 1.5)
