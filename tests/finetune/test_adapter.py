"""An adapter's faults are named from its own files, before its base is loaded."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from llmops.errors import InputError
from llmops.finetune.adapter import attach, check_fit, layer_of, read_adapter, recorded_base
from llmops.finetune.merge_base import empty_model
from tests.finetune.small_adapters import make_adapter, make_base, rewrite, say

KEY = "base_model.model.model.layers.1.mlp.up_proj.lora_A.weight"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("made")
    base = make_base(folder / "base")
    return base, make_adapter(folder / "adapter", base)


@pytest.fixture
def adapter(made: tuple[Path, Path], tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(made[1], tmp_path / "adapter"))


def changed(key: str, value: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    return lambda tensors: tensors | {key: value(tensors[key]).contiguous()}


def with_nan(tensor: torch.Tensor) -> torch.Tensor:
    tensor[0, 0] = float("nan")
    return tensor


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        pytest.param(lambda t: {}, "is empty: it holds no tensor", id="no tensor at all"),
        pytest.param(changed(KEY, lambda t: t[:0]), f"is empty: {KEY} has no values", id="a shell of split weights"),
        pytest.param(changed(KEY, with_nan), f"not finite, in {KEY}", id="NaN"),
        pytest.param(changed(KEY, lambda t: t / 0), f"not finite, in {KEY}", id="infinite"),
        pytest.param(
            lambda tensors: {n: t * ("lora_B" not in n) for n, t in tensors.items()},
            "equals its initial value: all of its 14 B matrices are zero",
            id="B never moved",
        ),
    ],
)
def test_values_that_no_training_leaves_are_refused(adapter: Path, change: Any, problem: str) -> None:
    rewrite(adapter, change)
    with pytest.raises(InputError) as refused:
        read_adapter(adapter)
    assert problem in refused.value.problem


def test_a_layer_that_learned_nothing_is_known_and_no_fault(adapter: Path) -> None:
    rewrite(adapter, changed(KEY.replace("lora_A", "lora_B"), lambda t: t * 0))
    assert read_adapter(adapter).zero_layers == {"model.layers.1.mlp.up_proj"}


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        pytest.param(
            lambda tensors: {name: one for name, one in tensors.items() if name != KEY},
            f"lacks {KEY}",
            id="a tensor is missing",
        ),
        pytest.param(
            lambda tensors: {name.replace("layers.1", "layers.7"): one for name, one in tensors.items()},
            "has no base_model.model.model.layers.7.mlp.down_proj.lora_A.weight (and 13 more)",
            id="layers the base has not",
        ),
        pytest.param(
            changed(KEY, lambda tensor: tensor[:, :16]),
            "model.layers.1.mlp.up_proj is (4, 16) in the adapter and (4, 32) in the base",
            id="another width",
        ),
    ],
)
def test_names_and_shapes_that_do_not_fit_the_base_are_named(
    made: tuple[Path, Path], adapter: Path, change: Any, problem: str
) -> None:
    rewrite(adapter, change)
    read = read_adapter(adapter)
    with pytest.raises(InputError) as refused:
        check_fit(attach(empty_model(made[0], read), read), read, made[0])
    assert problem in refused.value.problem


def test_a_base_of_another_size_is_refused_without_reading_its_weights(made: tuple[Path, Path], tmp_path: Path) -> None:
    wide = make_base(tmp_path / "wide", hidden=64)
    (wide / "model.safetensors").write_bytes(b"never read")
    read = read_adapter(made[1])
    with pytest.raises(InputError, match=r"shapes do not match: .* \(and 27 more\)"):
        check_fit(attach(empty_model(wide, read), read), read, wide)


def test_a_good_adapter_fits(made: tuple[Path, Path]) -> None:
    base, folder = made
    read = read_adapter(folder)
    inner = attach(empty_model(base, read), read)
    check_fit(inner, read, base)
    assert {one.device.type for one in inner.parameters()} == {"meta"}
    assert read.trained_bits == 16
    assert read.base == str(base)


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"peft_type": "IA3"}, "of kind IA3"),
        ({"init_lora_weights": "pissa_niter_4"}, "initialised by pissa_niter_4"),
        ({"alora_invocation_tokens": [3]}, "acts on some tokens only"),
        ({"layers_pattern": "layers"}, "cannot be read"),
    ],
)
def test_adapters_that_no_weight_can_hold_are_refused(adapter: Path, values: dict[str, Any], problem: str) -> None:
    say(adapter, **values)
    with pytest.raises(InputError, match=problem):
        read_adapter(adapter)


def test_a_base_of_another_architecture_is_refused(made: tuple[Path, Path], adapter: Path) -> None:
    say(adapter, target_modules=["c_attn"])
    read = read_adapter(adapter)
    with pytest.raises(InputError, match="has none of the layers of the adapter"):
        attach(empty_model(made[0], read), read)


def test_a_pickle_is_refused(adapter: Path) -> None:
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    with pytest.raises(InputError, match="a pickle, which can run any code"):
        read_adapter(adapter)


def test_a_file_cut_short_is_refused(adapter: Path) -> None:
    file = adapter / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(InputError, match="not a whole safetensors file"):
        read_adapter(adapter)


def test_a_whole_model_is_no_adapter(made: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a whole model"):
        read_adapter(made[0])
    with pytest.raises(InputError, match=r"has no adapter_config\.json"):
        read_adapter(tmp_path)


def test_the_manifest_says_bits_and_base_also_from_beside_the_artifact(adapter: Path) -> None:
    artifact = adapter.rename(adapter.parent / "artifact")
    manifest = {"recipe": {"adapter": {"base_bits": 4}}, "lineage": {"base_digest": "ab12"}}
    (artifact.parent / "manifest.json").write_text(json.dumps(manifest))
    read = read_adapter(artifact)
    assert (read.trained_bits, read.base_digest) == (4, "ab12")


def test_before_the_manifest_is_written_the_recipe_beside_says_the_bits(adapter: Path) -> None:
    (adapter.parent / "recipe.json").write_text(json.dumps({"adapter": {"base_bits": 8}, "base": "builtin:tiny"}))
    read = read_adapter(adapter)
    assert (read.trained_bits, read.base_digest) == (8, None)


def test_the_recorded_base_is_a_reference_to_load_it_by(adapter: Path, made: tuple[Path, Path]) -> None:
    assert recorded_base(adapter) == str(made[0])
    say(adapter, base_model_name_or_path="org/name", revision="0ff1ce")
    assert recorded_base(adapter) == "org/name@0ff1ce"
    say(adapter, base_model_name_or_path="/gone/tiny", revision=None)
    assert recorded_base(adapter) == "/gone/tiny"
    (adapter / "manifest.json").write_text(json.dumps({"recipe": {"base": "builtin:tiny"}}))
    assert recorded_base(adapter) == "builtin:tiny"
    say(adapter, base_model_name_or_path=None)
    assert recorded_base(adapter) is None


@pytest.mark.parametrize(
    ("key", "layer"),
    [
        (KEY, "model.layers.1.mlp.up_proj"),
        ("base_model.model.model.embed_tokens.lora_embedding_A", "model.embed_tokens"),
        ("base_model.model.lm_head.weight", "lm_head"),
    ],
)
def test_a_key_belongs_to_a_layer(key: str, layer: str) -> None:
    assert layer_of(key) == layer
