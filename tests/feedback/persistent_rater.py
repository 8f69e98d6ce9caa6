"""A rater who goes on through whatever happens, with the keyboard alone, and writes down what they saw."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from random import Random
from typing import Any

from playwright.sync_api import Error, Page, Request

from tests.feedback.killed_browser import KilledBrowser
from tests.feedback.killed_service import KilledService
from tests.feedback.strikes import Strike

PASSWORD = "four plain words together"
_PATIENCE_S = 120
_LOAD_S = 15
"""After which a page whose scripts did not come, as when the server was killed meanwhile, is opened again."""

# What stands on the page, as soon as it is another thing than the task `before`. Nothing is looked at in between: a
# look at each frame would cost more than the rating.
_SEEN = """([before, patience]) => new Promise(done => {
  function found() {
    if (!document.documentElement.dataset.ready) return null;
    const [place, mark] = [document.getElementById("place"), document.getElementById("saved")];
    const wrong = place.querySelector("#wrong")?.textContent || (mark.dataset.state === "needing" && mark.textContent);
    if (wrong) return { wrong };
    const task = place.querySelector("article.task");
    if (task) return task.dataset.assignment === before ? null : { task: task.dataset.assignment };
    const state = place.querySelector("section.state");
    return state && { state: state.dataset.state ?? state.textContent };
  }
  function look() {
    const seen = found();
    if (!seen) return;
    observer.disconnect();
    clearTimeout(timer);
    done(seen);
  }
  const observer = new MutationObserver(look);
  const timer = setTimeout(() => done({ wrong: `nothing more in ${document.body.innerText}` }), 1000 * patience);
  observer.observe(document, { subtree: true, childList: true, attributeFilter: ["data-ready", "data-state"] });
  look();
})"""
_UNSENT = """() => new Promise((done, failed) => {
  const asked = indexedDB.open(`llmops-rating-${document.body.dataset.mine}`);
  asked.onerror = failed;
  asked.onsuccess = () => {
    const counted = asked.result.transaction("outbox").objectStore("outbox").count();
    counted.onsuccess = () => done(counted.result) || asked.result.close();
  };
})"""


@dataclass(slots=True)
class Pressed:
    """A verdict's digit and Enter on a task.

    Attributes:
        taken: the rater saw the page go on to something else.
    """

    assignment: str
    verdict: dict[str, Any]
    taken: bool = False


class PersistentRater:
    """One account and its browser.

    Attributes:
        pressed: all of it, in order.
        sent: by id of a rating, how often the browser began to send it, as far as that was seen before it was killed.
        loads: how often the page was opened.
        logins: how often the password was asked for.
    """

    def __init__(
        self,
        login: str,
        service: KilledService,
        browser: KilledBrowser,
        *,
        campaign: str,
        draw: Random,
        strikes: Iterable[Strike],
        told: Callable[[int], None] = lambda given: None,
    ) -> None:
        self.login = login
        self.pressed: list[Pressed] = []
        self.sent: Counter[str] = Counter()
        self.loads = self.logins = 0
        self._service = service
        self._browser = browser
        self._path = f"/rate/{campaign}"
        self._draw = draw
        self._strikes = {one.rating: one for one in strikes}
        self._told = told
        self._known: set[str] = set()
        self._striking: threading.Thread | None = None
        self._faults: list[BaseException] = []
        self._page: Page

    def accept(self, invitation: str) -> None:
        """Make the account."""
        page = self._opened()
        page.goto(invitation)
        for field, text in (("login", self.login), ("name", self.login), ("password", PASSWORD), ("again", PASSWORD)):
            page.focus(f"#{field}")
            page.keyboard.insert_text(text)
        page.keyboard.press("Enter")
        page.wait_for_url("**/")

    def rate_all(self) -> None:
        """Rate until there is nothing left and nothing waits in the browser any more."""
        while True:
            try:
                if self._browser.killed:
                    self._opened()
                    self._arrive()
                self._rate()
                self._drain()
                self._struck()
                return
            except Error:
                if not self._browser.killed:
                    raise

    # ── the page ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _opened(self) -> Page:
        self._page = self._browser.open()
        self._page.set_default_timeout(_PATIENCE_S * 1000)
        self._page.on("request", self._note)
        return self._page

    def _note(self, request: Request) -> None:
        if request.method == "POST" and "/api/ratings" in request.url:
            self.sent[json.loads(request.post_data or "{}")["id"]] += 1

    def _arrive(self) -> None:
        """Open the rating page, as often as it takes, and log in where that is asked for."""
        until = time.monotonic() + _PATIENCE_S
        while not self._tried():
            assert time.monotonic() < until, f"the page does not open: {self._page.content()[:2000]}"
            self._service.up.wait(1)

    def _tried(self) -> bool:
        page = self._page
        self.loads += 1
        try:
            page.goto(self._service.address + self._path, wait_until="commit")
            page.wait_for_selector("html[data-ready], #login", state="attached", timeout=_LOAD_S * 1000)
            if page.query_selector("#login"):
                self.logins += 1
                for field, text in (("login", self.login), ("password", PASSWORD)):
                    page.focus(f"#{field}")
                    page.keyboard.insert_text(text)
                page.keyboard.press("Enter")
                page.wait_for_selector("html[data-ready]", state="attached", timeout=_LOAD_S * 1000)
        except Error:
            if self._browser.killed:
                raise
            return False
        return True

    def _seen(self, before: str | None = None) -> dict[str, str]:
        found: dict[str, str] = self._page.evaluate(_SEEN, [before, _PATIENCE_S])
        assert "wrong" not in found, found
        return found

    def _rate(self) -> None:
        """Until the page says that there is nothing left."""
        if self._page.url == f"{self._service.address}/":
            self._arrive()
        seen = self._seen()
        while True:
            if "task" in seen:
                seen = self._give(seen["task"])
            elif seen["state"] == "finished":
                return
            elif seen["state"] in {"away", "taken"}:
                seen = self._asked_again()
            elif seen["state"] == "signed-out":
                self._arrive()
                seen = self._seen()
            else:
                raise AssertionError(seen)

    def _give(self, assignment: str) -> dict[str, str]:
        digit = self._draw.choice("01234567")
        verdict = {"kind": "pairwise", "step": None if digit == "0" else 4 - int(digit), "both_bad": digit == "0"}
        strike = self._strikes.get(len(self._known))
        if strike is not None:
            self._struck()
        press = self._page.keyboard.press
        press(digit)
        if strike is not None and strike.moment == "between the keys":
            self._strike(strike)
        one = Pressed(assignment, verdict)
        self.pressed.append(one)
        self._known.add(assignment)
        if strike is not None and strike.moment != "between the keys":
            self._strike(strike)
        press("Enter")
        seen = self._seen(assignment)
        one.taken = True
        self._told(len(self._known))
        return seen

    def _asked_again(self) -> dict[str, str]:
        """What stands there after `Ask now`; who is in a hurry asks again before there was an answer."""
        hurried = self._draw.random() < 0.3
        if not hurried:
            self._service.up.wait(_PATIENCE_S)
        self._page.keyboard.press("Enter")
        if not hurried:
            self._page.wait_for_selector("#place:not([aria-busy])", state="attached")
        return self._seen()

    def _drain(self) -> None:
        self._page.wait_for_selector("#saved[data-state=saved]")
        assert self._page.evaluate(_UNSENT) == 0

    # ── what happens to it ─────────────────────────────────────────────────────────────────────────────────────────

    def _strike(self, strike: Strike) -> None:
        """Begin it; what is killed between two keys is dead when this returns."""
        del self._strikes[strike.rating]
        first = threading.Event()
        self._striking = threading.Thread(target=self._kill, args=(strike, first))
        self._striking.start()
        if strike.moment == "between the keys":
            first.wait(_PATIENCE_S)

    def _kill(self, strike: Strike, first: threading.Event) -> None:
        try:
            time.sleep(strike.after_s)
            for number, target in enumerate(strike.targets):
                if number:
                    if strike.second == "when it is back":
                        (self._service.up if target == "server" else self._browser.there).wait(_PATIENCE_S)
                    time.sleep(strike.second_s)
                if target == "server":
                    self._service.kill(strike.away_s)
                else:
                    self._browser.kill()
                first.set()
        except BaseException as error:
            self._faults.append(error)
        finally:
            first.set()

    def _struck(self) -> None:
        """Wait until the strike before is over; where it has killed the browser, that has to be opened first."""
        while self._striking is not None and self._striking.is_alive() and not self._browser.killed:
            self._striking.join(0.02)
        if self._faults:
            raise self._faults[0]
        if self._browser.killed:
            raise Error("the browser was killed")
