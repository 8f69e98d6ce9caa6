"""A quantized version says what it was made of, what it keeps of it, and whether that is enough."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from llmops.data.chat import encode_prompt
from llmops.database import open_database
from llmops.errors import EnvironmentFault, InputError
from llmops.eval.loading import Precision, load, load_tokenizer
from llmops.finetune.merge import merge
from llmops.hardware import machine
from llmops.lifecycle.originals import Original, look
from llmops.lifecycle.quantize import Options, Prepared, Result, prepare, quantize_model, runnable
from llmops.lifecycle.quantized_gate import Kept, Pair, judged
from llmops.quantize.run import Request, quantize
from llmops.records import ModelSource, Verdict
from llmops.registry.derived import made_beside, made_from
from llmops.registry.licence_chain import of_version
from llmops.registry.store import find
from llmops.registry.verdicts import verdicts_of
from tests.eval.lively_models import small_llama
from tests.lifecycle.sites import Site
from tests.listener import Heard

# One worker, so that what is trained and quantized for all is made once.
pytestmark = [pytest.mark.timeout(600), pytest.mark.xdist_group("quantized")]

GATE = """\
against: original
rules:
  - {suite: "*", served_equals: {kl: 5.0}}
  - {suite: "*", changed_at_most: 0.99}
  - {suite: "*", metric: exact_match, no_worse_by: 0.99}
  - {suite: "*", weights_at_most: 0.9}
"""


def write_gate(folder: Path, text: str = GATE) -> Path:
    path = folder / "quantized.yaml"
    path.write_text(text)
    return path


@pytest.fixture(scope="module")
def trained(make_site: Callable[[Path], Site], tmp_path_factory: pytest.TempPathFactory) -> Site:
    """A site with one version, `small/1`: an adapter that a run trained on a base of widths that schemes fit."""
    site = make_site(tmp_path_factory.mktemp("site"))
    base = small_llama(site.folder / "base")
    (base / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    site = replace(site, base=base)
    lora = {"kind": "lora", "rank": 4, "alpha": 64, "targets": "all-linear"}
    site.run(site.recipe(adapter=lora, optimizer={"learning_rate": 2e-2}))
    return site


def quantized(site: Site, scheme: str, *, heard: Heard | None = None, **options: Any) -> Result:
    heard = heard or Heard()
    wanted = Options(gate=write_gate(site.folder), **({"iters": 0} | options))
    original = look("models:/small/1", workspace=site.workspace, listener=heard)
    prepared = prepare(original, [scheme], wanted, workspace=site.workspace)
    return quantize_model(prepared, scheme, wanted, machine=machine(), workspace=site.workspace, listener=heard)


@pytest.fixture(scope="module")
def made(trained: Site) -> Result:
    return quantized(trained, "nf4")


def test_it_is_a_version_that_says_what_it_was_made_of(trained: Site, made: Result) -> None:
    original = find("small", "1", workspace=trained.workspace)
    assert made.version is not None
    assert (made.version.reference, made.version.kind) == ("models:/small-nf4/1", "quantized")
    assert made.version.description.startswith("nf4 from models:/small/1, ")
    assert made_from(str(original.digest), "nf4", workspace=trained.workspace) == made.version
    assert made_beside(str(original.digest), "nf4", workspace=trained.workspace) is None
    assert made.manifest.lineage["base_digest"] == made.version.tags["llmops.base_digest"] == original.digest
    card = (made.artifact / "README.md").read_text()
    assert "llmops quantize models:/small/1 --scheme nf4 --fast --seed 0" in card
    assert (made.artifact / "bom.cdx.json").is_file()


def test_the_licences_of_the_original_are_its_own(made: Result) -> None:
    assert made.version is not None
    chain = of_version(made.version)
    assert chain is not None
    assert {(one.role, one.licence, one.through) for one in chain} == {
        ("base", "Apache-2.0", "models:/small/1"),
        ("data", "CC0-1.0", "models:/small/1"),
    }


def test_the_verdict_is_on_its_bytes_against_the_original(trained: Site, made: Result) -> None:
    assert made.version is not None
    assert verdicts_of(open_database(trained.workspace), str(made.version.digest)) == [made.verdict]
    assert made.verdict.against == "models:/small/1"
    assert made.verdict.model_digest == made.manifest.artifact_digest
    names = [rule["rule"] for rule in made.verdict.rules]
    assert names == [
        "small served equals trained: kl ≤ 5",
        "small changed answers ≤ 0.99",
        "small exact_match no worse by 0.99",
        "small weights ≤ 0.9 of the other's",
    ]


def test_what_it_keeps_is_what_a_second_way_finds(trained: Site, made: Result) -> None:
    """The share of changed answers counted in the reports' files; the divergence over the whole vocabulary."""
    kept = made.kept["small"]
    files = list((made.folder / "report").glob("small-*.json"))
    before, after = sorted(
        (json.loads(path.read_text()) for path in files), key=lambda one: "nf4" in one["model"]["reference"]
    )
    answers = [{item["id"]: item["answer"] for item in one["items"]} for one in (before, after)]
    changed = [answers[0][one] != answers[1][one] for one in answers[0]]
    assert kept.changed is not None
    assert kept.changed.value == pytest.approx(np.mean(changed))
    sizes = [
        sum(file.stat().st_size for file in folder.glob("*.safetensors")) for folder in (trained.base, made.artifact)
    ]
    assert kept.weights_bytes[1] == sizes[1] < sizes[0] < kept.weights_bytes[0]

    original = look("models:/small/1", workspace=trained.workspace, listener=Heard())
    precision: Precision = "bf16" if before["engine"]["precision"] == "bf16" else "fp32"
    model, _ = load(original.source.folder, base=trained.base, device="cpu", precision=precision)
    smaller, _ = load(made.artifact, device="cpu", precision=precision)
    tokenizer = load_tokenizer(made.artifact)
    total, flipped, tokens = 0.0, 0, 0
    for item in after["items"]:
        asked = encode_prompt(tokenizer, item["messages"])
        answer = tokenizer(item["answer"], add_special_tokens=False)["input_ids"]
        if not answer:
            continue
        with torch.inference_mode():
            ids = torch.tensor([[*asked, *answer]])
            p, q = (
                one(input_ids=ids).logits[0, len(asked) - 1 : -1].float().log_softmax(-1) for one in (model, smaller)
            )
        total += float((p.exp() * (p - q)).sum())
        flipped += int((p.argmax(-1) != q.argmax(-1)).sum())
        tokens += len(answer)
    # 64 tokens are told apart and all others taken together, which lowers it a little; batches round otherwise.
    assert kept.kl.value == pytest.approx(total / tokens, rel=0.15)
    assert kept.flips.value == pytest.approx(flipped / tokens, abs=0.1)
    assert kept.kl.value > 0


def test_the_same_request_is_answered_at_once(trained: Site, made: Result) -> None:
    heard = Heard()
    again = quantized(trained, "nf4", heard=heard)
    assert again.cached
    assert (again.kept, again.verdict, again.version) == (made.kept, made.verdict, made.version)
    assert heard.lines == [f"small-nf4 was made before from the same bytes, rows and settings: {made.folder}"]


def test_merged_first_it_is_the_adapter_and_not_its_base(trained: Site, made: Result, tmp_path: Path) -> None:
    original = look("models:/small/1", workspace=trained.workspace, listener=Heard())
    merge(original.source.folder, base=trained.base, out=tmp_path / "merged")
    ids = torch.arange(7, 40)[None]

    def distribution(folder: Path) -> torch.Tensor:
        model, _ = load(folder, device="cpu", precision="fp32")
        with torch.inference_mode():
            return model(input_ids=ids).logits[0].log_softmax(-1)

    of_made, of_merged, of_base = map(distribution, (made.artifact, tmp_path / "merged", trained.base))
    to_merged = float((of_merged.exp() * (of_merged - of_made)).sum(-1).mean())
    to_base = float((of_base.exp() * (of_base - of_made)).sum(-1).mean())
    assert to_merged < 0.5 * to_base


def test_nf4_is_bitsandbytes_own_table(made: Result, trained: Site) -> None:
    """Each weight over its block's largest is the nearest of the sixteen numbers, two of them in a byte."""
    from bitsandbytes.functional import get_4bit_type
    from safetensors.torch import load_file

    (merged,) = (trained.workspace.cache / "merged").iterdir()
    layer = "model.layers.1.mlp.down_proj.weight"
    weights = load_file(merged / "model.safetensors")[layer].bfloat16().float().flatten()
    packed = load_file(made.artifact / "model.safetensors")[layer].flatten()
    codes = torch.stack([packed >> 4, packed & 0xF], dim=1).flatten().long()
    blocks = weights.view(-1, 64)
    scaled = (blocks / blocks.abs().amax(1, keepdim=True)).flatten()
    by_hand = (scaled[:, None] - get_4bit_type("nf4", device="cpu")).abs().argmin(1)
    # The base is in 32 bits; where its rounding to 16 is a tie, either of two neighbours is right.
    assert float((codes == by_hand).float().mean()) > 0.99
    assert made.manifest.measured["disk_bytes"] == pytest.approx(made.forecast.disk, rel=0.05)


def test_a_gate_it_does_not_pass_leaves_a_version_that_says_so(trained: Site, tmp_path: Path) -> None:
    strict = write_gate(tmp_path, 'against: original\nrules:\n  - {suite: "*", weights_at_most: 0.01}\n')
    wanted = Options(iters=0, gate=strict)
    original = look("models:/small/1", workspace=trained.workspace, listener=Heard())
    prepared = prepare(original, ["nf4"], wanted, workspace=trained.workspace)
    found = quantize_model(prepared, "nf4", wanted, machine=machine(), workspace=trained.workspace, listener=Heard())
    assert found.verdict.result == "FAIL"
    assert found.version is not None
    assert verdicts_of(open_database(trained.workspace), str(found.version.digest))[-1] == found.verdict


# Before anything is loaded


@pytest.fixture
def original(trained: Site) -> Original:
    return look("models:/small/1", workspace=trained.workspace, listener=Heard())


def prepared(original: Original, site: Site, **options: Any) -> Prepared:
    wanted = Options(gate=write_gate(site.folder), **options)
    return prepare(original, ["w4a16", "nf4"], wanted, workspace=site.workspace)


def test_rows_and_suites_are_those_of_the_run_unless_said(trained: Site, original: Original, tmp_path: Path) -> None:
    found = prepared(original, trained)
    assert found.source is not None
    assert original.manifest is not None
    assert found.source.digest == original.manifest.lineage["dataset"]
    assert [suite.name for suite, _ in found.suites] == ["small"]
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"text": "something else"}\n')
    other = prepared(original, trained, data=rows)
    assert other.source is not None
    assert other.source.file == rows


def test_a_model_of_nobodys_run_needs_a_suite_and_rows(trained: Site) -> None:
    base = look(str(trained.base), workspace=trained.workspace, listener=Heard())
    assert base.name == "base"
    with pytest.raises(InputError, match=r"by which suites .* is judged") as refused:
        prepared(base, trained)
    assert "--suite" in refused.value.fix
    by_suite = Options(suites=(trained.folder / "suite.yaml",), gate=write_gate(trained.folder))
    assert prepare(base, ["nf4"], by_suite, workspace=trained.workspace).source is None, "which is never tuned"
    with pytest.raises(InputError, match=r"no rows to tune .* no run of ours made it") as refused:
        prepared(base, trained, suites=(trained.folder / "suite.yaml",))
    assert "--data" in refused.value.fix
    assert "--fast" in refused.value.fix


def test_what_a_cpu_cannot_run_is_left_out_with_its_reason(original: Original) -> None:
    found = runnable(original, Options(), replace(machine(), gpus=()))
    assert {name for name, why in found.items() if why is None} == {"nf4", "w4a16", "w8a8"}
    assert found["w8a16"] == "w8a16 needs a GPU of compute capability 7.5, and this machine has none"
    beside = runnable(original, Options(beside=True), replace(machine(), gpus=()))
    assert beside["nf4"] == "adapters are not served on a base in nf4"
    assert "is no adapter" in str(runnable(replace(original, base=None), Options(beside=True), machine())["w4a16"])


def test_a_quantized_version_is_not_quantized_again(trained: Site, made: Result) -> None:
    with pytest.raises(InputError, match="is quantized already, by bitsandbytes"):
        look("models:/small-nf4/1", workspace=trained.workspace, listener=Heard())


def test_too_little_memory_is_said_before_anything_is_made(trained: Site, original: Original) -> None:
    wanted = Options(iters=0, gate=write_gate(trained.folder), seed=1)
    ready = prepare(original, ["w8a8"], wanted, workspace=trained.workspace)
    small = replace(machine(), gpus=(), free_memory_bytes=1 << 20)
    heard = Heard()
    with pytest.raises(EnvironmentFault, match="needs about"):
        quantize_model(ready, "w8a8", wanted, machine=small, workspace=trained.workspace, listener=heard)


# An adapter beside its base


def test_an_adapter_beside_its_quantized_base_is_judged_as_the_two_are_served(trained: Site, tmp_path: Path) -> None:
    """The reports are on the base's bytes, and the answers are the adapter's on it."""
    workspace, listener = trained.workspace, Heard()
    original = look("models:/small/1", workspace=workspace, listener=listener)
    assert original.base is not None
    request = Request("nf4", original.base.digest, original.base.digest, 0, 8, 0, None)
    found = quantize(request, original.base, out=tmp_path / "artifact", workspace=workspace, listener=listener)
    base = ModelSource("small-nf4-base", found.artifact, None, found.digest)
    ready = prepared(original, trained, iters=0)

    def judged_by(beside: bool) -> tuple[dict[str, Kept], Verdict]:
        kept, verdict, _ = judged(
            Pair(original.source, original.base, base, beside=beside, served_by="transformers"),
            ready.suites,
            ready.gate,
            named="g",
            folder=tmp_path / f"report-{beside}",
            workspace=workspace,
            listener=listener,
        )
        return kept, verdict

    (on_it, verdict), (alone, _) = judged_by(True), judged_by(False)
    assert verdict.model_digest == found.digest
    assert 0 < on_it["small"].kl.value < 0.5 * alone["small"].kl.value
    adapter = sum(file.stat().st_size for file in original.source.folder.glob("*.safetensors"))
    assert on_it["small"].weights_bytes[1] == found.disk_bytes + adapter


def test_beside_is_for_adapters_and_for_what_vllm_serves(trained: Site, original: Original) -> None:
    wanted = Options(iters=0, beside=True)
    ready = prepared(original, trained, iters=0)
    arguments: dict[str, Any] = {"machine": machine(), "workspace": trained.workspace, "listener": Heard()}
    with pytest.raises(InputError, match="adapters are not served on a base in nf4"):
        quantize_model(ready, "nf4", wanted, **arguments)
    whole = replace(ready, original=replace(original, base=None))
    with pytest.raises(InputError, match="is no adapter, so nothing can stand beside"):
        quantize_model(whole, "nf4", wanted, **arguments)
