"""What lm-evaluation-harness measured of each document, as our report."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from typing import Any

from llmops.errors import InputError
from llmops.eval.harness_requests import Asked, turns_of
from llmops.eval.measured import Answered, Measured
from llmops.eval.metric import Metric, mean_of
from llmops.eval.run import check_numbers
from llmops.events import Listener
from llmops.files import digest_of
from llmops.records import ModelSource

PREFIX = "lm-eval:"
"""Before a task's name, where a suite's file could stand."""


def measured(named: str, done: Mapping[str, Any], model: ModelSource, asked: Asked, *, is_chat: bool) -> Measured:
    samples: Mapping[str, Sequence[Mapping[str, Any]]] = done["samples"]
    several = len(samples) > 1
    rows: list[tuple[str, list[Mapping[str, Any]]]] = []
    for task, of_task in samples.items():
        by_document: dict[int, list[Mapping[str, Any]]] = {}
        for sample in of_task:
            by_document.setdefault(sample["doc_id"], []).append(sample)
        rows += [(task, of_document) for of_document in by_document.values()]
    metrics = _metrics(rows, done, asked.listener, is_chat=is_chat)
    check_numbers(metrics)
    seen: dict[str, int] = {}
    items = []
    for place, (task, of_document) in enumerate(rows):
        item = _answered(task if several else None, of_document[0], asked)
        # A document that stands in the data twice is two items.
        times = seen[item.id] = seen.get(item.id, 0) + 1
        identity = item.id if times == 1 else digest_of([item.id, times])
        scores = {metric.name: float(metric.per_item[place]) for metric in metrics}
        items.append(replace(item, id=identity, scores=scores))
    configs = {task: _plain(config) for task, config in done["configs"].items()}
    settings = {"lm_eval": version("lm_eval"), "tasks": configs, "chat": is_chat}
    digest = digest_of({"settings": settings, "items": sorted([item.id, *item.references] for item in items)})
    return Measured(
        digest="",
        model={"reference": model.reference, "revision": model.revision, "digest": model.digest},
        suite={"name": f"{PREFIX}{named}", "digest": digest, "settings": settings},
        engine=asked.engines or {"name": "transformers", "reads": "log-likelihoods"},
        items=tuple(items),
        metrics=tuple(metrics),
        measures=_measures(items),
    )


def _metrics(
    rows: Sequence[tuple[str, Sequence[Mapping[str, Any]]]],
    done: Mapping[str, Any],
    listener: Listener,
    *,
    is_chat: bool,
) -> list[Metric]:
    """What the harness measured as a mean over documents, shown to be one by computing it again."""
    versions = ",".join(f"{task}:{number}" for task, number in sorted(done["versions"].items()))
    shots = ",".join(str(number) for _, number in sorted(done["n-shot"].items()))
    chat = "yes" if is_chat else "no"
    signature = f"lm-eval|tasks:{versions}|shots:{shots}|chat:{chat}|version:{version('lm_eval')}"
    values: dict[str, list[float | None]] = {}
    for place, (_, of_document) in enumerate(rows):
        for sample in of_document:
            for metric in sample["metrics"]:
                key = metric if sample["filter"] == "none" else f"{metric},{sample['filter']}"
                held = values.setdefault(key, [None] * len(rows))
                value = sample[metric]
                held[place] = float(value) if isinstance(value, int | float) else None
    found = []
    for key, each in values.items():
        metric, _, kind = key.partition(",")
        whole = [value for value in each if value is not None]
        if len(whole) != len(rows) or not _is_mean(metric, kind or "none", rows, each, done):
            listener.say(f"{key} is no mean over documents; the harness's number stands in its own output alone")
            continue
        higher = {bool(of_task.get(metric, True)) for of_task in done["higher_is_better"].values()}
        found.append(
            mean_of(
                key,
                signature,
                whole,
                better="higher" if higher == {True} else "lower",
                span=1.0 if all(0 <= value <= 1 for value in whole) else None,
                binary=all(value in (0.0, 1.0) for value in whole),
            )
        )
    if not found:
        raise InputError(
            "nothing this task measures is a mean over its documents, so it has no intervals",
            fix="take another task, or write the suite in eval/suites/ with our scorers",
        )
    return found


def _is_mean(
    metric: str,
    kind: str,
    rows: Sequence[tuple[str, Any]],
    each: Sequence[float | None],
    done: Mapping[str, Any],
) -> bool:
    by_task: dict[str, list[float]] = {}
    for (task, _), value in zip(rows, each, strict=True):
        by_task.setdefault(task, []).append(float(value or 0.0))
    for task, values in by_task.items():
        said = done["results"][task].get(f"{metric},{kind}")
        if said is None or abs(sum(values) / len(values) - said) > 1e-9 * max(1.0, abs(said)):
            return False
    return True


def _answered(task: str | None, sample: Mapping[str, Any], asked: Asked) -> Answered:
    arguments = [list(one.values()) if isinstance(one, Mapping) else list(one) for one in _arguments(sample)]
    text = str(arguments[0][0])
    messages = tuple(turns_of(text))
    target = sample["target"]
    if len(arguments) > 1 and isinstance(arguments[0][1], str):  # one request a choice
        choices = [str(one[1]).strip() for one in arguments]
        likelihoods = [float(resp[0]) for resp in sample["filtered_resps"]]
        answer = choices[max(range(len(choices)), key=lambda place: likelihoods[place])]
        reference = choices[target] if isinstance(target, int) and target < len(choices) else str(target)
        return _bare(task, digest_of([text, *choices]), messages, reference, answer)
    said = sample["resps"][0]
    answer = str(said[0] if isinstance(said, list | tuple) else said)
    made = asked.made(text, answer)
    bare = _bare(task, digest_of([text, str(target)]), messages, str(target), answer)
    if made is None:
        return bare
    return replace(bare, finish=made.finish, tokens=made.tokens, seconds=made.seconds)


def _arguments(sample: Mapping[str, Any]) -> Sequence[Any]:
    given = sample["arguments"]
    return list(given.values()) if isinstance(given, Mapping) else list(given)


def _bare(task: str | None, identity: str, messages: tuple[Any, ...], reference: str, answer: str) -> Answered:
    return Answered(
        id=identity,
        messages=messages,
        references=(reference,),
        slices={} if task is None else {"task": task},
        cluster=identity,
        answer=answer,
        finish=None,
        tokens=None,
        seconds=None,
        scores={},
    )


def _measures(items: Sequence[Answered]) -> dict[str, float]:
    found = {"empty_share": sum(not item.answer.strip() for item in items) / len(items)}
    finishes = [item.finish for item in items if item.finish is not None]
    if len(finishes) == len(items):
        found["truncated_share"] = finishes.count("length") / len(items)
    return found


def _plain(config: Any) -> Any:
    """A task's settings as JSON; functions in it stand as their names."""
    return json.loads(json.dumps(config, default=lambda one: getattr(one, "__name__", str(type(one).__name__))))
