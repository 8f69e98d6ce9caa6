"""What a recipe trains is counted from the shape and equals what the loaded model trains; misfits are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmops.errors import InputError
from llmops.finetune.model import Placement, load_model, trained_parameters
from llmops.finetune.shape import ModelShape, shape_of
from llmops.finetune.trained import check_shape, first_with_gradient, trained_weights, trains_head
from tests.finetune.plans import LLAMA_8B, TINY, make_recipe

LORA = "adapter={kind: lora, rank: 4}"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ModelShape]:
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("base")
    config = LlamaConfig(
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=160,
        tie_word_embeddings=False,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder, shape_of(config.to_dict(), named="base")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "overrides",
    [
        pytest.param([], id="everything"),
        pytest.param(["adapter={kind: none, freeze: {layers: 0-1}}"], id="two layers frozen"),
        pytest.param(["adapter={kind: none, freeze: {layers: '2', embeddings: true}}"], id="and the embeddings"),
        pytest.param([LORA], id="lora"),
        pytest.param([LORA, "adapter.targets=[q_proj, down_proj]"], id="lora on two kinds of layers"),
        pytest.param([LORA, "adapter.targets=[model.layers.1.self_attn.v_proj]"], id="lora on one layer"),
        pytest.param([LORA, "adapter.variant=dora"], id="dora"),
        pytest.param([LORA, "adapter.modules_to_save=[lm_head]"], id="lora with the output layer"),
    ],
)
def test_as_many_weights_are_trained_as_the_loaded_model_trains(
    base: tuple[Path, ModelShape], tmp_path: Path, overrides: list[str]
) -> None:
    import torch

    folder, shape = base
    recipe = make_recipe(tmp_path, "precision=fp32", *overrides)
    model = load_model(recipe, folder, Placement(torch.device("cpu"), "sdpa", liger=False))
    trained = dict(trained_parameters(model))
    assert trained_weights(recipe, shape) == sum(one.numel() for one in trained.values())
    assert trains_head(recipe, shape) == any("lm_head" in name for name in trained)


def test_the_lowest_layer_with_a_gradient_is_above_what_is_frozen_from_the_bottom(tmp_path: Path) -> None:
    def first(freeze: str) -> int:
        return first_with_gradient(make_recipe(tmp_path, f"adapter={{kind: none, freeze: {freeze}}}"), TINY)

    assert first("{embeddings: true, layers: 0-1}") == 2
    assert first("{embeddings: true, layers: '0,2'}") == 1
    assert first("{embeddings: true, layers: 0-3}") == TINY.layers
    assert first("{layers: 0-1}") == 0, "the embeddings below them are trained"


@pytest.mark.parametrize(
    ("overrides", "says", "fix"),
    [
        pytest.param(
            [LORA, "adapter.rank=200"], "adapter.rank is 200, but k_proj is 256 × 128", "at most 128", id="rank"
        ),
        pytest.param([LORA, "adapter.targets=[q_prj]"], "did you mean `q_proj`", "all-linear", id="target"),
        pytest.param(
            [LORA, "adapter.targets=[model.layers.9.mlp.up_proj]"], "layers 0 to 3", "name alone", id="target's layer"
        ),
        pytest.param(
            [LORA, "adapter.modules_to_save=[lm_hed]"], "did you mean `lm_head`", "embed_tokens", id="saved module"
        ),
        pytest.param(
            ["adapter={kind: none, freeze: {layers: 2-7}}"],
            "layer 4, but the base has layers 0 to 3",
            "0-3",
            id="freeze",
        ),
        pytest.param(
            ["batch={sequences: 10, per_device: 4}"],
            "batch.sequences is 10",
            "8 or 12",
            id="batch that cannot be split",
        ),
        pytest.param(["batch.max_length=4096"], "looks back on 1024 tokens", "at most 1024", id="rows too long"),
    ],
)
def test_what_the_shape_makes_impossible_is_refused_in_two_lines(
    tmp_path: Path, overrides: list[str], says: str, fix: str
) -> None:
    with pytest.raises(InputError) as error:
        check_shape(make_recipe(tmp_path, "batch.max_length=512", *overrides), TINY, world=1)
    assert says in error.value.problem
    assert fix in error.value.fix
    assert len(str(error.value).splitlines()) == 2


def test_what_fits_is_let_through(tmp_path: Path) -> None:
    check_shape(make_recipe(tmp_path, LORA, "adapter.targets=[q_proj, lm_head]"), LLAMA_8B, world=2)
