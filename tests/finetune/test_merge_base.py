"""An adapter is merged into the unquantized base it was trained on, and into no other."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from llmops.errors import InputError
from llmops.files import folder_digest
from llmops.finetune.adapter import Adapter, read_adapter
from llmops.finetune.merge_base import check_base, empty_model, history, load_base
from tests.finetune.small_adapters import make_adapter, make_base


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("models") / "Small-1B")


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory, base: Path) -> Adapter:
    return read_adapter(make_adapter(tmp_path_factory.mktemp("adapters") / "one", base))


def test_the_digest_decides_where_the_run_recorded_one(adapter: Adapter, base: Path, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(base, tmp_path / "moved"))
    digest = folder_digest(base)
    known = replace(adapter, base_digest=digest, base="whatever/it-was-called")
    assert check_base(known, moved) == digest
    config = json.loads((moved / "config.json").read_text()) | {"rope_theta": 1.0}
    (moved / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=f"digest {digest[:12]}, .* has {folder_digest(moved)[:12]}"):
        check_base(known, moved)


@pytest.mark.parametrize(
    ("recorded", "matches"),
    [
        ("org/Small-1B", True),
        ("org/Small-1B@0ff1ce", True),
        ("Small-1B", True),
        (None, True),
        ("org/Small-7B", False),
        ("/gone/elsewhere", False),
    ],
)
def test_else_the_name_decides(adapter: Adapter, base: Path, recorded: str | None, matches: bool) -> None:
    named = replace(adapter, base=recorded)
    if matches:
        assert check_base(named, base) == folder_digest(base)
    else:
        with pytest.raises(InputError, match=f"trained on {recorded}, and .* has another name"):
            check_base(named, base)


def test_another_folder_of_the_same_name_is_another_base_while_the_recorded_one_exists(
    adapter: Adapter, base: Path, tmp_path: Path
) -> None:
    twin = Path(shutil.copytree(base, tmp_path / "Small-1B"))
    with pytest.raises(InputError, match="has another name"):
        check_base(adapter, twin)


def test_a_snapshot_of_the_hub_goes_by_its_hub_id(adapter: Adapter, base: Path, tmp_path: Path) -> None:
    snapshot = tmp_path / "models--org--Small-3B" / "snapshots" / "0ff1ce"
    shutil.copytree(base, snapshot)
    check_base(replace(adapter, base="org/Small-3B"), snapshot)


def test_a_quantized_base_is_refused(adapter: Adapter, base: Path, tmp_path: Path) -> None:
    quantized = Path(shutil.copytree(base, tmp_path / "quantized"))
    config = json.loads((base / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (quantized / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"is quantized \(bitsandbytes\)") as refused:
        check_base(adapter, quantized)
    assert "unquantized original" in refused.value.fix


def test_an_adapter_a_pickle_and_an_empty_folder_are_no_base(adapter: Adapter, base: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is an adapter itself"):
        check_base(adapter, adapter.folder)
    with pytest.raises(InputError, match="is no model"):
        check_base(adapter, tmp_path)
    pickled = Path(shutil.copytree(base, tmp_path / "pickled"))
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    with pytest.raises(InputError, match="no weights in safetensors"):
        check_base(adapter, pickled)


def test_an_architecture_with_its_own_code_is_refused(adapter: Adapter, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "homemade"}))
    with pytest.raises(InputError, match="cannot be built"):
        empty_model(tmp_path, adapter)


def test_what_is_not_merged_has_no_history(base: Path) -> None:
    assert history(base) == []


@pytest.mark.parametrize("rows", [40, 300])
def test_the_embeddings_take_the_length_the_adapter_brings(adapter: Adapter, base: Path, rows: int) -> None:
    """Longer where tokens were added, shorter where a padded vocabulary was cut; the same ones every time."""
    both = {f"base_model.model.{name}.weight": torch.ones(rows, 32) for name in ("model.embed_tokens", "lm_head")}
    longer = replace(adapter, tensors=adapter.tensors | both, folder=Path("without a tokenizer"))
    assert empty_model(base, longer).lm_head.weight.shape == (rows, 32)
    one, two = load_base(base, longer), load_base(base, longer)
    assert one.model.embed_tokens.weight.shape == (rows, 32)
    assert torch.equal(one.lm_head.weight, two.lm_head.weight)


def test_half_of_untied_embeddings_is_refused(adapter: Adapter, base: Path) -> None:
    half = {"base_model.model.model.embed_tokens.weight": torch.ones(300, 32)}
    with pytest.raises(InputError, match="input embeddings for 300 tokens but no output embeddings"):
        empty_model(base, replace(adapter, tensors=adapter.tensors | half))
