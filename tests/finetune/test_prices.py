"""Prices come from configs/prices.yaml; a GPU that is not named has none."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmops.errors import FileFaults
from llmops.finetune.prices import read_prices
from llmops.hardware import KNOWN_GPUS

SHIPPED = Path(__file__).parents[2] / "configs" / "prices.yaml"


def test_the_shipped_prices_load_and_name_known_gpus() -> None:
    prices = read_prices(SHIPPED)
    assert prices is not None
    assert prices.usd_per_gpu_hour.keys() <= KNOWN_GPUS.keys()
    found = prices.of(KNOWN_GPUS["h100-sxm"])
    assert found is not None
    assert 0.5 < found < 20


def test_no_file_is_no_price(tmp_path: Path) -> None:
    assert read_prices(tmp_path / "prices.yaml") is None


def test_a_gpu_that_is_not_named_has_no_price(tmp_path: Path) -> None:
    path = tmp_path / "prices.yaml"
    path.write_text("usd_per_gpu_hour: {l4: 0.7}\n")
    prices = read_prices(path)
    assert prices is not None
    assert prices.of(KNOWN_GPUS["l4"]) == 0.7
    assert prices.of(KNOWN_GPUS["t4"]) is None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        pytest.param("usd_per_gpu_hour: {h100-pci: 1}", "did you mean `h100-pcie", id="unknown GPU"),
        pytest.param("usd_per_gpu_hour: {l4: -1}", "greater than 0", id="negative"),
        pytest.param("usd_per_hour: {l4: 1}", "did you mean `usd_per_gpu_hour`", id="misspelt"),
    ],
)
def test_a_faulty_price_list_is_told_by_line(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "prices.yaml"
    path.write_text(text + "\n")
    with pytest.raises(FileFaults, match=says):
        read_prices(path)
