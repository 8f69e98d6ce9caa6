"""A quantized artifact is the rounding it says, in the original's company of files, whole or not at all."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from llmops.errors import EnvironmentFault, InputError
from llmops.files import file_digest, folder_digest
from llmops.finetune.shape import shape_of
from llmops.hardware import Machine
from llmops.quantize.calibration import Source
from llmops.quantize.run import Quantized, Request, check_plain, check_room
from llmops.quantize.schemes import SCHEMES, Forecast, forecast
from tests.listener import Heard
from tests.quantize.made import ROWS, make, tensors, unpacked, unpacked_model, write_rows

# With the file that has vLLM serve what is made here, so that it is made once.
pytestmark = pytest.mark.xdist_group("vllm")


def nearest_by_hand(row: list[float], *, bits: int, group: int) -> tuple[list[int], list[float]]:
    """The codes and each one's scale, a weight at a time: the largest of a group becomes the lowest code.

    The scale is a half-precision number; half-way cases go to the even code.
    """
    codes, scales, lowest = [], [], -(2 ** (bits - 1))
    for start in range(0, len(row), group):
        weights = row[start : start + group]
        scale = float(torch.tensor(max(weights, key=abs) / lowest).half())
        for weight in weights:
            steps = round(float(torch.tensor(weight) / torch.tensor(scale)))  # a division in 32 bits
            codes.append(max(lowest, min(-lowest - 1, steps)))
            scales.append(scale)
    return codes, scales


LAYER = "model.layers.1.mlp.down_proj"


def test_without_tuning_every_weight_is_the_nearest_of_sixteen(model: Path, nearest: Quantized) -> None:
    weights, made = tensors(model)[f"{LAYER}.weight"].float(), tensors(nearest.artifact)
    assert weights.shape == (128, 256)
    for column in range(0, 128, 5):
        codes, scales = nearest_by_hand(weights[column].tolist(), bits=4, group=128)
        wanted = [code * scale for code, scale in zip(codes, scales, strict=True)]
        assert unpacked(made, LAYER, column) == pytest.approx(wanted, abs=1e-7)


def test_embeddings_norms_and_output_layer_stay_as_they_are(model: Path, nearest: Quantized) -> None:
    before, after = tensors(model), tensors(nearest.artifact)
    for name in ("lm_head.weight", "model.embed_tokens.weight", "model.norm.weight"):
        assert torch.equal(before[name], after[name])


def test_all_else_is_the_original_byte_for_byte(model: Path, nearest: Quantized) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
        assert file_digest(model / name) == file_digest(nearest.artifact / name)
    assert not [path for path in nearest.artifact.parent.iterdir() if path.name.startswith(".")], "nothing is left over"
    assert all(path.stat().st_mode & 0o044 for path in nearest.artifact.iterdir()), "a service of another user reads it"


def test_tuning_takes_a_neighbour_of_a_weight_where_that_brings_the_outputs_closer(
    model: Path, nearest: Quantized, tuned: Quantized
) -> None:
    """Rounding is moved by half a step at most; a scale that is tuned smaller cuts off the ends of its range."""
    assert (tuned.rows, nearest.rows) == (8, 0)
    weights, made = tensors(model)[f"{LAYER}.weight"].float(), tensors(tuned.artifact)
    for column in range(0, 128, 16):
        steps = made[f"{LAYER}.scales"][:, column].float().repeat_interleave(128)
        found = torch.tensor(unpacked(made, LAYER, column))
        codes = (found / steps).round()
        inside = (codes > -8) & (codes < 7)
        assert float(((found - weights[column]) / steps).abs()[inside].max()) <= 1.01
    assert distance(model, tuned.artifact) < distance(model, nearest.artifact)


def distance(model: Path, quantized: Path) -> float:
    """Mean KL divergence of the next token on rows like those of the tuning."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    plain, rounded = AutoModelForCausalLM.from_pretrained(model, dtype="float32"), unpacked_model(model, quantized)
    total = 0.0
    for row in ROWS:
        turns = [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["completion"]}]
        ids = tokenizer.apply_chat_template(turns, return_tensors="pt", return_dict=True)["input_ids"]
        with torch.inference_mode():
            p, q = (one(input_ids=ids).logits.log_softmax(-1) for one in (plain, rounded))
        total += float((p.exp() * (p - q)).sum(-1).mean())
    return total / len(ROWS)


def test_progress_is_told_layer_by_layer(heard: Heard, tuned: Quantized) -> None:
    assert tuned.tokens > 8 * 8
    assert heard.lines == [f"w4a16: tuned on 8 rows of {tuned.artifact.parent / 'rows.jsonl'}"]
    assert heard.advances == [("w4a16: layers", 1, 2), ("w4a16: layers", 2, 2)]


def test_the_same_request_gives_the_same_bytes(model: Path, tuned: Quantized, tmp_path: Path) -> None:
    again = make(model, "w4a16", tmp_path / "artifact", iters=20, rows=write_rows(tmp_path / "rows.jsonl"))
    assert again.digest == tuned.digest == folder_digest(tmp_path / "artifact")


def test_eight_bits_of_weights_and_activations_are_the_nearest_of_a_row(model: Path, tmp_path: Path) -> None:
    found = make(model, "w8a8", tmp_path / "artifact")
    before, made = tensors(model), tensors(found.artifact)
    weights, made_codes = before[f"{LAYER}.weight"].float(), made[f"{LAYER}.weight"]
    assert made_codes.dtype == torch.int8
    for place in range(0, 128, 5):
        codes, scales = nearest_by_hand(weights[place].tolist(), bits=8, group=256)
        assert made_codes[place].tolist() == codes
        assert float(made[f"{LAYER}.weight_scale"][place]) == pytest.approx(scales[0], rel=0.005)  # kept in 16 bits
    args = json.loads((found.artifact / "config.json").read_text())["quantization_config"]["config_groups"]["group_0"]
    assert args["input_activations"]["dynamic"] is True
    assert found.disk_bytes == pytest.approx(foretold(model, "w8a8").disk, rel=0.05)


def foretold(model: Path, scheme: str) -> Forecast:
    shape = shape_of(json.loads((model / "config.json").read_text()), named="small")
    return forecast(SCHEMES[scheme], shape, samples=8, length=128, iters=0)


def test_size_and_memory_are_what_was_foretold(model: Path, nearest: Quantized) -> None:
    expected = foretold(model, "w4a16")
    # Names and shapes in the file's header are all the rest.
    assert expected.disk <= nearest.disk_bytes <= expected.disk + 8192
    assert nearest.peak_bytes == pytest.approx(expected.memory, rel=0.5)


def test_what_the_library_cannot_do_leaves_nothing_and_its_log(model: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in model.iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    (broken / "config.json").write_text(json.dumps({"model_type": "llama", "hidden_size": "wide"}))
    with pytest.raises(EnvironmentFault, match=r"nf4 cannot be made of this model: .*Error") as failed:
        make(broken, "nf4", tmp_path / "out" / "artifact")
    log = Path(failed.value.fix.removeprefix("see "))
    assert "Traceback" in log.read_text()
    log.unlink()
    assert list((tmp_path / "out").iterdir()) == []


def test_a_model_that_is_quantized_already_is_refused() -> None:
    with pytest.raises(InputError, match="m is quantized already, by awq"):
        check_plain({"quantization_config": {"quant_method": "awq"}}, named="m")
    check_plain({"quantization_config": None}, named="m")


def test_too_little_memory_or_disk_is_said_before_anything_is_loaded(tmp_path: Path) -> None:
    machine = Machine("a CPU", 2, 2, 8 << 30, 4 << 30, 1 << 40, (), "3.11", ())
    with pytest.raises(EnvironmentFault, match=r"needs about 5\.0 GiB of memory, 4\.0 GiB are free"):
        check_room(Forecast(1, 2, 5 << 30), machine, tmp_path, named="m")
    with pytest.raises(EnvironmentFault, match="GiB are needed in"):
        check_room(Forecast(1 << 60, 2, 1), machine, tmp_path, named="m")


def test_a_request_is_another_one_for_other_rows_or_settings_but_not_for_a_seed_that_nothing_reads() -> None:
    first = Request("w4a16", "a" * 64, "b" * 64, 20, 8, 1, Source("rows", "c" * 64))
    others = (
        replace(first, scheme="w8a8"),
        replace(first, original="d" * 64),
        replace(first, iters=10),
        replace(first, samples=4),
        replace(first, seed=2),
        replace(first, source=Source("rows", "d" * 64)),
    )
    assert len({one.digest for one in (first, *others)}) == 7
    assert replace(first, source=Source("the same by another name", "c" * 64)).digest == first.digest
    nearest = replace(first, iters=0, source=None)
    assert replace(nearest, seed=2, samples=4).digest == nearest.digest
