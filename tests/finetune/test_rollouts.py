"""A plan of reinforcement counts answers while they are made, vLLM's share and reward models, by stated formulas."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from llmops.cli.plan import print_plan
from llmops.errors import EnvironmentFault
from llmops.eval import reward_model
from llmops.finetune.activations import Arithmetic, Load
from llmops.finetune.lengths import answered_by_the_model
from llmops.finetune.method import Grpo
from llmops.finetune.plan import Plan, check_memory, make_plan
from llmops.finetune.recipe import Recipe
from llmops.finetune.rollouts import (
    REWARDED_AT_ONCE,
    TILE,
    answering_bytes,
    forward_bytes,
    key_value_bytes,
    reference_bytes,
    reinforced_logits_bytes,
    reward_model_weights,
    rewarding_bytes,
)
from llmops.finetune.shape import ModelShape, shape_at
from llmops.finetune.trained import adapter_weights
from llmops.hardware import KNOWN_GPUS, Device
from tests.finetune.plans import LLAMA_8B, TINY, make_recipe
from tests.finetune.small_models import make_random_base

H100 = KNOWN_GPUS["h100-sxm"]
CPU = Device("cpu", "test", 16 << 30, {"bf16": 0.1, "fp32": 0.1}, 1.0, "test")
FP32 = Arithmetic(4, 4, False, "sdpa", False, False, False, False)
LORA = "adapter={kind: lora, rank: 8}"


def grpo(folder: Path, *more: str, **method: Any) -> Recipe:
    """32 answers an update of at most 64 tokens, 8 a pass, prompts of at most 96."""
    said = {"kind": "grpo", "rewards": [{"scorer": {"bleu": {}}}], "generations": 4, "max_tokens": 64, **method}
    sections = [f"method={said}", "batch={sequences: 32, per_device: 8, max_length: 96}"]
    return make_recipe(folder, *sections, "precision=fp32", *more)


def planned(
    recipe: Recipe, shape: ModelShape = TINY, device: Device = CPU, *, rewards: Sequence[ModelShape] = ()
) -> Plan:
    assert isinstance(recipe.method, Grpo)
    lengths = replace(answered_by_the_model([90, 40], [10, 10], recipe.method), exact=True)
    return make_plan(recipe, shape, lengths, world=1, device=device, price_per_gpu_hour=None, reward_models=rewards)


# Each part against a second way to it.


def test_keys_and_values_are_those_that_transformers_keeps(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    make_random_base(tmp_path / "base", layers=3)
    shape = shape_at(tmp_path / "base", named="b")
    for dtype, size in ((torch.float32, 4), (torch.bfloat16, 2)):
        model = AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=dtype)
        with torch.no_grad():
            kept = model(torch.ones((5, 7), dtype=torch.long), use_cache=True).past_key_values
        bytes_kept = sum(one.nbytes for layer in kept.layers for one in (layer.keys, layer.values))
        arithmetic = replace(FP32, compute=size, stream=size)
        counted = key_value_bytes(shape, arithmetic, sequences=5, tokens=7)
        assert counted == bytes_kept * 4 / 3, "and one of the three layers twice, as it grows"


def test_keys_take_the_precision_of_the_stream_where_weights_are_cast(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    make_random_base(tmp_path / "base", layers=2)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        kept = model(torch.ones((5, 7), dtype=torch.long), use_cache=True).past_key_values
    bytes_kept = sum(one.nbytes for layer in kept.layers for one in (layer.keys, layer.values))
    shape = shape_at(tmp_path / "base", named="b")
    cast = replace(FP32, compute=2, casts=True)
    assert key_value_bytes(shape, cast, sequences=5, tokens=7) == bytes_kept * 3 / 2


def test_a_token_of_llama_3_1_8b_takes_128_kib_in_16_bits() -> None:
    half = replace(FP32, compute=2, stream=2)
    assert key_value_bytes(LLAMA_8B, half, sequences=1, tokens=1) * 32 / 33 == 128 << 10


def test_a_pass_without_a_gradient_holds_no_less_than_a_layer_makes(tmp_path: Path) -> None:
    """The largest of what modules give and take at one time, as hooks see it."""
    from transformers import AutoModelForCausalLM

    make_random_base(tmp_path / "base", layers=2)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32)
    mlp = model.model.layers[0].mlp
    made: list[int] = []
    for one in (mlp.gate_proj, mlp.up_proj, mlp.down_proj):
        one.register_forward_hook(lambda _, given, result: made.append(given[0].nbytes + result.nbytes))
    with torch.no_grad():
        model.model(torch.ones((5, 7), dtype=torch.long))
    shape = shape_at(tmp_path / "base", named="b")
    counted = forward_bytes(shape, FP32, tokens=35)
    # Gate, up and product with the stream before and behind the layer.
    assert counted == 35 * 4 * (2 * shape.hidden + 3 * shape.intermediate)
    assert max(made) <= counted <= 3 * max(made)


def test_a_reward_model_has_the_weights_that_transformers_loads(tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    for tied in (True, False):
        make_random_base(tmp_path / str(tied), tied=tied)
        model = AutoModelForSequenceClassification.from_pretrained(tmp_path / str(tied), num_labels=1)
        shape = shape_at(tmp_path / str(tied), named="b")
        number = sum(one.numel() for one in model.parameters())
        assert reward_model_weights(shape, CPU) == 4 * number
        assert reward_model_weights(shape, H100) == 2 * number


def test_it_reads_as_many_answers_at_one_time_as_the_scorer_does() -> None:
    assert REWARDED_AT_ONCE == reward_model._TOKENS_AT_ONCE
    each = forward_bytes(TINY, FP32, tokens=1)
    assert rewarding_bytes(TINY, CPU, answers=4, length=100) == 400 * each
    assert rewarding_bytes(TINY, CPU, answers=4000, length=100) == 81 * 100 * each
    assert rewarding_bytes(TINY, CPU, answers=4000, length=9000) == 9000 * each


def test_tiles_are_as_large_as_trls() -> None:
    """Read and not imported, which would take seconds."""
    trl = find_spec("trl")
    if trl is None or trl.origin is None:
        pytest.skip("trl is not installed: pip install 'llmops[grpo]'")
    folder = Path(trl.origin).parent

    def written(file: str, name: str) -> int:
        found = re.search(rf"^{name} = (\d+)$", (folder / file).read_text(), re.MULTILINE)
        assert found is not None
        return int(found[1])

    tokens = written("kernels/chunked_logprob.py", "TOKEN_CHUNK_SIZE")
    assert (tokens, written("trainer/utils.py", "_CHUNKED_LOGPROB_CHUNK_SIZE")) == TILE


def test_the_loss_holds_a_tile_and_the_states_of_answers(tmp_path: Path) -> None:
    recipe = grpo(tmp_path, LORA)
    load_ = Load(sequences=8, length=160, trained=8 * 64, passes=4)
    states = 8 * 64 * TINY.hidden * (4 + 4 + 4)
    rows = min(TINY.vocabulary, 32768)
    assert reinforced_logits_bytes(recipe, TINY, FP32, load_) == 512 * rows * 4 * 7 + states
    on_gpu = replace(FP32, on_gpu=True)
    assert reinforced_logits_bytes(recipe, TINY, on_gpu, load_) == 512 * rows * 4 + states
    many = replace(load_, trained=100_000)
    states = 100_000 * TINY.hidden * 12
    assert reinforced_logits_bytes(recipe, TINY, on_gpu, many) == 4096 * rows * 4 + states
    full = reinforced_logits_bytes(grpo(tmp_path), TINY, on_gpu, many)
    assert full == 4096 * rows * 4 + states + 4 * TINY.embedding_weights, "and the trained matrix's gradient"


def test_all_answers_of_an_update_are_made_at_one_time(tmp_path: Path) -> None:
    recipe = grpo(tmp_path)
    a_token = (TINY.layers + 1) * TINY.key_width * 8
    drawing = 32 * (96 + 64) * a_token + 32 * TINY.vocabulary * 12
    reading = 32 * 96 * (a_token + 4 * (2 * TINY.hidden + 3 * TINY.intermediate))
    assert answering_bytes(recipe, TINY, FP32, prompt=96) == max(drawing, reading)
    long = grpo(tmp_path, max_tokens=600)
    assert answering_bytes(long, TINY, FP32, prompt=96) == 32 * (96 + 600) * a_token + 32 * TINY.vocabulary * 12


def test_what_the_model_is_compared_with_is_held_where_moving_costs(tmp_path: Path) -> None:
    assert reference_bytes(grpo(tmp_path), TINY) == 0
    assert reference_bytes(grpo(tmp_path, beta=0.1), TINY) == 4 * TINY.parameters.total
    adapted = grpo(tmp_path, LORA, beta=0.1)
    assert reference_bytes(adapted, TINY) == 4 * adapter_weights(adapted.adapter, TINY)  # type: ignore[arg-type]


# All of a run.


def test_the_fullest_of_answering_rewarding_and_training_counts(tmp_path: Path) -> None:
    training = planned(grpo(tmp_path)).memory
    assert (training.rollouts, training.rewards) == (0, 0), "while it trains, no answers are held"
    many = grpo(tmp_path, "batch={sequences: 4096, per_device: 8, max_length: 96}")
    answering = planned(many).memory
    assert answering.rollouts == answering_bytes(many, TINY, FP32, prompt=80)
    assert (answering.gradients, answering.activations, answering.logits) == (0, 0, 0)
    assert answering.total > planned(grpo(tmp_path)).memory.total


def test_reward_models_stay_and_read_while_nothing_is_trained(tmp_path: Path) -> None:
    alone = planned(grpo(tmp_path)).memory
    small = planned(grpo(tmp_path), rewards=[TINY]).memory
    assert small.rewards == reward_model_weights(TINY, CPU)
    assert small.total - alone.total == small.rewards
    wide = replace(TINY, hidden=64 * 64, intermediate=64 * 256, layers=1, vocabulary=8)
    reading = planned(grpo(tmp_path), rewards=[TINY, wide]).memory
    held = reward_model_weights(TINY, CPU) + reward_model_weights(wide, CPU)
    assert reading.rewards == held + rewarding_bytes(wide, CPU, answers=32, length=144)
    assert reading.activations == 0


def test_vllm_takes_its_share_of_all_the_memory_all_the_time(tmp_path: Path) -> None:
    by_vllm = planned(grpo(tmp_path, LORA, vllm_memory=0.4), LLAMA_8B, H100).memory
    itself = planned(grpo(tmp_path, LORA, generate="transformers"), LLAMA_8B, H100).memory
    assert by_vllm.rollouts == int(0.4 * H100.memory_bytes)
    assert by_vllm.activations == itself.activations > 0, "beside a training pass"
    assert by_vllm.total == itself.total + by_vllm.rollouts
    assert planned(grpo(tmp_path, generate="vllm")).memory.rollouts == 0, "there is none on a CPU"


def test_a_share_that_leaves_no_room_is_refused_with_a_smaller_one(tmp_path: Path) -> None:
    plan = planned(grpo(tmp_path, LORA, vllm_memory=0.9), LLAMA_8B, H100)
    with pytest.raises(EnvironmentFault) as refused:
        check_memory(plan)
    assert "method.vllm_memory 0.25" in refused.value.fix


def test_shorter_answers_are_offered_with_what_they_would_take(tmp_path: Path) -> None:
    recipe = grpo(tmp_path, LORA, max_tokens=512, generate="transformers")
    device = replace(H100, memory_bytes=24 << 30)
    (offered,) = (one for one in planned(recipe, LLAMA_8B, device).suggestions if one.key == "method.max_tokens")
    shorter = grpo(tmp_path, LORA, max_tokens=int(offered.value), generate="transformers")
    assert offered.bytes == planned(shorter, LLAMA_8B, device).memory.total


def test_answers_come_on_top_of_the_longest_prompt(tmp_path: Path) -> None:
    """`batch.max_length` bounds the prompt alone."""
    one = planned(grpo(tmp_path, max_tokens=64)).memory
    two = planned(grpo(tmp_path, max_tokens=512)).memory
    assert two.activations > 2 * one.activations


def test_the_command_shows_the_parts_and_that_they_are_estimates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LLMOPS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "200")
    (tmp_path / "rows.csv").write_text("a,b\n" + "what is it,a test\n" * 80)
    scorers = [{"scorer": {"bleu": {}}}, {"scorer": {"reward": {"model": str(tmp_path / "nothing")}}}]
    print_plan(grpo(tmp_path, "precision=bf16", rewards=scorers), gpus=1, gpu="h100-sxm", as_json=False)
    shown = capsys.readouterr().out
    (line,) = (line for line in shown.splitlines() if line.strip().startswith("rollouts"))
    assert "estimated, never compared with a run" in line
    assert "vLLM takes method.vllm_memory (30%) of the GPU" in shown
    assert "the memory of the reward model" in shown
    assert "is not counted" in shown
