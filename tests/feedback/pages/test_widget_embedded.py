"""On a page of another site the widget is usable by everybody, and what is pressed is stored."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from sqlalchemy import Engine, text

from llmops.feedback.settings import FeedbackService
from llmops.feedback.widget_pages import ELSEWHERE, widget_routes
from llmops.feedback.widget_token import token_for, widget_key
from llmops.lifecycle.widget_thumbs import kept_in_ledger
from tests.feedback.accounts.service import NOW, served
from tests.feedback.pages.test_states import violations_in_both_schemes
from tests.feedback.small_campaigns import item, start

SECRET = "0123456789abcdef" * 4


@contextlib.contextmanager
def shop(pages: list[str]) -> Iterator[str]:
    """Another site, on a port of its own: it answers with the last of the pages."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-type", "text/html; charset=utf-8")
            self.end_headers()
            self.wfile.write(pages[-1].encode())

        def log_message(self, *said: object) -> None:
            """Nothing is told."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize("allowed", [True, False], ids=["a site that is named", "a site that is not"])
def test_a_visitor_presses_a_thumb_by_keyboard(sqlite: Engine, browse: Callable[..., Any], allowed: bool) -> None:
    from playwright.sync_api import expect

    pages: list[str] = []
    token = token_for(widget_key(SECRET, "shop"), "shop", "r-1", until=NOW + 60)
    with contextlib.ExitStack() as stack:
        site = stack.enter_context(shop(pages))
        origins = [site if allowed else "http://other.test"]
        start(sqlite, [item(0, ("one",))], kind="thumbs", name="shop", widget_origins=origins)
        address, _ = stack.enter_context(
            served(
                sqlite,
                FeedbackService(secret=SECRET),
                routers=lambda accounts: [widget_routes(sqlite, SECRET, kept_in_ledger(sqlite), clock=accounts.clock)],
                elsewhere=[ELSEWHERE],
            )
        )
        pages.append(
            '<!doctype html><html lang="en"><title>Shop</title><main><h1>Shop</h1><p>An answer.</p>'
            f'<llmops-thumbs request="r-1" token="{token}"></llmops-thumbs></main>'
            f'<script type="module" src="{address}/widget/thumbs.js"></script></html>'
        )
        tab = browse().new_page()
        tab.goto(f"{site}/answer")
        tab.get_by_role("button", name="Good answer").wait_for()
        assert violations_in_both_schemes(tab) == []
        tab.keyboard.press("Tab")
        tab.keyboard.press("Tab")
        tab.keyboard.press("Enter")
        if allowed:
            expect(tab.get_by_role("status")).to_have_text("Thank you.")
            expect(tab.get_by_role("button", name="Bad answer", pressed=True)).to_be_focused()
        else:
            expect(tab.get_by_role("status")).to_have_text("That could not be sent.")
    with sqlite.connect() as connection:
        kept = [tuple(row) for row in connection.execute(text("SELECT request, thumb FROM feedback"))]
    assert kept == ([("r-1", "down")] if allowed else [])
