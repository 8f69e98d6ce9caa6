"""Which servers the engines of a gateway.yaml need: models that share a base share one. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from llmops.files import digest_of
from llmops.serve.gpus import UTILIZATION
from llmops.serve.served import Served
from llmops.serve.settings import LocalEngine

_OF_THE_MODEL = {"model", "quantization", "require"}
_AROUND_IT = {"restart", "ready_timeout_s", "usd_per_gpu_hour"}
"""What a process does not know of itself: how it is waited for, started again and paid."""


@dataclass(frozen=True, slots=True)
class Server:
    """One base in memory, as many times as it has replicas, and the models it answers as.

    Attributes:
        name: of its engines, with `+` between.
        settings: of its engines, which differ in their models only.
        key: equal for what the same processes could serve, adapters' ranks aside; what they cost and how long they
            are waited for is nothing to them.
        members: by engine, what it serves.
        rank: of the adapters it must have room for; None where it has none.
    """

    name: str
    settings: LocalEngine
    key: str
    members: Mapping[str, Served]
    rank: int | None

    @property
    def first(self) -> Served:
        """Any of its models: their base and tokenizer are the same."""
        return next(iter(self.members.values()))

    @property
    def slots(self) -> int:
        """Adapters that can be answered with at one time: each member's, and one that is on its way in or out."""
        return 1 + sum(one.rank is not None for one in self.members.values())

    @property
    def tokens(self) -> int:
        """Of prompt and answer together."""
        return self.settings.max_length or self.first.footprint.context or 2048

    @property
    def utilization(self) -> float:
        """Share of each GPU's memory it takes."""
        stated = self.settings.vllm.get("gpu_memory_utilization")
        return float(stated) if isinstance(stated, int | float | str) else UTILIZATION

    @property
    def share(self) -> float:
        """Of a GPU that others cannot have: all of it, unless the file states less."""
        return self.utilization if "gpu_memory_utilization" in self.settings.vllm else 1.0


def servers(engines: Mapping[str, LocalEngine], models: Mapping[str, Served]) -> list[Server]:
    """The servers of all engines; engines with one base, one tokenizer and all other options alike share one."""
    groups: dict[tuple[str, str], list[str]] = {}
    for name, engine in engines.items():
        around = engine.model_dump_json(include=_AROUND_IT)
        groups.setdefault((_key(engine, models[name]), around), []).append(name)
    found = []
    for (key, _), names in groups.items():
        members = {name: models[name] for name in names}
        ranks = [one.rank for one in members.values() if one.rank is not None]
        found.append(Server("+".join(names), engines[names[0]], key, members, max(ranks, default=None)))
    return found


def could_take(running: Server, wanted: Server) -> bool:
    """Whether the processes of `running` can serve `wanted` without starting again."""
    return running.key == wanted.key and (wanted.rank is None or (running.rank or 0) >= wanted.rank)


def _key(engine: LocalEngine, model: Served) -> str:
    options = engine.model_dump(mode="json", exclude=_OF_THE_MODEL | _AROUND_IT)
    return digest_of([model.base_digest, model.tokenizer_digest, options])
