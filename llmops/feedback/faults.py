"""What may be wrong with what a rater or an owner asks for, each with the status that the service answers with.

LlmopsError
├── NotThere        404  no such thing, or not this person's: which of the two is not told
├── Conflict        409  it was changed meanwhile, or cannot be changed any more
│   └── LeaseLost   409  the time for it ended, and somebody else has it
└── RubricChanged   409  what is asked has been reworded since it was shown
"""

from __future__ import annotations

from llmops.errors import LlmopsError
from llmops.rubric import Rubric


class NotThere(LlmopsError):
    """There is no such thing, or it is not this person's."""


class Conflict(LlmopsError):
    """It was changed meanwhile; `newest` is the id of the rating that stands, where there is one."""

    def __init__(self, problem: str, *, fix: str, newest: str | None = None) -> None:
        super().__init__(problem, fix=fix)
        self.newest = newest


class LeaseLost(Conflict):
    """The item went to somebody else; what has been written can be sent all the same, and is kept."""


class RubricChanged(LlmopsError):
    """What is asked has been reworded since it was shown; holds both wordings."""

    def __init__(self, seen: Rubric, current: Rubric) -> None:
        super().__init__(
            f"the question was changed from version {seen.version} to {current.version} of {current.name}",
            fix="read the new wording and answer again, or send the answer as one to the old wording",
        )
        self.seen = seen
        self.current = current
