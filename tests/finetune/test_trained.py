"""What a recipe trains is counted from the shape and equals what the loaded model trains; misfits are refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from llmops.errors import InputError
from llmops.finetune.lengths import LengthProfile
from llmops.finetune.method import Orpo, Reward
from llmops.finetune.model import Placement, load_model, trained_parameters
from llmops.finetune.plan import make_plan
from llmops.finetune.shape import _FAMILIES as FAMILIES
from llmops.finetune.shape import ModelShape, shape_of
from llmops.finetune.trained import check_shape, first_with_gradient, trained_weights, trains_head
from llmops.hardware import KNOWN_GPUS
from tests.finetune.plans import LLAMA_8B, TINY, make_recipe

LORA = "adapter={kind: lora, rank: 4}"
REWARD = "a reward model"


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
        pytest.param([REWARD], id="everything of a reward model"),
        pytest.param([REWARD, LORA], id="lora and the score"),
        pytest.param([REWARD, LORA, "adapter.modules_to_save=[embed_tokens]"], id="lora, score and embeddings"),
    ],
)
def test_as_many_weights_are_trained_as_the_loaded_model_trains(
    base: tuple[Path, ModelShape], tmp_path: Path, overrides: list[str]
) -> None:
    import torch

    folder, shape = base
    recipe = make_recipe(tmp_path, "precision=fp32", *(one for one in overrides if one != REWARD))
    if REWARD in overrides:
        recipe = recipe.model_copy(update={"method": Reward(kind="reward")})
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


def test_a_family_scores_where_transformers_has_a_classifier_of_it(tmp_path: Path) -> None:
    from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES as CLASSIFIERS

    recipe = make_recipe(tmp_path, "batch.max_length=512").model_copy(update={"method": Reward(kind="reward")})
    for family in FAMILIES:
        shape = replace(TINY, architecture=family)
        if family in CLASSIFIERS:
            check_shape(recipe, shape, world=1)
        else:
            with pytest.raises(InputError, match=f"family {family}, of which transformers has no model that scores"):
                check_shape(recipe, shape, world=1)


def test_a_reward_model_needs_no_logits_and_no_output_matrix(tmp_path: Path) -> None:
    """Of an untied base the output matrix is not even loaded; what a plan counts falls by it, and by the logits."""
    device, rows = KNOWN_GPUS["h200"], LengthProfile.from_rows([300] * 64, [150] * 64)
    plans = [
        make_plan(
            make_recipe(tmp_path).model_copy(update={"method": method}),
            LLAMA_8B,
            rows,
            world=1,
            device=device,
            price_per_gpu_hour=None,
        )
        for method in (Orpo(kind="orpo"), Reward(kind="reward"))
    ]
    pairs, reward = plans
    head = LLAMA_8B.vocabulary * LLAMA_8B.hidden
    assert pairs.trained_weights - reward.trained_weights == head - LLAMA_8B.hidden
    assert pairs.weights - reward.weights == head - LLAMA_8B.hidden
    assert pairs.memory.optimizer - reward.memory.optimizer == 8 * (head - LLAMA_8B.hidden)
    assert reward.memory.logits < 1e-2 * pairs.memory.logits
    assert pairs.flops.model - reward.flops.model == pytest.approx(6 * head * pairs.tokens.trained, rel=1e-9)
    assert "no output matrix" in reward.flops.formula
