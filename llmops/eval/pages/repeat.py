"""What a reader needs to make a report again, and to see that it is the same."""

from __future__ import annotations

import json
import shlex
from importlib.metadata import version

from llmops.eval.compare import Comparison
from llmops.eval.measured import Measured
from llmops.markup import Markup, facts, joined, tag

_TASK = "lm-eval:"


def repeat(measured: Measured) -> Markup:
    """The command, the suite's settings, and every digest and signature of a report."""
    return joined(
        tag("pre", command(measured)),
        facts(
            {
                "report": measured.digest,
                **{f"model {name}": value for name, value in measured.model.items() if value is not None},
                "suite": str(measured.suite["name"]),
                "suite digest": str(measured.suite["digest"]),
                **{f"engine {name}": str(value) for name, value in measured.engine.items()},
                **{f"{metric.name} computed as": metric.signature for metric in measured.metrics},
                "page written by": f"llmops {version('llmops')}",
            }
        ),
        tag(
            "h3",
            "Settings of the task"
            if str(measured.suite["name"]).startswith(_TASK)
            else "Settings of the suite: a suite's file may hold them as they stand here",
        ),
        tag("pre", json.dumps(measured.suite["settings"], indent=2, ensure_ascii=False)),
    )


def command(measured: Measured) -> str:
    """What measures the same again, given a file with the suite's settings.

    Answers made elsewhere stand in a file that only its owner knows: FILE.jsonl.
    """
    name, engine = str(measured.suite["name"]), measured.engine
    suite = name if name.startswith(_TASK) else f"eval/suites/{name}.yaml"
    how = {
        "vllm": ["--engine", "vllm"],
        "endpoint": ["--endpoint", str(engine.get("url"))],
        "recorded": ["--answers", "FILE.jsonl"],
    }.get(str(engine.get("name")), [])
    limit = measured.suite["settings"].get("items", {}).get("limit")
    limited = [] if limit is None else ["--limit", str(limit)]
    return shlex.join(["llmops", "eval", measured.name, suite, *how, *limited])


def comparing(found: Comparison) -> str:
    """What makes the same comparison again, of the two reports' files."""
    files = [str(one.file or f"{one.digest[:12]}.json") for one in (found.first, found.second)]
    return shlex.join(["llmops", "compare", *files, "--confidence", f"{found.confidence:g}"])
