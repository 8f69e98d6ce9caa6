"""A merged model is what its adapter and base were together, is not the base, and appears whole or not at all."""

from __future__ import annotations

import json
import shutil
import warnings
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from llmops.errors import InputError
from llmops.files import folder_digest
from llmops.finetune.merge import merge
from llmops.finetune.merge_checks import EFFECT_LOST, TOLERANCE, MergeFault
from tests.finetune.small_adapters import ATTENTION, logits_of, make_adapter, make_base, rewrite, say

IDS = torch.arange(7, 47).reshape(2, 20)
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
    "output layer trained in full": {"modules_to_save": ["lm_head"]},
    "trainable tokens": {"trainable_token_indices": [3, 250]},
}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def with_peft(base: Path, adapter: Path) -> Any:
    """The adapter beside its base as peft loads it, in 32 bits: the other way to the same model."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), adapter)


def loaded(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder)


def kl(reference: torch.Tensor, other: torch.Tensor) -> float:
    """Mean KL(reference ‖ other) in nats, by torch's own function."""
    left, right = (one.double().log_softmax(-1).flatten(0, -2) for one in (reference, other))
    return float(F.kl_div(right, left, log_target=True, reduction="batchmean"))


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Any:
    made: dict[tuple[str, bool, str], Path] = {}

    def base(kind: str = "llama", tied: bool = False, dtype: str = "fp32") -> Path:
        key = (kind, tied, dtype)
        if key not in made:
            folder = tmp_path_factory.mktemp("base")
            made[key] = make_base(folder, kind=kind, tied=tied, dtype=DTYPES[dtype])
        return made[key]

    return base


@pytest.mark.parametrize(
    ("variant", "kind", "tied", "dtype"),
    [
        *product(["plain"], ["llama", "qwen3"], [True, False], ["fp32", "bf16"]),
        *product(list(VARIANTS)[1:], ["llama"], [False], ["fp32"]),
        *product(list(VARIANTS)[1:], ["qwen3"], [True], ["bf16"]),
    ],
)
def test_the_merged_model_equals_the_adapter_beside_its_base(
    bases: Any, tmp_path: Path, variant: str, kind: str, tied: bool, dtype: str
) -> None:
    base = bases(kind, tied, dtype)
    adapter = make_adapter(tmp_path / "adapter", base, **VARIANTS[variant])

    report = merge(adapter, base=base, out=tmp_path / "out")

    model = loaded(tmp_path / "out")
    assert model.dtype == DTYPES[dtype]
    found, wanted = logits_of(model, IDS), logits_of(with_peft(base, adapter), IDS)
    assert kl(wanted, found) <= {"fp32": 1e-12, "bf16": 1e-5}[dtype]
    assert kl(found, logits_of(loaded(base), IDS)) > 1e-4
    assert report.dtype == dtype
    assert report.kl_to_adapter <= TOLERANCE[dtype]
    assert report.kl_to_base > 1e-4
    assert report.effect_lost < 0.01


@pytest.mark.parametrize(("variant", "scale"), [("plain", 8 / 4), ("rslora", 8 / 4**0.5)])
@pytest.mark.parametrize("to", ["fp32", "bf16", "fp16"])
def test_a_merged_weight_is_the_formula_in_32_bits_rounded_once(
    bases: Any, tmp_path: Path, variant: str, scale: float, to: str
) -> None:
    base = bases(dtype="fp32")
    adapter = make_adapter(tmp_path / "adapter", base, **VARIANTS[variant])

    merge(adapter, base=base, out=tmp_path / "out", dtype=to)

    name = "model.layers.1.mlp.up_proj"
    tensors = load_file(adapter / "adapter_model.safetensors")
    a, b = (tensors[f"base_model.model.{name}.lora_{letter}.weight"].double() for letter in "AB")
    weight = load_file(base / "model.safetensors")[f"{name}.weight"].double()
    merged = load_file(tmp_path / "out" / "model.safetensors")
    exact = weight + scale * b @ a
    step = {"fp32": 2**-23, "bf16": 2**-7, "fp16": 2**-10}[to]
    assert merged[f"{name}.weight"].dtype == DTYPES[to]
    torch.testing.assert_close(merged[f"{name}.weight"].double(), exact, rtol=step / 2 * 1.02, atol=3e-8)
    untouched = load_file(base / "model.safetensors")["model.norm.weight"]
    assert torch.equal(merged["model.norm.weight"], untouched.to(DTYPES[to]))


def test_dora_rescales_every_row_to_its_magnitude(bases: Any, tmp_path: Path) -> None:
    base = bases()
    adapter = make_adapter(tmp_path / "adapter", base, use_dora=True)
    merge(adapter, base=base, out=tmp_path / "out")
    name = "model.layers.0.self_attn.q_proj"
    magnitude = load_file(adapter / "adapter_model.safetensors")[f"base_model.model.{name}.lora_magnitude_vector"]
    merged = load_file(tmp_path / "out" / "model.safetensors")[f"{name}.weight"]
    torch.testing.assert_close(merged.norm(dim=1), magnitude.abs())


@pytest.mark.parametrize(
    ("config", "stays_tied"),
    [
        pytest.param({}, True, id="nothing touched"),
        pytest.param({"target_modules": [*ATTENTION, "lm_head"]}, False, id="an adapter on the output layer only"),
        pytest.param({"target_modules": [*ATTENTION, "embed_tokens"]}, False, id="an adapter on the input only"),
        pytest.param({"modules_to_save": ["lm_head"]}, False, id="the output layer trained in full"),
        pytest.param({"modules_to_save": ["embed_tokens"]}, False, id="the input embeddings trained in full"),
        pytest.param(
            {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True}, True, id="both trained as one"
        ),
    ],
)
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_tied_embeddings_stay_tied_unless_only_one_was_trained(
    bases: Any, tmp_path: Path, config: dict[str, Any], stays_tied: bool, dtype: str
) -> None:
    base = bases(tied=True, dtype=dtype)
    adapter = make_adapter(tmp_path / "adapter", base, **config)

    report = merge(adapter, base=base, out=tmp_path / "out")

    assert report.tied is stays_tied
    assert json.loads((tmp_path / "out" / "config.json").read_text())["tie_word_embeddings"] is stays_tied
    assert ("lm_head.weight" in load_file(tmp_path / "out" / "model.safetensors")) is not stays_tied
    model = loaded(tmp_path / "out")
    assert (model.lm_head.weight is model.model.embed_tokens.weight) is stays_tied
    assert kl(logits_of(with_peft(base, adapter), IDS), logits_of(model, IDS)) <= TOLERANCE[dtype]


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_added_tokens_and_their_embeddings_survive(bases: Any, tmp_path: Path, tied: bool) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base, adapter = bases(tied=tied), tmp_path / "adapter"
    tokenizer = AutoTokenizer.from_pretrained(base)
    assert tokenizer.add_tokens(["<call>", "</call>"]) == 2
    model = AutoModelForCausalLM.from_pretrained(base)
    torch.manual_seed(3)
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    inner = get_peft_model(model, LoraConfig(r=4, target_modules=ATTENTION, task_type="CAUSAL_LM"))
    torch.nn.init.normal_(inner.base_model.model.model.layers[0].self_attn.q_proj.lora_B["default"].weight)
    ids = torch.tensor([[7, len(tokenizer) - 2, 9, len(tokenizer) - 1, 11]])
    wanted = logits_of(inner, ids)
    inner.save_pretrained(adapter, save_embedding_layers=True)
    tokenizer.save_pretrained(adapter)

    merge(adapter, base=base, out=tmp_path / "out")

    again = loaded(tmp_path / "out")
    assert again.config.vocab_size == len(tokenizer) == again.lm_head.weight.shape[0]
    assert kl(wanted, logits_of(again, ids)) < 1e-10
    spoken = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert spoken("<call>", add_special_tokens=False)["input_ids"] == [len(tokenizer) - 2]


def test_tokens_without_embeddings_are_refused(bases: Any, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    adapter = make_adapter(tmp_path / "adapter", bases())
    tokenizer = AutoTokenizer.from_pretrained(bases())
    tokenizer.add_tokens(["<call>"])
    tokenizer.save_pretrained(adapter)
    with pytest.raises(InputError, match=rf"ids up to {len(tokenizer) - 1}, but .* for {len(tokenizer) - 1} tokens"):
        merge(adapter, base=bases(), out=tmp_path / "out")


def test_the_adapters_tokenizer_template_and_generation_settings_are_copied_byte_for_byte(
    bases: Any, tmp_path: Path
) -> None:
    adapter, out = make_adapter(tmp_path / "adapter", bases()), tmp_path / "out"
    merge(adapter, base=bases(), out=out)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
        assert (out / name).read_bytes() == (bases() / name).read_bytes(), f"{name}: the base's where there is no other"

    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(bases() / name, adapter / name)
    (adapter / "chat_template.jinja").write_text("{{ messages }} {# another #}")
    # Settings that the library itself would refuse to save.
    (adapter / "generation_config.json").write_text('{"temperature":0.6,"do_sample":false}')
    merge(adapter, base=bases(), out=out)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
        assert (out / name).read_bytes() == (adapter / name).read_bytes()


def test_the_report_says_what_was_merged_and_the_folder_records_it(bases: Any, tmp_path: Path) -> None:
    said: list[str] = []
    adapter, out = make_adapter(tmp_path / "adapter", bases(), target_modules=["q_proj"]), tmp_path / "out"
    report = merge(adapter, base=bases(), out=out, on_progress=said.append)
    assert report.changed_tensors == 2, "q_proj of two layers"
    assert (report.adapter_digest, report.base_digest) == (folder_digest(adapter), folder_digest(bases()))
    assert report.digest == folder_digest(out)
    record = json.loads((out / "merge.json").read_text())
    assert record["merged_from"]["adapter_digest"] == report.adapter_digest
    assert record["merged_from"]["base_digest"] == report.base_digest
    assert report.kl_to_quantized is None
    assert report.argmax_agreement == 1
    assert len(said) == 4
    change = max(
        float((one - load_file(bases() / "model.safetensors")[name]).abs().max())
        for name, one in load_file(out / "model.safetensors").items()
    )
    assert report.largest_change == change > 0


def test_merging_again_gives_the_same_bytes(bases: Any, tmp_path: Path) -> None:
    adapter = make_adapter(tmp_path / "adapter", bases(dtype="bf16"))
    one, two = (merge(adapter, base=bases(dtype="bf16"), out=tmp_path / name) for name in "ab")
    assert asdict(one) | {"out": None} == asdict(two) | {"out": None}


def test_an_adapter_is_not_merged_twice_even_with_another_merge_between(bases: Any, tmp_path: Path) -> None:
    first = make_adapter(tmp_path / "first", bases())
    merge(first, base=bases(), out=tmp_path / "once")
    second = make_adapter(tmp_path / "second", tmp_path / "once", target_modules=["v_proj"])
    merge(second, base=tmp_path / "once", out=tmp_path / "twice")
    for base in (tmp_path / "once", tmp_path / "twice"):
        with pytest.raises(InputError, match="already holds this adapter"):
            merge(first, base=base, out=tmp_path / "again")
    assert not (tmp_path / "again").exists()


@pytest.mark.parametrize("bits", [4, 8])
def test_an_adapter_trained_on_a_quantized_base_is_merged_into_the_unquantized_one(
    bases: Any, tmp_path: Path, bits: int
) -> None:
    from transformers import BitsAndBytesConfig

    # Rows of 64 values, the block that nf4 has one scale for.
    base = make_base(tmp_path / "base", dtype=torch.bfloat16, hidden=64)
    how = (
        BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.float32,
        )
        if bits == 4
        else BitsAndBytesConfig(load_in_8bit=True)
    )
    options = {"quantization_config": how, "dtype": torch.float32, "device_map": {"": "cpu"}}
    adapter = make_adapter(tmp_path / "adapter", base, options=options)
    manifest = {"recipe": {"adapter": {"base_bits": bits}}, "lineage": {"base_digest": folder_digest(base)}}
    (adapter / "manifest.json").write_text(json.dumps(manifest))

    report = merge(adapter, base=base, out=tmp_path / "out")

    assert report.kl_to_adapter <= TOLERANCE["bf16"], "the merge itself is as exact as any other"
    assert report.kl_to_quantized is not None
    assert report.kl_to_quantized > 10 * report.kl_to_adapter, "what quantization did is reported, and no fault"
    assert "quantization_config" not in json.loads((tmp_path / "out" / "config.json").read_text())


def test_an_update_smaller_than_the_dtype_can_hold_is_refused_by_the_layers_name(bases: Any, tmp_path: Path) -> None:
    base = bases(dtype="bf16")
    adapter = make_adapter(tmp_path / "adapter", base, target_modules=["q_proj"])
    rewrite(adapter, lambda tensors: {n: t * (1e-12 if "lora_B" in n else 1) for n, t in tensors.items()})
    with pytest.raises(MergeFault, match=r"model\.layers\.0\.self_attn\.q_proj and 1 more equals the base in bf16"):
        merge(adapter, base=base, out=tmp_path / "out")
    assert [one.name for one in tmp_path.iterdir()] == ["adapter"], "nothing appears, nothing is left over"


def test_an_update_mostly_lost_to_rounding_is_refused_and_fp32_keeps_it(bases: Any, tmp_path: Path) -> None:
    base = bases(dtype="bf16")
    adapter = make_adapter(tmp_path / "adapter", base)
    rewrite(adapter, lambda tensors: {n: t * (5e-4 if "lora_B" in n else 1) for n, t in tensors.items()})
    with pytest.raises(MergeFault, match=rf"of the adapter's effect, at most {EFFECT_LOST:.0%}"):
        merge(adapter, base=base, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    report = merge(adapter, base=base, out=tmp_path / "out", dtype="fp32")
    assert report.effect_lost < 0.01


def test_a_sum_beyond_fp16_is_refused(bases: Any, tmp_path: Path) -> None:
    adapter = make_adapter(tmp_path / "adapter", bases(), target_modules=["q_proj"])
    rewrite(adapter, lambda tensors: {n: t * (1e7 if "lora_B" in n else 1) for n, t in tensors.items()})
    with pytest.raises(MergeFault, match=r"q_proj has merged weights that are not finite in torch\.float16"):
        merge(adapter, base=bases(), out=tmp_path / "out", dtype="fp16")


def test_rounding_alone_is_no_change(bases: Any, tmp_path: Path) -> None:
    """A smaller dtype moves every tensor; only those the adapter moved are counted."""
    adapter = make_adapter(tmp_path / "adapter", bases(), target_modules=["q_proj"], size=0.5)
    assert merge(adapter, base=bases(), out=tmp_path / "out", dtype="bf16").changed_tensors == 2


def test_out_is_never_taken_from_something_else(bases: Any, tmp_path: Path) -> None:
    adapter = make_adapter(tmp_path / "adapter", bases())
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("mine")
    with pytest.raises(InputError, match="exists and holds something else"):
        merge(adapter, base=bases(), out=tmp_path / "thesis")
    for taken in (adapter, bases()):
        with pytest.raises(InputError, match="is the adapter or the base itself"):
            merge(adapter, base=bases(), out=taken)


def test_a_run_may_replace_its_artifact_by_what_it_merges_into(bases: Any, tmp_path: Path) -> None:
    """The adapter is kept under another name; another adapter's folder is not taken."""
    artifact = make_adapter(tmp_path / "artifact", bases())
    kept = Path(shutil.copytree(artifact, tmp_path / "adapter"))
    other = make_adapter(tmp_path / "other", bases(), size=0.1)
    with pytest.raises(InputError, match="exists and holds something else"):
        merge(kept, base=bases(), out=other)
    merge(kept, base=bases(), out=artifact)
    assert {"config.json", "model.safetensors"} <= {one.name for one in artifact.iterdir()}
    assert not (artifact / "adapter_config.json").exists()
    merge(kept, base=bases(), out=artifact)


def test_a_failed_merge_leaves_the_earlier_one(bases: Any, tmp_path: Path) -> None:
    adapter = make_adapter(tmp_path / "adapter", bases())
    first = merge(adapter, base=bases(), out=tmp_path / "out")
    say(adapter, base_model_name_or_path="some/other-base")
    with pytest.raises(InputError):
        merge(adapter, base=bases(), out=tmp_path / "out")
    assert folder_digest(tmp_path / "out") == first.digest


def test_an_unknown_dtype_is_refused_with_the_nearest(bases: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="did you mean `bf16`"):
        merge(tmp_path, base=bases(), out=tmp_path / "out", dtype="bf61")
