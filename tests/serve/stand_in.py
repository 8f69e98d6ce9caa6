"""An interpreter that stands in for one with vLLM, and what it was asked."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmops.serve.settings import Gateway

MakeModel = Callable[..., Path]


@dataclass
class Vllm:
    """The interpreter to name as `python:`, and the folder that steers it."""

    python: Path
    steer: Path

    def starts(self) -> list[dict[str, Any]]:
        """What it was started with, each time."""
        file = self.steer / "starts"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def processes(self) -> list[int]:
        """Every process it ever was."""
        file = self.steer / "children"
        return [int(one) for one in file.read_text().split()] if file.exists() else []

    @contextmanager
    def streaming(self) -> Iterator[None]:
        """Meanwhile its streams do not end."""
        (self.steer / "streaming").touch()
        try:
            yield
        finally:
            (self.steer / "streaming").unlink()

    def gateway(self, engines: dict[str, dict[str, Any]], **more: Any) -> Gateway:
        """Settings with these engines, run by this interpreter."""
        local = {"python": str(self.python), "max_length": 64, "restart": {"first_wait_s": 0.05, "attempts": 3}}
        every = {name: (local | one if "url" not in one else one) for name, one in engines.items()}
        routes = {name: {"policy": "direct", "engine": name} for name in engines}
        return Gateway.model_validate({"engines": every, "routes": routes, "listen": "127.0.0.1:0", **more})
