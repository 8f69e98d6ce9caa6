"""No key of a recipe is read by nothing: another value of any of them changes what is done, or an error names it."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from llmops.config import load
from llmops.data.versions import prepare, rows_of
from llmops.errors import LlmopsError
from llmops.events import Silent
from llmops.finetune.disk import disk_needed
from llmops.finetune.grpo import answers_with, trl_options
from llmops.finetune.identity import run_digest
from llmops.finetune.kernels import choose_kernels
from llmops.finetune.lengths import LengthProfile
from llmops.finetune.method import Distill, Grpo
from llmops.finetune.model import Placement, load_model, trained_parameters
from llmops.finetune.optimizer import make_optimizer
from llmops.finetune.order import Order
from llmops.finetune.plan import make_plan
from llmops.finetune.recipe import Recipe
from llmops.finetune.run import encode_dataset
from llmops.finetune.schedule import learning_rate_factor
from llmops.finetune.shape import shape_of
from llmops.hardware import KNOWN_GPUS
from llmops.lifecycle.prepare import gate_of, held_out, suites_of
from llmops.lifecycle.rewards import rewards_digest
from llmops.records import DatasetVersion, Row
from tests.finetune.recipe_fields import Change, changes, recipe_with
from tests.finetune.small_models import make_random_base
from tests.finetune.small_preferences import make_preference_stores
from tests.finetune.small_runs import ALONE, Stores, as_source, make_stores, run_here
from tests.finetune.test_identity import parts
from tests.lifecycle.small_recipes import write_rows

# ── where the recipes of the table find what they name ─────────────────────────────────────────────────────────────


def texts() -> list[str]:
    """Some short ones, one twice, one with an address, and pairs of which more and less than 0.9 is the same."""
    return [
        *(f"item {number} of many" for number in range(12)),
        "item 3 of many",
        "write to jane.doe@example.org",
        *nearly_the_same(75, "a"),
        *nearly_the_same(75, "b"),
        *nearly_the_same(75, "c"),
        *nearly_the_same(200, "d"),
    ]


def nearly_the_same(words: int, letter: str) -> list[str]:
    """Two texts with another word in their middle: of W − 4 word 5-grams each, 5 differ."""
    text = [f"{letter}{number}" for number in range(words)]
    middle = words // 2
    return [" ".join(text), " ".join([*text[:middle], "other", *text[middle + 1 :]])]


def a_row(text: str) -> dict[str, Any]:
    """A row with a column for every kind of source."""
    turns = [{"role": "user", "content": text}, {"role": "assistant", "content": "yes"}]
    tool = {"type": "function", "function": {"name": "clock", "parameters": {"type": "object", "properties": {}}}}
    return {
        "q": text,
        "a": "yes",
        "b": "no",
        "good": len(text) % 2 == 0,
        "bad": len(text) % 2 == 1,
        "far": 1.0,
        "near": 0.25,
        "turns": turns,
        "dialogue": [*turns, {"role": "user", "content": "sure?"}, {"role": "assistant", "content": "yes"}],
        "tools": [tool],
        "body": text,
        "content": f"{text}!",
    }


SUITE = """\
name: {name}
items: {{source: {name}.jsonl, prompt: '{{q}}', references: '{{a}}'}}
scorers: [{{bleu: {{}}}}]
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that the recipes of the table name; the gate has a fault."""
    folder = tmp_path_factory.mktemp("place")
    write_rows(folder / "a.jsonl", [a_row(text) for text in texts()])
    write_csv(folder / "b.csv", [a_row("another"), a_row("and one")])
    for part in ("suites", "gates"):
        (folder / "eval" / part).mkdir(parents=True)
    for name, items in (("e2e", ["item 5 of many"]), ("other", ["never"])):
        write_rows(folder / f"{name}.jsonl", [a_row(text) for text in items])
        (folder / "eval" / "suites" / f"{name}.yaml").write_text(SUITE.format(name=name))
    (folder / "eval" / "gates" / "e2e.yaml").write_text("rules: [{suite: other, metric: bleu, at_lest: 1}]\n")
    return folder


def write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        for row in rows:
            writer.writerow({key: value if isinstance(value, str) else json.dumps(value) for key, value in row.items()})


class OtherHub:
    """A hub of one data set, whose rows say which split and commit they are of."""

    def commit(self, name: str, revision: str | None) -> str:
        return f"commit-{revision}"

    def rows(self, name: str, *, config: str | None, split: str, commit: str) -> Iterable[Mapping[str, Any]]:
        return [a_row(f"{split} {commit} {number}") for number in range(12)]


# ── what a recipe does, looked at from several sides ───────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Sides:
    """Functions from a recipe to something that can be compared; `folder` is a fresh one for each call."""

    base: Path
    stores: Stores
    preferences: Mapping[str, Stores]
    folder: Callable[[], Path]
    looked: dict[tuple[str, str], str] = field(default_factory=dict)

    def before(self, side: str, recipe: Recipe) -> str:
        """What a side shows, in words; looked at once, for many changes begin with one recipe."""
        key = side, recipe.model_dump_json()
        if key not in self.looked:
            self.looked[key] = repr(getattr(self, side)(recipe))
        return self.looked[key]

    def version(self, recipe: Recipe) -> DatasetVersion:
        """The rows as a version of the data set."""
        folder = self.folder()
        return prepare(
            recipe.data,
            objects=folder / "objects",
            cache=folder / "cache",
            held_out=held_out(recipe.data),
            hub=OtherHub(),
        )

    def digest(self, recipe: Recipe) -> Any:
        """The version's name."""
        return self.version(recipe).digest

    def rows(self, recipe: Recipe) -> Any:
        """Rows of both splits, how often an epoch sees them, and what the checks found."""
        version = self.version(recipe)
        train = [(row.content, row.weight) for row in rows_of(version, "train")]
        return train, [row.content for row in rows_of(version, "validation")], version.findings

    def tokens(self, recipe: Recipe) -> Any:
        """Rows lost while encoding, one of them of a thousand tokens."""
        asked = {"role": "user", "content": "?"}
        rows = [
            Row(str(size), "messages", {"messages": [asked, {"role": "assistant", "content": "x" * size}]}, "s", size)
            for size in (3, 1000)
        ]
        dataset = DatasetVersion("d" * 64, self.folder(), {"train": 2, "validation": 0}, (), ())
        made = encode_dataset(
            {"train": lambda: rows}, dataset, recipe, as_source(self.base), cache=self.folder(), listener=Silent()
        )
        return made.report.lost_too_long

    def order(self, recipe: Recipe) -> Any:
        """Every pass of every update."""
        store = self.stores.train
        order = Order(store.lengths, store.weights, recipe.batch, recipe.schedule, recipe.seed, world=1)
        return [update.passes for update in order.updates()]

    def rate(self, recipe: Recipe) -> Any:
        """The learning rate over a hundred updates."""
        return [
            recipe.optimizer.learning_rate * learning_rate_factor(recipe.schedule, update, 100)
            for update in range(1, 101)
        ]

    def model(self, recipe: Recipe) -> Any:
        """What is trained, how it begins, and how the model around it computes."""
        torch.manual_seed(recipe.seed)
        model = load_model(recipe, self.base, Placement(ALONE.device, "sdpa", liger=False))
        parts = [
            (name, type(part).__name__, getattr(part, "p", None), repr(getattr(part, "scaling", None)))
            for name, part in model.named_modules()
        ]
        trained = [(name, one.shape, one.dtype, float(one.detach().sum())) for name, one in trained_parameters(model)]
        compiled = [layer._compiled_call_impl is not None for layer in model.layers]
        noise = len(model.causal.get_input_embeddings()._forward_hooks)
        return parts, trained, compiled, noise, model.chunk, model.causal.is_gradient_checkpointing

    def optimizer(self, recipe: Recipe) -> Any:
        """Which optimizer, and what it was told."""
        made = make_optimizer(recipe.optimizer, torch.nn.Linear(2, 2).named_parameters())
        told = ("lr", "betas", "eps", "weight_decay")
        return type(made).__name__, [[group[key] for key in told] for group in made.param_groups]

    def training(self, recipe: Recipe) -> Any:
        """A whole run: what every update measured, which checkpoints were left, and the final weights."""
        folder = self.folder()
        if isinstance(recipe.method, Grpo):
            told = trl_options(recipe, device="cpu", total=1, weights=[one.weight for one in recipe.method.rewards])
            return told, rewards_digest(recipe.method), answers_with(recipe.method, "cpu")
        teacher = self.base if isinstance(recipe.method, Distill) and recipe.method.logits else None
        stores = self.preferences.get(recipe.method.item.name, self.stores)
        done = run_here(recipe, self.base, stores, folder, references=self.folder(), teacher=teacher)
        steps = [replace(step, seconds=0, peak_bytes=0) for step in done.steps]
        weights = {name: one.double().sum().item() for name, one in done.weights.items()}
        return steps, weights, sorted(path.name for path in folder.iterdir())

    def kernels(self, recipe: Recipe) -> Any:
        """What was chosen, with the reasons."""
        return choose_kernels(recipe, as_source(self.base), world=1)

    def plan(self, recipe: Recipe) -> Any:
        """Updates, tokens, memory and time on two H200."""
        shape = shape_of(json.loads((self.base / "config.json").read_text()), named="base")
        lengths = LengthProfile.from_rows(range(20, 400), range(10, 390))
        return make_plan(recipe, shape, lengths, world=2, device=KNOWN_GPUS["h200"], price_per_gpu_hour=None)

    def disk(self, recipe: Recipe) -> Any:
        """Bytes of all checkpoints and the artifact."""
        shape = shape_of(json.loads((self.base / "config.json").read_text()), named="base")
        return disk_needed(self.plan(recipe), recipe, shape)

    def suites(self, recipe: Recipe) -> Any:
        """What is measured after training."""
        suites = suites_of(recipe.evaluate)
        asked = [(suite.name, [item.prompt for item in items]) for suite, items in suites]
        return asked, gate_of(recipe.evaluate, suites)


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> Sides:
    base = tmp_path_factory.mktemp("base")
    make_random_base(base, tied=False)  # so that the output layer can be trained by itself
    stores = make_stores(base, tmp_path_factory.mktemp("tokens"))
    preferences = {
        kind: make_preference_stores(base, tmp_path_factory.mktemp(kind), method)
        for kind, method in (("pair", "dpo"), ("labelled", "kto"))
    }
    return Sides(base, stores, preferences, partial(tmp_path_factory.mktemp, "side"))


# ── which sides a key must show on ─────────────────────────────────────────────────────────────────────────────────

SHOWS: dict[str, tuple[str, ...]] = {
    "data": ("rows",),
    **{f"data.{part}.0.licence": () for part in ("train", "validation")},
    "method": ("training",),
    # Asked before training; what training sees of it are rows.
    "method.teacher": (),
    "method.answers": (),
    "method.neftune": ("model", "training"),
    "adapter.kind": ("model", "plan", "disk"),
    "adapter.freeze": ("model", "training", "plan"),
    "adapter.rank": ("model", "training", "plan"),
    "adapter.alpha": ("model", "training"),
    "adapter.dropout": ("model", "training"),
    "adapter.targets": ("model", "training", "plan"),
    "adapter.variant": ("model", "training"),
    "adapter.base_bits": ("model", "training", "plan"),
    "adapter.modules_to_save": ("model", "plan", "disk"),
    "adapter.merge": ("disk",),
    "batch.sequences": ("order", "training", "plan"),
    "batch.per_device": ("order", "plan"),
    "batch.max_length": ("tokens",),
    "batch.packing": ("order", "training", "plan"),
    "optimizer": ("optimizer", "training"),
    "optimizer.name": ("optimizer", "training", "plan", "disk"),
    "optimizer.learning_rate": ("optimizer", "rate", "training"),
    "optimizer.clip": ("training",),
    "schedule": ("rate", "training"),
    "schedule.epochs": ("order", "training", "plan"),
    "schedule.steps": ("order", "training", "plan"),
    "validation": ("training",),
    "checkpoints": ("training",),
    "checkpoints.keep": ("training", "disk"),
    "kernels.attention": ("kernels", "plan"),
    "kernels.liger": ("kernels", "plan"),
    "kernels.checkpointing": ("model", "plan"),
    "kernels.compile": ("model",),
    "kernels.loss_chunk": ("model", "plan"),
    "parallel": ("plan",),
    "precision": ("training", "plan"),
    "seed": ("order", "training"),
    "evaluate": ("suites",),
}
"""By the longest beginning of a key."""

ELSEWHERE = {
    "name": ("tests/lifecycle/test_loop.py", "test_its_name_is_that_of_the_folder_the_experiment_and_the_model"),
    "base": ("tests/lifecycle/test_loop.py", "test_one_results_folder_is_the_next_ones_base"),
    "adapter.merge": ("tests/lifecycle/test_loop.py", "test_an_adapter_merged_into_its_base"),
    **{
        f"data.{part}.0.licence": (
            "tests/lifecycle/test_licences.py",
            "test_a_licence_stated_later_is_recorded_without_training_again",
        )
        for part in ("train", "validation")
    },
    **{
        f"method.{key}": ("tests/lifecycle/test_teacher.py", test)
        for test, names in {
            "test_every_prompt_gets_the_teachers_answer_and_those_of_the_rows_are_left_aside": ("answers.max_tokens",),
            "test_several_samples_of_a_prompt_are_several_rows_and_equal_ones_count_once": (
                "answers.temperature",
                "answers.samples",
                "answers.seed",
            ),
            "test_answers_of_no_use_are_dropped_and_named_with_their_line": ("answers.refusals",),
            "test_the_version_names_its_teacher_what_it_read_and_wrote_and_the_cost": (
                "teacher.endpoint",
                "teacher.model",
                "teacher.usd_per_million_read",
                "teacher.usd_per_million_written",
            ),
            "test_it_is_asked_with_the_key_the_patience_and_as_many_requests_at_a_time_as_the_recipe_says": (
                "teacher.api_key_env",
                "teacher.concurrency",
                "teacher.attempts",
            ),
            "test_answers_through_what_the_recipe_says": ("teacher.through",),
            "test_the_whole_run_is_trained_judged_and_registered_as_any_other_with_the_teachers_licence": (
                "teacher.licence",
            ),
        }.items()
        for key in names
    },
    "parallel.kind": ("tests/finetune/test_launch.py", "test_two_processes_train_what_one_does"),
}
"""Keys whose effect needs a whole command or several processes, and the test that shows it."""

NEEDS: dict[str, dict[str, Any]] = {
    "checkpoints.every": {"schedule": {"steps": 52}},
    "checkpoints.keep": {"checkpoints": {"every": 1}},
    # Three scorings in an epoch of which the later ones are worse.
    "validation.patience": {"optimizer": {"learning_rate": 1.0}, "validation": {"every": 0.2}},
    "validation.keep_best": {"optimizer": {"learning_rate": 1.0}, "validation": {"every": 0.2}},
    "adapter.modules_to_save": {"adapter": {"kind": "lora"}},
}
"""What a recipe must say besides for a key to matter."""

STATED = {"licence", "api_key_env", "concurrency", "attempts", "usd_per_million_read", "usd_per_million_written"}
"""Last parts of keys that go with the model or say how somebody is reached, and are no part of the run."""

SMALL = {"batch": {"sequences": 8, "per_device": 4}}


def shows(key: str) -> tuple[str, ...]:
    beginnings = [beginning for beginning in SHOWS if key == beginning or key.startswith(f"{beginning}.")]
    return SHOWS[max(beginnings, key=len)] if beginnings else ()


def pair(change: Change, folder: Path) -> tuple[Recipe, Recipe]:
    """The recipe before and after a change."""
    settings = {**recipe_with(change), **SMALL, **NEEDS.get(change.key, {})}
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(settings))
    common = []
    if change.key.startswith("data.validation.0"):
        # Rows of a held-out source are not trained on, so there must be others.
        common.append("data.train.0.source=b.csv")
    before = load(path, Recipe, what="recipe", overrides=common)
    return before, load(path, Recipe, what="recipe", overrides=[*common, f"{change.key}={change.value}"])


def seen(sides: Sides, side: str, recipe: Recipe) -> Any:
    """What a side shows, or the error it ends in."""
    try:
        return getattr(sides, side)(recipe)
    except LlmopsError as error:
        return error.problem


CHANGES = [pytest.param(change, id=f"{number}-{change.key}") for number, change in enumerate(changes())]


@pytest.mark.filterwarnings("ignore:.*script_method")  # torch's own, where layers are compiled
@pytest.mark.parametrize("change", CHANGES)
def test_another_value_is_another_run_and_shows_in_what_is_done(
    change: Change, sides: Sides, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    before, after = pair(change, tmp_path)
    stated_only = change.key.rpartition(".")[2] in STATED
    assert (run_digest(parts(recipe=before)) == run_digest(parts(recipe=after))) is stated_only
    if change.key in ELSEWHERE:
        file, test = ELSEWHERE[change.key]
        assert f"def {test}(" in (Path(__file__).parents[2] / file).read_text()
    else:
        assert shows(change.key), f"say on which side {change.key} shows"
    for side in shows(change.key):
        assert sides.before(side, before) != repr(seen(sides, side, after)), (
            f"{change.key} = {change.value} does not show in {side}"
        )


@pytest.mark.parametrize("side", sorted({side for sides in SHOWS.values() for side in sides}))
def test_the_same_recipe_looks_the_same_from_every_side(
    side: str, sides: Sides, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise nothing above could fail."""
    monkeypatch.chdir(place)
    for change in (Change("seed", "0", {}), Change("seed", "0", {"adapter": {"kind": "lora", "dropout": 0.1}})):
        recipe, _ = pair(change, tmp_path)
        assert repr(seen(sides, side, recipe)) == repr(seen(sides, side, recipe))
