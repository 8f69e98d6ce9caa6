"""Where replicas run: the GPUs, or the memory of a machine without one, handed out and taken back."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from llmops.errors import EnvironmentFault
from llmops.hardware import Gpu
from llmops.serve.gpus import Ask, assign, check_fits
from llmops.serve.layout import Server

GIB = 1 << 30
PROCESS_BYTES = int(2.2 * GIB)
"""What a vLLM server on the CPU takes beside its model and its keys and values: 2.1 GiB were measured (vLLM 0.32)."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a replica runs.

    Attributes:
        gpus: numbers as this process sees them; empty on the CPU.
        share: of each GPU's memory that nobody else may have.
        cache_gib: memory for keys and values on the CPU.
        bytes: of the machine's memory, on the CPU.
        alone: no other server shares the cores with it.
    """

    gpus: tuple[int, ...] = ()
    share: float = 1.0
    cache_gib: int = 1
    bytes: int = 0
    alone: bool = True


class Places:
    """What is free and what is handed out."""

    def __init__(self, gpus: Sequence[Gpu], memory_bytes: int) -> None:
        """
        Args:
            memory_bytes: free memory of the machine, for servers without a GPU.
        """
        self.gpus = tuple(gpus)
        self._memory = memory_bytes
        self._taken: list[Place] = []

    def names(self) -> tuple[str, ...]:
        """Of the GPUs, as CUDA_VISIBLE_DEVICES names them."""
        stated = os.environ.get("CUDA_VISIBLE_DEVICES")
        named = [one.strip() for one in stated.split(",")] if stated else []
        return tuple(named if len(named) >= len(self.gpus) else map(str, range(len(self.gpus))))

    def find(self, servers: Sequence[Server], *, without: Iterable[Place] = ()) -> list[list[Place]]:
        """Places for the replicas of each server, not yet handed out.

        Args:
            without: handed out, but counted as free.

        Raises:
            EnvironmentFault: there is too little for all of them, or one model does not fit; nothing was loaded yet.
        """
        freed = set(map(id, without))
        taken = [place for place in self._taken if id(place) not in freed]
        return self._on_gpus(servers, taken) if self.gpus else self._on_cpu(servers, taken)

    def take(self, places: Iterable[Place]) -> None:
        self._taken += places

    def give_back(self, places: Iterable[Place]) -> None:
        back = set(map(id, places))
        self._taken = [place for place in self._taken if id(place) not in back]

    def _on_gpus(self, servers: Sequence[Server], taken: Sequence[Place]) -> list[list[Place]]:
        used = {number: sum(place.share for place in taken if number in place.gpus) for number in range(len(self.gpus))}
        asks = [
            Ask(server.name, server.settings.gpus, server.share)
            for server in servers
            for _ in range(server.settings.replicas)
        ]
        chosen = iter(assign(asks, self.gpus, used))
        found = []
        for server in servers:
            places = [Place(next(chosen), server.share) for _ in range(server.settings.replicas)]
            for place in places:
                on = [self.gpus[number] for number in place.gpus]
                check_fits(server.name, server.first.footprint, server.tokens, on, utilization=server.utilization)
            found.append(places)
        return found

    def _on_cpu(self, servers: Sequence[Server], taken: Sequence[Place]) -> list[list[Place]]:
        free = self._memory - sum(place.bytes for place in taken)
        replicas = sum(server.settings.replicas for server in servers)
        stated = os.environ.get("VLLM_CPU_KVCACHE_SPACE", "")
        found, wanted = [], 0
        for server in servers:
            one_request = math.ceil(server.first.footprint.per_token * server.tokens / GIB)
            cache = max(1, one_request, min(8, free // 4 // max(1, replicas) // GIB))
            cache = int(stated) if stated.isdigit() and int(stated) else cache
            each = server.first.footprint.weights + cache * GIB + PROCESS_BYTES
            alone = replicas == 1 and not taken
            found.append(
                [Place(share=0.0, cache_gib=cache, bytes=each, alone=alone) for _ in range(server.settings.replicas)]
            )
            wanted += each * server.settings.replicas
        if wanted > free:
            raise EnvironmentFault(
                f"{', '.join(server.name for server in servers)} would take {wanted / 1e9:.1f} GB of memory "
                f"({replicas} server(s) with weights, keys and values, and {PROCESS_BYTES / 1e9:.1f} GB for vLLM "
                f"itself each), {max(0, free) / 1e9:.1f} GB are free",
                fix="lower `replicas` or `max_length`, or let adapters of one base share a server",
            )
        return found
