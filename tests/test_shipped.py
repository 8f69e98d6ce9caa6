"""Every file for users to edit loads with its model, and so do the examples of the design."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from llmops.config import Settings, load
from llmops.eval.gates import Gate
from llmops.eval.suite import Suite
from llmops.finetune.recipe import Fsdp, Lora, Recipe
from llmops.rubric import load_rubric
from llmops.serve.settings import Gateway

ROOT = Path(__file__).parents[1]
FOLDERS = ("recipes", "configs", "eval", "feedback")
SHIPPED = sorted(
    path.relative_to(ROOT)
    for folder in FOLDERS
    for end in ("*.yaml", "*.yml", "*.jsonl")
    for path in (ROOT / folder).rglob(end)
)


def recipe(path: Path) -> Recipe:
    return load(path, Recipe, what="recipe")


def suite(path: Path) -> Suite:
    return load(path, Suite, what="suite")


def prices(path: Path) -> object:
    from llmops.finetune.prices import Prices

    return load(path, Prices, what="prices")


def gate(path: Path) -> Gate:
    return load(path, Gate, what="gate")


def checked_with_the_image(path: Path) -> object:
    """Files of other programs: tests/test_image.py holds what is in them."""
    found = yaml.safe_load(path.read_text())
    assert isinstance(found, dict)
    return found


def gateway(path: Path) -> Gateway:
    return load(path, Gateway, what="gateway")


def campaign(path: Path) -> Settings:
    from llmops.feedback.campaign import Campaign

    return load(path, Campaign, what="campaign")


def gold(path: Path) -> object:
    """Gold items of a campaign of the same name, each with a verdict of its kind."""
    from llmops.lifecycle.rated_items import gold_of

    wanted = campaign(ROOT / "feedback/campaigns" / f"{path.stem}.yaml")
    return list(gold_of(str(path), wanted.kind))  # type: ignore[attr-defined]


def feedback_service(path: Path) -> object:
    from llmops.feedback.settings import FeedbackService

    return load(path, FeedbackService, what="feedback")


# Folder, or one file of it, → what reads it. A file that none of these reads fails.
READERS: dict[str, Callable[[Path], object]] = {
    "recipes": recipe,
    "eval/suites": suite,
    "eval/gates": gate,
    "feedback/rubrics": load_rubric,
    "feedback/campaigns": campaign,
    "feedback/gold": gold,
    "configs/prices.yaml": prices,
    "configs/gateway.yaml": gateway,
    "configs/quickstart-gateway.yaml": gateway,
    "configs/compose-gateway.yaml": gateway,
    "configs/feedback-gateway.yaml": gateway,
    "configs/feedback.yaml": feedback_service,
    "configs/compose.yaml": checked_with_the_image,
    "configs/monitoring": checked_with_the_image,
}


@pytest.mark.parametrize("path", SHIPPED, ids=str)
def test_a_shipped_file_loads(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("E2E", "DATA", "BASE", "FEEDBACK"):
        monkeypatch.delenv(name, raising=False)
    reader = READERS.get(path.as_posix()) or READERS.get(path.parent.as_posix())
    assert reader is not None, f"nothing reads {path}: say in READERS what does"
    assert path.suffix == (".jsonl" if path.parent.name == "gold" else ".yaml")
    reader(ROOT / path)


def test_the_shipped_folders_hold_no_code() -> None:
    assert [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")] == []


# Recipes.

RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))


def test_the_recipes_a_user_starts_from_are_there() -> None:
    assert {path.stem for path in RECIPES} >= {
        "e2e-full",
        "lora-e2e",
        "lora-qwen3-0.6b",
        "lora-qwen3-8b",
        "qlora-qwen3-8b",
        "lora-llama-3.1-8b",
        "full-qwen3-8b-fsdp",
        "qlora-llama-3.3-70b",
        "dpo-from-feedback",
        "kto-thumbs",
        "reward-from-feedback",
    }


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_says_its_consequences(path: Path) -> None:
    text = path.read_text()
    assert text.startswith("#"), "the first line says what it is for"
    assert sum("#" in line for line in text.splitlines()) >= 5
    assert "default" not in text, "defaults go stale in comments; `llmops explain recipe` prints them"


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_files_a_recipe_names_are_there(path: Path) -> None:
    loaded = recipe(path)
    named = [*loaded.data.checks.contamination]
    if loaded.evaluate is not None:
        named += [*loaded.evaluate.suites, *([loaded.evaluate.gate] if loaded.evaluate.gate else [])]
    assert [name for name in named if not (ROOT / name).is_file()] == []


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_name_is_given_once_and_the_method_is_in_the_files_name(path: Path) -> None:
    loaded = recipe(path)
    assert [other.stem for other in RECIPES if recipe(other).name == loaded.name] == [path.stem]
    adapter = loaded.adapter
    if path.stem.startswith("qlora-"):
        assert isinstance(adapter, Lora)
        assert adapter.base_bits == 4
    elif path.stem.startswith("lora-"):
        assert isinstance(adapter, Lora)
        assert adapter.base_bits == 16
    elif "full" in path.stem:
        assert adapter.kind == "none"
    assert path.stem.endswith("-fsdp") is isinstance(loaded.parallel, Fsdp)


@pytest.mark.parametrize(
    ("name", "worlds"),
    [
        ("e2e-full", (1,)),
        ("lora-qwen3-0.6b", (1, 2, 4, 8)),
        ("lora-qwen3-8b", (1, 2, 4, 8, 16)),
        ("qlora-qwen3-8b", (1, 2, 4, 8, 16)),
        ("lora-llama-3.1-8b", (1, 2, 4, 8, 16)),
        ("full-qwen3-8b-fsdp", (1, 2, 4, 8, 16, 32)),
        ("qlora-llama-3.3-70b", (1, 2, 4, 8, 16)),
    ],
)
def test_an_update_can_be_split_over_the_usual_numbers_of_gpus(name: str, worlds: tuple[int, ...]) -> None:
    batch = recipe(ROOT / "recipes" / f"{name}.yaml").batch
    for world in worlds:
        assert batch.passes(world) * world * batch.per_device == batch.sequences


# The design's examples, as they stand there.

E2E_FULL = """\
name: e2e-nlg                            # the model's name in the registry
base: builtin:tiny                       # hub id, hub-id@revision, a folder, models:/name@alias
data:
  train:
    - source: ${E2E:-data/e2e}/devset.csv     # csv jsonl parquet, hub:org/name, any fsspec or deltalake URL
      prompt: "{mr}"                          # columns → a user turn and an assistant turn;
      completion: "{ref}"                     #   or `messages: column`, `text: column`, `chosen:`/`rejected:`
  validation: 0.05                            # share of distinct prompts, chosen by hash; or a list like train
  checks: {duplicates: drop, contamination: [eval/suites/e2e.yaml], personal_data: report}
method: {kind: sft}                      # sft | dpo | kto | orpo | reward | distill
adapter: {kind: none}                    # none = full fine-tuning
batch: {sequences: 32, per_device: 32, max_length: 256, packing: false}
optimizer: {name: adamw, learning_rate: 2.0e-3, weight_decay: 0.05, clip: 1.0}
schedule: {epochs: 8, warmup: 0.08, shape: cosine}
precision: bf16
seed: 17
evaluate: {suites: [eval/suites/e2e.yaml], gate: eval/gates/e2e.yaml}      # optional; `--set evaluate=null` leaves it out
"""  # noqa: E501 (as it stands in the design)

E2E_SUITE = """\
name: e2e
items:
  source: ${E2E:-data/e2e}/testset_w_refs.csv
  prompt: "{mr}"
  references: "{ref}"                    # rows with one prompt are one item with several references
  slices: {family: "familyFriendly\\\\[(\\\\w+)\\\\]"}     # a column, or a pattern with one group on the prompt
generation: {max_tokens: 96, temperature: 0}
scorers:
  - bleu: {lowercase: true}
  - chrf: {}
  - rouge: {variants: [rouge1, rouge2, rougeL, rougeLsum]}
  - exact_match: {}
"""

E2E_GATE = """\
against: champion                        # alias to compare with; a first version has none
confidence: 0.95
rules:
  - {suite: e2e, metric: bleu, at_least: 25}
  - {suite: e2e, metric: bleu, no_worse_by: 1.0}         # paired, non-inferiority margin in the metric's points
  - {suite: e2e, metric: rougeL, no_worse_by: 0.02, per_slice: true}
  - {suite: e2e, measure: latency_p95_ms, at_most: 2000}
"""


E2E_CAMPAIGN = """\
name: e2e-preferences
kind: pairwise                           # pairwise | rating | ranking | thumbs | correction
rubric: feedback/rubrics/fluency.yaml
items: {from: ledger, route: auto, sample: 500}      # or a jsonl of prompts and responses
overlap: 3                               # ratings per item, exactly
gold: {share: 0.05, source: feedback/gold/e2e.jsonl}
"""


@pytest.mark.parametrize(
    ("text", "read", "shipped"),
    [
        pytest.param(E2E_FULL, recipe, "recipes/e2e-full.yaml", id="a recipe"),
        pytest.param(E2E_SUITE, suite, "eval/suites/e2e.yaml", id="a suite"),
        pytest.param(E2E_GATE, gate, "eval/gates/e2e.yaml", id="a gate"),
        pytest.param(E2E_CAMPAIGN, campaign, "feedback/campaigns/e2e.yaml", id="a campaign"),
    ],
)
def test_an_example_of_the_design_loads_and_is_the_shipped_file(
    tmp_path: Path, text: str, read: Callable[[Path], Settings], shipped: str
) -> None:
    """What a file only states beside, such as the licence of rows, is no part of what it asks for."""
    (tmp_path / "example.yaml").write_text(text)
    example, file = read(tmp_path / "example.yaml"), read(ROOT / shipped)
    assert type(example) is type(file)
    assert example.model_dump(mode="json") == file.model_dump(mode="json")


@pytest.mark.parametrize("variant", ["plain", "dora", "rslora"])
def test_the_designs_adapter_loads_in_its_variants(tmp_path: Path, variant: str) -> None:
    line = "adapter: {kind: lora, rank: 16, alpha: 32, targets: all-linear, base_bits: 16}"
    text = E2E_FULL.replace("adapter: {kind: none}", line)
    (tmp_path / "example.yaml").write_text(text)
    loaded = load(
        tmp_path / "example.yaml",
        Recipe,
        what="recipe",
        overrides=[f"adapter.variant={variant}", "adapter.dropout=0.05", "evaluate=null"],
    )
    assert loaded.adapter == Lora(kind="lora", rank=16, alpha=32, variant=variant, dropout=0.05)
