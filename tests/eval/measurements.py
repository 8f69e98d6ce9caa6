"""Reports made from per-item numbers, as an evaluation would leave them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from llmops.eval.measured import Answered, Measured
from llmops.eval.metric import Metric, mean_of, share_of


def measured(
    metrics: Sequence[Metric],
    *,
    model: str = "m",
    suite: str = "s",
    suite_digest: str = "d",
    slices: Sequence[Mapping[str, str]] | None = None,
    seconds: Sequence[float] | None = None,
    ids: Sequence[str] | None = None,
    measures: Mapping[str, float] | None = None,
    confidence: Sequence[float] | None = None,
) -> Measured:
    """A report of these metrics, all over the same items."""
    number = len(metrics[0].per_item)
    names = ids or [f"{place:06}" for place in range(number)]
    items = tuple(
        Answered(
            id=names[place],
            messages=({"role": "user", "content": f"question {names[place]}"},),
            references=("good",),
            slices=slices[place] if slices else {},
            cluster=names[place],
            answer=f"answer of {model}",
            finish="stop",
            tokens=3,
            seconds=seconds[place] if seconds else 0.1,
            scores={metric.name: float(metric.per_item[place]) for metric in metrics},
            confidence=confidence[place] if confidence else None,
        )
        for place in range(number)
    )
    return Measured(
        digest=f"report of {model}",
        model={"reference": model, "revision": None, "digest": f"bytes of {model}"},
        suite={"name": suite, "digest": suite_digest, "settings": {}},
        engine={"name": "stub"},
        items=items,
        metrics=tuple(metrics),
        measures=measures or {"latency_p95_ms": 100.0, "truncated_share": 0.0, "size_bytes": 10.0},
    )


def answered(
    answers: Sequence[str], references: Sequence[Sequence[str]], prompts: Sequence[str] | None = None
) -> list[Answered]:
    """Items with their answers, as scorers are given them."""
    return [
        Answered(
            id=f"{place:06}",
            messages=({"role": "user", "content": prompts[place] if prompts else f"question {place}"},),
            references=tuple(refs),
            slices={},
            cluster=f"{place:06}",
            answer=answer,
        )
        for place, (answer, refs) in enumerate(zip(answers, references, strict=True))
    ]


def right(hits: Sequence[bool | float], **others: object) -> Measured:
    """A report of exact matches."""
    return measured([share_of("exact_match", "v1", [float(hit) for hit in hits])], **others)  # type: ignore[arg-type]


def scored(values: Sequence[float], **others: object) -> Measured:
    """A report of a mean of values from 0 to 1."""
    return measured([mean_of("rougeL", "v1", values, span=1.0)], **others)  # type: ignore[arg-type]
