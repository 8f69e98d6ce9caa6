"""Two people who rate by a rule, each in a browser of their own, with the keyboard alone: `make feedback-demo`.

    python -m tests.feedback.scripted_raters ADDRESS CAMPAIGN

What they know is the sentence the festival office would have written; the answer nearer to it is better, by how much
decides the step. One of them is a little careless.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator

from playwright.sync_api import Page, sync_playwright
from rapidfuzz.distance import Levenshtein

CHROMIUM = "/usr/bin/chromium"
PASSWORD = "four plain words together"


def office() -> dict[str, str]:
    """What the festival office would write, by request."""
    from llmops.builtin.domains import rows

    return {row["prompt"]: row["completion"] for split in ("train", "test") for row in rows("festivals", split)}


def invited(campaign: str) -> str:
    """A link for one rater."""
    made = subprocess.run(
        [sys.executable, "-m", "llmops.cli.main", "feedback", "invite", "--campaign", campaign, "--json"],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    return str(json.loads(made.stdout)["link"])


def step(wanted: str, first: str, second: str) -> int:
    """3 (the first by far) to −3, by the letters that would have to be changed in each."""
    ahead = Levenshtein.distance(second, wanted) - Levenshtein.distance(first, wanted)
    size = 0 if ahead == 0 else 1 if abs(ahead) < 4 else 2 if abs(ahead) < 25 else 3
    return size if ahead > 0 else -size


def rate(page: Page, campaign: str, *, careless: float, draw: random.Random) -> Iterator[str]:
    """Rate until there is nothing left; what was pressed each time."""
    known = office()
    page.goto(f"/rate/{campaign}")
    while True:
        page.wait_for_selector("article.task, section.state", state="attached")
        if page.query_selector("section.state"):
            return
        task = page.locator("article.task")
        assignment = task.get_attribute("data-assignment")
        prompt = page.locator("section.turn .raw").last.text_content() or ""
        first, second = (
            text.strip() for text in page.locator("section.answer .raw:not(.difference)").all_text_contents()
        )
        said = step(known.get(prompt.strip(), first), first, second)
        if draw.random() < careless:
            said = -said
        key = str(4 - said)
        page.keyboard.press(key)
        page.keyboard.press("Enter")
        page.wait_for_function(
            "before => document.querySelector('article.task')?.dataset.assignment !== before", arg=assignment
        )
        yield key


def main(address: str, campaign: str) -> None:
    draw = random.Random(5)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for name, careless in (("ann", 0.0), ("bob", 0.15)):
            begun = time.monotonic()
            page = browser.new_context(base_url=address).new_page()
            page.goto(invited(campaign))
            page.fill("#login", f"{name}@example.org")
            page.fill("#name", name.title())
            page.fill("#password", PASSWORD)
            page.fill("#again", PASSWORD)
            page.keyboard.press("Enter")
            page.wait_for_url("**/")
            pressed = list(rate(page, campaign, careless=careless, draw=draw))
            page.wait_for_selector("#saved[data-state=saved]")
            print(f"{name} rated {len(pressed)} pairs in {time.monotonic() - begun:.0f} s: {' '.join(pressed)}")
        browser.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
