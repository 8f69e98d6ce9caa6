"""A plan says what a run will take: its updates are those of the order, and a run that cannot fit is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmops.errors import EnvironmentFault, InputError
from llmops.finetune.lengths import LengthProfile
from llmops.finetune.method import Dpo, Kto, Orpo
from llmops.finetune.order import Order
from llmops.finetune.plan import Plan, check_memory, make_plan
from llmops.finetune.recipe import Recipe
from llmops.finetune.shape import ModelShape
from llmops.hardware import KNOWN_GPUS, Device
from tests.finetune.plans import LLAMA_8B, TINY, make_recipe, rows_of

H100 = KNOWN_GPUS["h100-sxm"]
CPU = Device("cpu", "test", 16 << 30, {"bf16": 0.1, "fp32": 0.1}, 1.0, "test")
LORA = "adapter={kind: lora, rank: 16}"


def plan_of(
    recipe: Recipe,
    lengths: LengthProfile | None = None,
    *,
    shape: ModelShape = LLAMA_8B,
    device: Device = H100,
    world: int = 1,
    price: float | None = None,
) -> Plan:
    rows = lengths or rows_of(1000, 512)
    return make_plan(recipe, shape, rows, world=world, device=device, price_per_gpu_hour=price)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    lengths=st.lists(st.integers(4, 64), min_size=1, max_size=60),
    sequences=st.sampled_from([2, 4, 8]),
    packing=st.booleans(),
    schedule=st.sampled_from(["{}", "{steps: 7}", "{epochs: 3}", "{epochs: 2.5}", "{epochs: 0.3}"]),
)
def test_updates_are_those_the_order_makes(
    tmp_path: Path, lengths: list[int], sequences: int, packing: bool, schedule: str
) -> None:
    batch = f"{{sequences: {sequences}, per_device: 2, max_length: 64, packing: {str(packing).lower()}}}"
    recipe = make_recipe(tmp_path, f"batch={batch}", f"schedule={schedule}")
    order = Order(
        lengths=np.array(lengths),
        weights=np.ones(len(lengths), dtype=np.float32),
        batch=recipe.batch,
        schedule=recipe.schedule,
        seed=0,
        world=1,
    )
    assert plan_of(recipe, LengthProfile.from_rows(lengths, lengths), shape=TINY).updates == order.total


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    lengths=st.lists(st.tuples(st.integers(4, 64), st.integers(4, 64)), min_size=1, max_size=40),
    sequences=st.sampled_from([2, 4, 8]),
)
def test_a_pair_fills_an_update_as_one_and_counts_with_the_tokens_of_both(
    tmp_path: Path, lengths: list[tuple[int, int]], sequences: int
) -> None:
    single = make_recipe(tmp_path, f"batch={{sequences: {sequences}, per_device: 2, max_length: 64}}")
    pairs = single.model_copy(update={"method": Dpo(kind="dpo")})
    both = [length for pair in lengths for length in pair]
    order = Order(
        lengths=np.array([sum(pair) for pair in lengths]),
        weights=np.ones(len(lengths), dtype=np.float32),
        batch=pairs.batch,
        schedule=pairs.schedule,
        seed=0,
        world=1,
        widest=2,
    )
    plan = plan_of(pairs, LengthProfile.from_rows(both, both), shape=TINY)
    assert plan.updates == order.total
    assert plan.tokens.used == sum(both)
    assert plan.memory.total >= plan_of(single, LengthProfile.from_rows(both, both), shape=TINY).memory.total


def test_a_reference_is_said_to_cost_time_and_no_memory(tmp_path: Path) -> None:
    recipe = make_recipe(tmp_path)
    said = {}
    for method in (Orpo(kind="orpo"), Dpo(kind="dpo")):
        plan = plan_of(recipe.model_copy(update={"method": method}))
        said[method.kind] = ([note for note in plan.notes if "what the base thinks" in note], plan.memory)
    assert not said["orpo"][0]
    assert len(said["dpo"][0]) == 1
    assert said["dpo"][1] == said["orpo"][1]


def test_what_is_only_measured_is_computed_and_takes_time(tmp_path: Path) -> None:
    """KTO's mismatched answers: a forward pass each, a third of what a trained matrix takes."""
    recipe = make_recipe(tmp_path)
    trained, measured = plan_of(recipe), plan_of(recipe.model_copy(update={"method": Kto(kind="kto")}))
    assert measured.flops.model == trained.flops.model
    assert measured.flops.computed == pytest.approx(trained.flops.computed * 4 / 3, rel=0.05)
    assert measured.seconds > trained.seconds
    assert measured.updates == trained.updates


def test_tokens_are_those_of_all_epochs(tmp_path: Path) -> None:
    recipe = make_recipe(tmp_path, "schedule={epochs: 3}", "batch={sequences: 10, per_device: 2}")
    found = plan_of(recipe, rows_of(100, 50)).tokens
    assert (found.used, found.trained) == pytest.approx((15_000, 7_500))
    assert found.computed == pytest.approx(3 * 100 * 56), "padded to a multiple of eight"


def test_packing_saves_padding(tmp_path: Path) -> None:
    lengths = LengthProfile.from_rows([40, 80, 500] * 100, [20, 40, 250] * 100)
    batch = "batch={sequences: 8, per_device: 4, max_length: 1024, packing: %s}"
    apart = plan_of(make_recipe(tmp_path, batch % "false"), lengths)
    packed = plan_of(make_recipe(tmp_path, batch % "true"), lengths)
    assert apart.utilisation < 0.7
    assert packed.utilisation > 0.95
    assert packed.seconds < apart.seconds
    assert (apart.attention, packed.attention) == ("sdpa", "varlen")


def test_time_speed_and_cost_agree(tmp_path: Path) -> None:
    found = plan_of(make_recipe(tmp_path, LORA, "batch.sequences=64"), price=3.0, world=4)
    assert found.tokens_per_s == pytest.approx(found.tokens.used / found.seconds)
    assert found.cost == pytest.approx(3.0 * 4 * found.seconds / 3600)
    assert plan_of(make_recipe(tmp_path, LORA)).cost is None
    assert found.predicted() == {
        "peak_bytes": found.memory.total,
        "seconds": found.seconds,
        "tokens_per_s": found.tokens_per_s,
    }
    # The same speed, had nothing been padded or computed twice, is the utilisation that was assumed.
    assert found.mfu(found.tokens_per_s) == pytest.approx(H100.mfu * found.flops.model / found.flops.computed)


def test_processes_on_one_cpu_share_its_cores_and_its_memory(tmp_path: Path) -> None:
    recipe = make_recipe(tmp_path, "batch={sequences: 8, per_device: 4}")
    one = plan_of(recipe, shape=TINY, device=CPU)
    two = plan_of(recipe, shape=TINY, device=CPU, world=2)
    assert two.seconds == pytest.approx(one.seconds)
    assert two.needed_bytes == 2 * two.memory.total


def test_the_longest_rows_decide_about_memory(tmp_path: Path) -> None:
    recipe = make_recipe(tmp_path, LORA, "batch.per_device=4")
    most_short = LengthProfile.from_rows([50] * 1000 + [2000] * 4, [10] * 1004)
    assert plan_of(recipe, most_short).memory.total == pytest.approx(
        plan_of(recipe, LengthProfile.from_rows([2000] * 4, [10] * 4)).memory.total, rel=0.05
    )


def test_where_only_some_rows_were_seen_longer_ones_are_planned_for(tmp_path: Path) -> None:
    recipe = make_recipe(tmp_path, LORA)
    seen = replace(rows_of(100, 512), exact=False)
    assert plan_of(recipe, seen).memory.activations > 1.4 * plan_of(recipe).memory.activations
    assert any("768 tokens" in note for note in plan_of(recipe, seen).notes)


def test_every_known_gpu_is_answered_for(tmp_path: Path) -> None:
    fits = {fit.gpu: fit for fit in plan_of(make_recipe(tmp_path, LORA)).fits}
    assert fits.keys() == KNOWN_GPUS.keys()
    assert fits["a100-80"].gpus == 1
    assert not fits["t4"].gpus
    assert "no bf16" in fits["t4"].why_not
    assert not fits["l4"].gpus
    assert "needs" in fits["l4"].why_not


def test_fsdp_says_how_many_gpus_are_enough(tmp_path: Path) -> None:
    batch = "batch={sequences: 64, per_device: 1, max_length: 512}"
    recipe = make_recipe(tmp_path, "parallel={kind: fsdp}", "kernels.checkpointing=true", batch)
    fits = {fit.gpu: fit for fit in plan_of(recipe, world=8).fits}
    # 16 bytes for each of 8.03 B weights are 32 GB on each of 4, and 64 on each of 2.
    assert fits["a100-40"].gpus == 4
    assert fits["a100-40"].bytes <= KNOWN_GPUS["a100-40"].usable_bytes
    assert fits["b200"].gpus == 1
    alone = {fit.gpu: fit for fit in plan_of(make_recipe(tmp_path, batch)).fits}
    assert alone["a100-40"].gpus == 0, "DDP holds everything on each"


def test_a_gpu_that_is_too_small_is_refused_with_the_keys_that_help(tmp_path: Path) -> None:
    recipe = make_recipe(tmp_path, LORA, "batch={sequences: 32, per_device: 4, max_length: 4096}")
    small = plan_of(recipe, rows_of(100, 4096), device=KNOWN_GPUS["l40s"])
    with pytest.raises(EnvironmentFault) as error:
        check_memory(small)
    assert "44.4 GiB" in error.value.problem
    assert "kernels.checkpointing true" in error.value.fix
    assert error.value.fix.count("GiB") == 3
    first = small.suggestions[0]
    assert first.bytes <= KNOWN_GPUS["l40s"].usable_bytes, "what makes it fit comes first"


def test_where_no_single_key_is_enough_they_are_estimated_together(tmp_path: Path) -> None:
    batch = "batch={sequences: 32, per_device: 32, max_length: 4096}"
    small = plan_of(make_recipe(tmp_path, batch), rows_of(100, 4096), device=KNOWN_GPUS["l40s"])
    with pytest.raises(EnvironmentFault, match=r"together") as error:
        check_memory(small)
    assert all(one.bytes > small.device.usable_bytes for one in small.suggestions[:3])
    assert small.together < min(one.bytes for one in small.suggestions[:3])
    assert small.together <= small.device.usable_bytes
    assert "kind: lora" in error.value.fix


@pytest.mark.parametrize("device", [KNOWN_GPUS["l40s"], CPU], ids=["gpu", "cpu"])
@pytest.mark.parametrize("overrides", [[], [LORA], [LORA, "batch.packing=true"]], ids=["full", "lora", "packed"])
def test_every_suggestion_needs_what_it_says(tmp_path: Path, overrides: list[str], device: Device) -> None:
    recipe = make_recipe(tmp_path, "batch={sequences: 16, per_device: 8}", *overrides)
    before = plan_of(recipe, rows_of(64, 2000), device=device)
    assert len(before.suggestions) >= 2
    for suggestion in before.suggestions:
        changed = make_recipe(
            tmp_path, "batch={sequences: 16, per_device: 8}", *overrides, f"{suggestion.key}={suggestion.value}"
        )
        lengths = rows_of(64, min(2000, changed.batch.max_length))
        after = plan_of(changed, lengths, device=device)
        assert after.memory.total == pytest.approx(suggestion.bytes, rel=0.02)
        assert after.memory.total < before.memory.total


def test_what_fits_is_let_through(tmp_path: Path) -> None:
    check_memory(plan_of(make_recipe(tmp_path, LORA)))


def test_a_batch_that_cannot_be_split_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"batch\.sequences is 32"):
        plan_of(make_recipe(tmp_path, "batch={sequences: 32, per_device: 4}"), world=3)


def test_no_row_is_no_plan(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no row to train on"):
        plan_of(make_recipe(tmp_path), LengthProfile.from_rows([], []))
