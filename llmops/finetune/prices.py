"""What a GPU costs by the hour, from `configs/prices.yaml`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import PositiveFloat, field_validator

from llmops.config import Settings, load
from llmops.errors import nearest
from llmops.hardware import KNOWN_GPUS, Device

PLACE = Path("configs") / "prices.yaml"


class Prices(Settings):
    """Prices of GPUs; a GPU that is not named has none, and its runs are planned without cost."""

    usd_per_gpu_hour: dict[Annotated[str, "a short name of a known GPU"], PositiveFloat]
    """US dollars for one GPU and hour, by its short name as `llmops plan --gpu` takes it."""

    @field_validator("usd_per_gpu_hour")
    @classmethod
    def _known(cls, prices: dict[str, float]) -> dict[str, float]:
        for name in prices:
            if name not in KNOWN_GPUS:
                raise ValueError(f"no GPU is called {name!r}{nearest(name, KNOWN_GPUS)}")
        return prices

    def of(self, device: Device) -> float | None:
        return self.usd_per_gpu_hour.get(device.key)


def read_prices(path: Path = PLACE) -> Prices | None:
    """The prices in `configs/prices.yaml` of the current folder; None where there is no such file.

    Raises:
        FileFaults: the file is not valid.
    """
    return load(path, Prices, what="prices") if path.is_file() else None
