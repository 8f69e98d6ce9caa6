"""Answers that are Python code: whether they pass the unit tests of their references."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from pydantic import Field, PositiveInt

from llmops.errors import InputError
from llmops.eval.sandbox import Limits, Program, available, passed
from llmops.eval.scorers.catalog import Scorer, scorers

if TYPE_CHECKING:
    from llmops.eval.items import Item
    from llmops.eval.measured import Answered
    from llmops.eval.metric import Metric

_FENCE = re.compile(r"^[ \t]*```[ \t]*(?:python3?|py)?[ \t]*\n(.*?)(?:^[ \t]*```|\Z)", re.DOTALL | re.M | re.I)


@scorers.add("code")
class Code(Scorer):
    """Share (0 to 1) of answers whose Python code passes the unit tests in their references, metric `pass@1`.

    The code is the answer's first fence of three backticks, or the whole answer where it has none. The references are
    Python too, run in the same module after it: they pass if nothing is raised, their functions `test…()` and
    `unittest` classes included; of several references all must pass. Each answer runs in a process of its own,
    which is killed at the limits below, cannot start others, has no network and an empty environment, and can write
    only to a folder that goes away. The signature says how that is done on this machine: `sandbox:namespaces` is the
    kernel's doing, `sandbox:refusals` only Python's own, which is no defence against hostile code. In neither can code
    that attacks the tests themselves (objects that equal everything, say) be told from code that passes them.
    """

    seconds: Annotated[float, Field(gt=0, le=600)] = 10.0
    """Wall time of one answer with its tests; what takes longer fails."""
    memory_mb: Annotated[PositiveInt, Field(ge=64)] = 512
    """Address space of one answer's process."""
    continues_prompt: bool = False
    """The answer goes on where the last user's turn ends, as in HumanEval, whose prompt is the head of a function:
    both are run as one text. An answer that repeats the head in a fence is taken alone."""

    def names(self) -> tuple[str, ...]:
        return ("pass@1",)

    def check_items(self, items: Sequence[Item]) -> None:
        for item in items:
            for tests in item.references:
                _check_compiles(tests)

    def measure(self, items: Sequence[Answered]) -> list[Metric]:
        from llmops.eval.metric import share_of

        programs = [Program(self._code(item), item.references) for item in items]
        kind = available()
        hits = passed(programs, Limits(seconds=self.seconds, memory_mb=self.memory_mb), kind=kind)
        how = f"refs:all|sandbox:{kind}|seconds:{self.seconds:g}|memory_mb:{self.memory_mb}"
        return [share_of("pass@1", f"{how}|continues:{'prompt' if self.continues_prompt else 'nothing'}", hits)]

    def _code(self, item: Answered) -> str:
        fence = _FENCE.search(item.answer)
        if fence:
            return fence.group(1)
        if not self.continues_prompt:
            return item.answer
        asked = [str(turn["content"]) for turn in item.messages if turn["role"] == "user"]
        return (asked[-1] if asked else "") + item.answer


def _check_compiles(tests: str) -> None:
    try:
        compile(tests, "<tests>", "exec", dont_inherit=True)
    except (SyntaxError, ValueError) as error:
        raise InputError(
            f"the unit tests {tests[:60]!r} are no Python: {error}",
            fix="give references that are Python code, or use another scorer than `code`",
        ) from error
