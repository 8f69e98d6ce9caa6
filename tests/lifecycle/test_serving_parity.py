"""An artifact is judged as vLLM serves it: what became of a model must say what the model says."""

from __future__ import annotations

import json
from pathlib import Path

import typer
from typer.testing import CliRunner

from llmops.cli import evaluate
from llmops.finetune.merge import merge
from tests.eval.lively_models import small_adapter, small_llama
from tests.real_vllm import WITH_VLLM

pytestmark = WITH_VLLM


def test_a_merged_model_is_its_adapter_and_not_its_base(tmp_path: Path, workspace: Path) -> None:
    base = small_llama(tmp_path / "base")
    adapter = small_adapter(base, tmp_path / "adapter")
    merge(adapter, base=base, out=tmp_path / "merged", dtype=None)
    rows = tmp_path / "rows.csv"
    rows.write_text("q,a\n" + "".join(f"question {number},answer\n" for number in range(12)))
    suite = tmp_path / "suite.yaml"
    suite.write_text(
        f"name: s\nitems: {{source: {rows}, prompt: '{{q}}', references: '{{a}}'}}\n"
        "generation: {max_tokens: 8}\nscorers: [{exact_match: {}}]\n"
    )
    gate = tmp_path / "gate.yaml"
    gate.write_text("rules:\n  - {suite: s, served_equals: {kl: 0.05, flips: 0.2}}\n")
    app = typer.Typer()
    evaluate.register(app)

    def judged(trained: Path) -> tuple[int, list[float]]:
        arguments = [str(tmp_path / "merged"), str(suite), "--gate", str(gate), "--trained", str(trained), "--json"]
        done = CliRunner().invoke(app, arguments, catch_exceptions=False)
        return done.exit_code, [rule["value"] for rule in json.loads(done.stdout)["verdict"]["rules"]]

    code, (kl, _) = judged(adapter)
    assert (code, kl < 0.02) == (0, True)
    code, (kl, flips) = judged(base)
    assert code == 3
    assert kl > 0.1
    assert flips > 0.3
