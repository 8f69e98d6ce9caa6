"""Errors that a user can cause, as a tree: each says the problem and the next thing to do.

    LlmopsError                 exit 2 unless said otherwise
    ├── InputError              what the user wrote or passed cannot be used
    │   └── FileFaults          every fault of one file, with line and key
    ├── EnvironmentFault        the machine lacks something: a package, a GPU, disk, a file
    │   └── OutOfMemory         it has too little memory for a run
    ├── TrainingStopped         training met a state it must not go on from (exit 2)
    └── Interrupted             stopped by a signal after saving (exit 130 or 143)

A programming error stays a `ValueError` or `AssertionError` with its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


class LlmopsError(Exception):
    """The command line prints it as two lines without a traceback; the services answer with it."""

    exit_code = 2

    def __init__(self, problem: str, *, fix: str) -> None:
        super().__init__(f"{problem}\n  → {fix}")
        self.problem = problem
        self.fix = fix


class InputError(LlmopsError):
    """What the user wrote or passed cannot be used as it is."""


class EnvironmentFault(LlmopsError):
    """The machine lacks something the command needs."""


class OutOfMemory(EnvironmentFault):
    """Memory ran out; whoever knows the plan can say what each key would save."""


class TrainingStopped(LlmopsError):
    """Training met a state it must not go on from; nothing after the last good checkpoint is kept."""


class Interrupted(LlmopsError):
    """A signal ended the work; what was done so far is saved."""

    def __init__(self, problem: str, *, fix: str, exit_code: int) -> None:
        super().__init__(problem, fix=fix)
        self.exit_code = exit_code


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing wrong in a file: `key` is dotted, `line` counts from 1 (None: not in the file)."""

    key: str
    problem: str
    line: int | None = None


class FileFaults(InputError):
    """All faults of one file at once, in the order of their lines."""

    def __init__(self, path: str, faults: Sequence[Fault], *, what: str, fix: str) -> None:
        self.path = path
        self.faults = sorted(faults, key=lambda fault: (fault.line is None, fault.line or 0, fault.key))
        lines = [f"{path} is not a valid {what}:"]
        for fault in self.faults:
            where = f"line {fault.line}: " if fault.line is not None else ""
            lines.append(f"  {where}{fault.key}: {fault.problem}" if fault.key else f"  {where}{fault.problem}")
        super().__init__("\n".join(lines), fix=fix)


def nearest(name: str, known: Iterable[str]) -> str:
    """`; did you mean …?` for the known name closest to `name`, or the empty string."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean `{close[0]}`?" if close else ""
