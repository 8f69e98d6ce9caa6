"""Who answers the items of suites, by how a user names it, and the reports of its answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, TypedDict

from llmops.client import Patience
from llmops.errors import InputError
from llmops.eval.cache import AnswerCache
from llmops.eval.engines.endpoint import SEEN, endpoint
from llmops.eval.engines.engine import Engine, Generated
from llmops.eval.engines.likelihood import Likelihoods
from llmops.eval.engines.recorded import Recorded
from llmops.eval.harness import evaluate_task
from llmops.eval.harness_requests import Asked
from llmops.eval.items import Item
from llmops.eval.loading import base_of
from llmops.eval.measured import Measured, read
from llmops.eval.reward_model import RewardModel, Rewards
from llmops.eval.run import evaluate, written
from llmops.eval.suite import Generation, Suite
from llmops.events import Listener
from llmops.finetune.prices import read_prices
from llmops.hardware import device_of, machine
from llmops.records import ModelSource
from llmops.registry.folder import check_answers, is_reward_model
from llmops.registry.reference import resolve
from llmops.workspace import Workspace

Suites = Sequence[tuple[Suite, Sequence[Item]]]
Through = Literal["transformers", "vllm"]


@dataclass(frozen=True, slots=True)
class Subject:
    """A model, and the engine that answers with it.

    Attributes:
        here: the model is on this machine's disk, so that it can also be asked how likely a text is to it.
        base: what an adapter answers on; None for a whole model.
        rewards: what it gives texts where it is a reward model, whose engine refuses to answer; else None.
    """

    source: ModelSource
    engine: Engine
    here: bool = False
    base: ModelSource | None = None
    rewards: Rewards | None = None


def subject(
    model: ModelSource, base: ModelSource | None, workspace: Workspace, *, through: Through, keep: bool
) -> Subject:
    """A model on this machine's disk.

    Args:
        base: what an adapter answers on; None for a whole model.
        keep: answers are kept, and those kept before are not asked for again.
    """
    from llmops.eval.engines.transformers import generate as by_transformers
    from llmops.eval.engines.vllm import generate as by_vllm

    cache = AnswerCache(workspace.cache / "answers", model.digest, base.digest if base else None) if keep else None
    generate = by_vllm if through == "vllm" else by_transformers
    engine = partial(generate, model.folder, base=base.folder if base else None, cache=cache)
    return Subject(model, engine, here=True, base=base)


def loaded(
    reference: str, workspace: Workspace, listener: Listener, *, through: Through = "transformers", keep: bool = True
) -> Subject:
    """The model that a reference names, which answers or rewards; an adapter does on the base it names."""
    source = _resolved(reference, workspace, listener)
    if is_reward_model(source.folder):
        model = RewardModel.named(reference, workspace)
        rewards = Rewards(model, workspace.cache / "judged" if keep else None)
        return Subject(source, _WritesNothing(source), here=True, base=model.base, rewards=rewards)
    return subject(*located(reference, workspace, listener), workspace, through=through, keep=keep)


def located(reference: str, workspace: Workspace, listener: Listener) -> tuple[ModelSource, ModelSource | None]:
    """The model that a reference names and, for an adapter, the base it names; raises InputError where it only scores
    answers."""
    source = _resolved(reference, workspace, listener)
    check_answers(source.folder, named=reference)
    named = base_of(source.folder)
    return source, _resolved(named, workspace, listener) if named else None


def _resolved(reference: str, workspace: Workspace, listener: Listener) -> ModelSource:
    def making(done: int, total: int, what: str) -> None:
        listener.advance(what, done, total)

    return resolve(reference, workspace=workspace, on_progress=making, say=listener.say)


@dataclass(frozen=True, slots=True)
class _WritesNothing:
    """The engine of a model that writes no answers."""

    source: ModelSource

    def __call__(self, items: Sequence[Item], generation: Generation, *, listener: Listener) -> Generated:
        raise InputError(
            f"{self.source.reference} is a reward model: it scores answers and writes none, and the suite wants some",
            fix="evaluate it on a suite whose one scorer is reward_accuracy; a suite scores answers with it by "
            f"`- reward: {{model: {self.source.reference}}}`",
        )


def served(
    model: str,
    url: str,
    workspace: Workspace,
    *,
    key: str | None = None,
    concurrency: int = 16,
    keep: bool = True,
    patience: Patience | None = None,
    spares: bool = False,
) -> Subject:
    """The model that a server has under this name; its bytes are not seen.

    Args:
        spares: a request that the server declines ends nothing, see `Endpoint`.
    """
    engine = endpoint(url, model, key=key, concurrency=concurrency, patience=patience, spares=spares)
    cache = AnswerCache(workspace.cache / "answers", engine.digest) if keep else None
    return Subject(ModelSource(model, Path(), SEEN, engine.digest), partial(engine, cache=cache))


def recorded(name: str, file: Path, *, prompt: str, answer: str) -> Subject:
    """The answers that stand in a file, as those of a model called `name`."""
    engine = Recorded(file, prompt=prompt, answer=answer)
    return Subject(ModelSource(name, file.parent, None, engine.digest()), engine)


def measure(
    asked: Subject,
    suites: Suites,
    *,
    folder: Path,
    listener: Listener,
    tasks: Sequence[str] = (),
    limit: int | None = None,
    judged: Path | None = None,
) -> dict[str, Measured]:
    """Its reports by the suite's name, their files in `folder`.

    Args:
        tasks: of lm-evaluation-harness, by name or by the YAML file that defines one.
        limit: of the documents of each of these tasks; a suite's items are limited by whoever gives them.
        judged: folder in which the verdicts of judges are kept; None keeps none.
    """
    found = {}
    for task in tasks:
        of_task = _of_task(task, asked, folder, listener, limit)
        found[str(of_task.suite["name"])] = of_task
    known = _known(asked)
    for suite, items in suites:
        report = evaluate(
            suite,
            items,
            asked.source,
            generate=asked.engine,
            out=folder,
            listener=listener,
            judged=judged,
            **known,
        )
        assert report.file is not None
        found[suite.name] = read(report.file)
    return found


class _Known(TypedDict, total=False):
    """What is known of a model that is on this machine's disk."""

    likelihoods: Likelihoods
    rewards: Rewards
    weights_bytes: int
    usd_per_hour: float | None


def _known(asked: Subject) -> _Known:
    if not asked.here:
        return {}
    folders = [asked.source.folder, *([asked.base.folder] if asked.base else [])]
    prices = read_prices()
    device = device_of(machine())
    # vLLM and transformers take one GPU here.
    price = prices.of(device) if prices is not None and device.kind == "cuda" else None
    read: _Known = {"likelihoods": Likelihoods(asked.source.folder, asked.base.folder if asked.base else None)}
    if asked.rewards is not None:
        read = {"rewards": asked.rewards}
    return {
        **read,
        "weights_bytes": sum(file.stat().st_size for folder in folders for file in folder.glob("*.safetensors")),
        "usd_per_hour": price,
    }


def _of_task(task: str, asked: Subject, folder: Path, listener: Listener, limit: int | None) -> Measured:
    read_by, tokenizer, context = None, None, None
    if asked.here:
        check_answers(asked.source.folder, named=asked.source.reference)
        from transformers import AutoConfig

        from llmops.eval.engines.transformers_reading import read as read_passages
        from llmops.eval.loading import load_tokenizer

        model, base = asked.source.folder, asked.base.folder if asked.base else None
        read_by = partial(read_passages, model, base=base, listener=listener)
        tokenizer = load_tokenizer(model, base=base)
        config = AutoConfig.from_pretrained(str(base or model), local_files_only=True).get_text_config()
        context = getattr(config, "max_position_embeddings", None)
    requests = Asked(asked.engine, read_by, tokenizer, context, listener)
    report = written(evaluate_task(task, asked.source, requests, limit=limit), folder)
    assert report.file is not None
    return read(report.file)
