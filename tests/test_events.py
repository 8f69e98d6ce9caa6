"""Long work tells a listener; one that hears nothing is a listener too."""

from __future__ import annotations

import inspect

from llmops.cli.progress import watching
from llmops.events import Listener, Silent
from llmops.records import Step

STEP = Step(1, 0.1, 2.0, 1.0, 1e-3, 10, 5, 0.1, 1)


def test_silent_hears_everything_and_says_nothing() -> None:
    silent: Listener = Silent()
    silent.say("line")
    silent.advance("rows", 1, None)
    silent.step(STEP, 10)


def test_the_listeners_take_what_the_protocol_says() -> None:
    promised = {
        name: inspect.signature(member)
        for name, member in vars(Listener).items()
        if callable(member) and not name.startswith("_")
    }
    assert promised.keys() == {"say", "advance", "step"}
    with watching(quiet=True) as watcher:
        for kind in (Silent, type(watcher)):
            for name, signature in promised.items():
                assert list(inspect.signature(getattr(kind, name)).parameters) == list(signature.parameters)
