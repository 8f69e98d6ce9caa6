"""A run checks what it can before it costs anything, encodes once, and never takes over another run's folder."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmops.errors import EnvironmentFault, InputError
from llmops.events import Silent
from llmops.files import folder_digest
from llmops.finetune.claim import check_writable, claim
from llmops.finetune.identity import differences
from llmops.finetune.kernels import Kernels, choose_kernels
from llmops.finetune.recipe import Recipe
from llmops.finetune.run import Finished, Tokens, check_base, encode_dataset, identify, plan_run, train_run
from llmops.records import DatasetVersion, ModelSource, Row, RunManifest
from tests.finetune.small_models import TEMPLATE, make_tokenizer
from tests.finetune.small_runs import a_recipe, as_source, some_rows

pytestmark = pytest.mark.usefixtures("one_thread")


class Counted:
    """Rows of both splits that know how often they were read."""

    def __init__(self, folder: Path) -> None:
        self.read: list[str] = []
        self.folder = folder
        self.all = {"train": some_rows(20, 1), "validation": some_rows(5, 2)}

    def version(self, digest: str = "d" * 64) -> DatasetVersion:
        (self.folder / "dropped.jsonl").write_text('{"check": "duplicates"}\n')
        return DatasetVersion(digest, self.folder, {name: len(rows) for name, rows in self.all.items()}, (), ())

    def source(self, split: str) -> Callable[[], list[Row]]:
        def rows() -> list[Row]:
            self.read.append(split)
            return self.all[split]

        return rows


@pytest.fixture
def data(tmp_path: Path) -> Counted:
    (tmp_path / "version").mkdir()
    return Counted(tmp_path / "version")


@pytest.fixture
def encoded(data: Counted, random_base: Path, tmp_path: Path) -> Callable[..., Tokens]:
    """Encodes the rows, with other arguments where they are given."""

    def call(recipe: Recipe | None = None, *, base: Path | None = None, digest: str = "d" * 64) -> Tokens:
        return encode_dataset(
            {"train": data.source("train"), "validation": data.source("validation")},
            data.version(digest),
            recipe or a_recipe(),
            as_source(base or random_base),
            cache=tmp_path / "cache",
            listener=Silent(),
        )

    return call


class TestEncodedRows:
    def test_are_there_for_both_splits_with_a_report(self, encoded: Callable[..., Tokens]) -> None:
        tokens = encoded()
        assert tokens.validation is not None
        assert (len(tokens.train), len(tokens.validation)) == (20, 5)
        assert tokens.report.rows == 20
        assert tokens.report.trained_tokens == tokens.train.trained_counts.sum()
        assert tokens.pad_id == make_tokenizer().pad_token_id

    def test_are_read_and_encoded_once(self, encoded: Callable[..., Tokens], data: Counted) -> None:
        first, second = encoded(), encoded()
        assert data.read == ["train", "validation"]
        assert first.digest == second.digest
        assert first.report == second.report

    @pytest.mark.parametrize("what", ["rows", "max_length", "template"])
    def test_are_encoded_again_when_what_they_depend_on_changed(
        self, encoded: Callable[..., Tokens], data: Counted, random_base: Path, tmp_path: Path, what: str
    ) -> None:
        before = encoded()
        match what:
            case "rows":
                after = encoded(digest="e" * 64)
            case "max_length":
                after = encoded(a_recipe(batch={"max_length": 32}))
            case _:
                base = shutil.copytree(random_base, tmp_path / "base")
                (base / "chat_template.jinja").write_text(TEMPLATE.replace("<|end|>", "<|end|>\n"))
                after = encoded(base=base)
        assert data.read == ["train", "validation"] * 2
        assert before.digest != after.digest
        assert before.folder != after.folder

    @pytest.mark.parametrize("what", [{"name": "other"}, {"seed": 9}, {"batch": {"packing": True}}])
    def test_are_the_same_when_nothing_of_that_changed(
        self, encoded: Callable[..., Tokens], data: Counted, what: dict[str, Any]
    ) -> None:
        assert encoded().digest == encoded(a_recipe(**what)).digest
        assert data.read == ["train", "validation"]

    def test_that_are_lost_are_named(self, encoded: Callable[..., Tokens]) -> None:
        tokens = encoded(a_recipe(batch={"max_length": 32}))
        lost = [json.loads(line) for line in (tokens.folder / "lost.jsonl").read_text().splitlines()]
        assert lost
        assert {one["check"] for one in lost} == {"longer than max_length"}
        assert sum(one["split"] == "train" for one in lost) == tokens.report.lost_too_long == 20 - len(tokens.train)

    def test_leave_nothing_where_encoding_was_cut_short(
        self, encoded: Callable[..., Tokens], data: Counted, tmp_path: Path
    ) -> None:
        data.all["validation"] = []
        broken = data.source

        def breaking(split: str) -> Callable[[], list[Row]]:
            def rows() -> list[Row]:
                raise KeyboardInterrupt

            return rows if split == "validation" else broken(split)

        data.source = breaking  # type: ignore[method-assign]
        data.all["validation"] = some_rows(5, 2)
        with pytest.raises(KeyboardInterrupt):
            encoded()
        assert not list((tmp_path / "cache" / "tokens").iterdir())


class TestTheBase:
    def test_that_is_an_adapter_is_refused_with_the_way_out(self, tmp_path: Path) -> None:
        (tmp_path / "adapter_config.json").write_text("{}")
        with pytest.raises(InputError) as refused:
            check_base(a_recipe(base="models:/mine@champion"), as_source(tmp_path), world=1)
        assert "models:/mine@champion is an adapter" in refused.value.problem
        assert "llmops merge models:/mine@champion" in refused.value.fix

    def test_gives_its_shape(self, random_base: Path) -> None:
        shape = check_base(a_recipe(), as_source(random_base), world=1)
        assert (shape.hidden, shape.layers, shape.tied) == (64, 2, True)

    @pytest.mark.parametrize(
        ("changes", "world", "problem"),
        [
            ({"adapter": {"kind": "lora", "rank": 65}}, 1, "adapter.rank is 65"),
            ({"adapter": {"kind": "lora", "targets": ["q_prj"]}}, 1, "did you mean `q_proj`?"),
            ({"adapter": {"kind": "none", "freeze": {"layers": "0-2"}}}, 1, "the base has layers 0 to 1"),
            ({"batch": {"max_length": 513}}, 1, "looks back on 512 tokens"),
            ({}, 3, "3 process(es)"),
        ],
    )
    def test_refuses_a_recipe_it_does_not_fit(
        self, random_base: Path, changes: dict[str, Any], world: int, problem: str
    ) -> None:
        with pytest.raises(InputError) as refused:
            check_base(a_recipe(**changes), as_source(random_base), world=world)
        assert problem in refused.value.problem


class TestKernels:
    def test_are_said_with_their_reasons(self, random_base: Path) -> None:
        kernels = choose_kernels(a_recipe(), as_source(random_base), world=1)
        assert kernels.device == "CPU, 1 threads"
        assert [reason.partition(":")[0] for reason in kernels.reasons] == ["device", "attention", "liger"]
        assert kernels.attention == "sdpa"
        assert not kernels.liger

    def test_are_those_the_recipe_says(self, random_base: Path) -> None:
        kernels = choose_kernels(
            a_recipe(kernels={"attention": "eager", "liger": "off"}), as_source(random_base), world=1
        )
        assert kernels.attention == "eager"
        assert "liger: off, as the recipe says" in kernels.reasons


KERNELS = Kernels("sdpa", False, "CPU, 1 threads", ())


class TestDisk:
    @pytest.fixture
    def planned(self, encoded: Callable[..., Tokens], random_base: Path) -> Callable[..., Any]:
        def call(folder: Path, **changes: Any) -> Any:
            recipe = a_recipe(**changes)
            shape = check_base(recipe, as_source(random_base), world=1)
            return plan_run(recipe, shape, encoded(recipe), KERNELS, world=1, folder=folder)

        return call

    def test_that_is_too_small_is_refused_before_training(self, planned: Callable[..., Any], tmp_path: Path) -> None:
        with pytest.raises(EnvironmentFault) as refused:
            planned(tmp_path / "run", checkpoints={"keep": 10**12})
        assert f"of disk at {tmp_path / 'run'}" in refused.value.problem
        assert "checkpoints.keep" in refused.value.fix
        assert not (tmp_path / "run").exists()

    def test_that_an_interrupted_run_fills_already_is_not_asked_for_again(
        self, planned: Callable[..., Any], tmp_path: Path
    ) -> None:
        """A sparse file stands for checkpoints larger than the disk."""
        run, held = tmp_path / "run", 1 << 43
        (run / "checkpoints").mkdir(parents=True)
        with (run / "checkpoints" / "weights").open("wb") as file:
            file.truncate(held)
        # A weight and its two moments in 32 bits.
        checkpoint = 12 * planned(run).trained_weights
        keep = held // checkpoint - 10
        with pytest.raises(EnvironmentFault):
            planned(tmp_path / "other", checkpoints={"keep": keep})
        assert planned(run, checkpoints={"keep": keep}).updates > 0


class TestAFolder:
    """Taken by one run for good."""

    @pytest.fixture
    def parts(self, encoded: Callable[..., Tokens], data: Counted, random_base: Path) -> dict[str, Any]:
        return identify(a_recipe(), data.version(), encoded(), as_source(random_base), KERNELS, world=1)

    def test_that_is_new_is_free_and_stays_untouched(self, parts: dict[str, Any], tmp_path: Path) -> None:
        assert claim(tmp_path / "run", parts, resume=False) is None
        assert not (tmp_path / "run").exists()

    def test_of_the_same_run_is_free_again(self, parts: dict[str, Any], tmp_path: Path) -> None:
        (tmp_path / "identity.json").write_text(json.dumps(parts))
        assert claim(tmp_path, parts, resume=False) is None
        assert claim(tmp_path, parts, resume=True) is None

    @pytest.mark.parametrize("resume", [True, False])
    def test_of_another_run_is_refused_with_what_differs(
        self, parts: dict[str, Any], tmp_path: Path, resume: bool
    ) -> None:
        others: list[dict[str, Any]] = [
            {"seed": 6},
            {"seed": 6, "precision": "bf16", "name": "other", "validation": {"every": 0.5}},
        ]
        for other in others:
            changed = {**parts, "recipe": a_recipe(**other).model_dump(mode="json")}
            (tmp_path / "identity.json").write_text(json.dumps(changed))
            with pytest.raises(InputError) as refused:
                claim(tmp_path, parts, resume=resume)
            assert "recipe." in refused.value.problem
            named = list(differences(changed, parts))
            assert all(one in refused.value.problem for one in named[:3])
            assert ("and 1 more" in refused.value.problem) is (len(named) == 4)

    def test_without_a_run_is_nothing_to_resume(self, parts: dict[str, Any], tmp_path: Path) -> None:
        with pytest.raises(InputError, match="there is no run to resume"):
            claim(tmp_path, parts, resume=True)

    @pytest.mark.parametrize("damage", ["manifest", "weights", "none", "gone"])
    def test_of_a_finished_run_is_answered_from_only_while_it_is_whole(
        self, parts: dict[str, Any], random_base: Path, tmp_path: Path, damage: str
    ) -> None:
        shutil.copytree(random_base, tmp_path / "artifact")
        (tmp_path / "identity.json").write_text(json.dumps(parts))
        manifest = a_manifest(folder_digest(tmp_path / "artifact"))
        (tmp_path / "manifest.json").write_text(json.dumps(manifest))
        match damage:
            case "manifest":
                (tmp_path / "manifest.json").write_text(json.dumps(manifest)[:-20])
            case "weights":
                with (tmp_path / "artifact" / "model.safetensors").open("ab") as file:
                    file.write(b"x")
            case "gone":
                shutil.rmtree(tmp_path / "artifact")
        found = claim(tmp_path, parts, resume=False)
        assert (found == RunManifest(**manifest)) is (damage == "none")
        assert (found is None) is (damage != "none")

    def test_that_cannot_be_written_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(EnvironmentFault) as refused:
            check_writable(tmp_path / "file" / "run")
        assert str(tmp_path / "file" / "run") in refused.value.problem
        assert "--out" in refused.value.fix

    def test_that_can_be_written_is_left_as_it_was(self, tmp_path: Path) -> None:
        check_writable(tmp_path)
        assert list(tmp_path.iterdir()) == []


def a_manifest(artifact: str) -> dict[str, Any]:
    known: dict[str, Any] = {"kind": "full", "artifact_digest": artifact, "name": "small", "digest": "d" * 64}
    numbers = ("steps", "tokens", "trained_tokens", "final_loss", "tokens_per_s")
    sections = ("identity", "recipe", "predicted", "measured", "environment", "lineage")
    return {**dict.fromkeys(numbers, 1), **{name: {} for name in sections}, "validation_loss": None, **known}


class TestARun:
    def test_writes_who_it_is_before_it_trains(
        self, encoded: Callable[..., Tokens], data: Counted, random_base: Path, tmp_path: Path
    ) -> None:
        """So that whatever is left of it can be told from another run."""
        folder = tmp_path / "run"
        seen: list[set[str]] = []
        manifest = self.trained(folder, encoded, data, random_base, lambda: seen.append(set(os.listdir(folder))))
        assert {"identity.json", "job.json", "recipe.json", "mask.json", "dropped.jsonl"} <= seen[0]
        assert "manifest.json" not in seen[-1]
        assert claim(folder, manifest.identity, resume=False) == manifest

    def test_can_be_moved_once_it_is_finished(
        self, encoded: Callable[..., Tokens], data: Counted, random_base: Path, tmp_path: Path
    ) -> None:
        manifest = self.trained(tmp_path / "run", encoded, data, random_base)
        (tmp_path / "run").rename(tmp_path / "moved")
        assert claim(tmp_path / "moved", manifest.identity, resume=False) == manifest
        assert Finished(manifest, tmp_path / "moved", True).artifact == tmp_path / "moved" / "artifact"

    def trained(
        self,
        folder: Path,
        encoded: Callable[..., Tokens],
        data: Counted,
        base: Path,
        on_step: Callable[[], None] = lambda: None,
    ) -> RunManifest:
        class Watching(Silent):
            def step(self, step: object, total: int) -> None:
                on_step()

        recipe = a_recipe(schedule={"steps": 2})
        source, tokens, version = (
            ModelSource(str(base), base, None, folder_digest(base)),
            encoded(recipe),
            data.version(),
        )
        parts = identify(recipe, version, tokens, source, KERNELS, world=1)
        plan = plan_run(recipe, check_base(recipe, source, world=1), tokens, KERNELS, world=1, folder=folder)
        return train_run(
            folder,
            recipe,
            parts,
            base=source,
            dataset=version,
            tokens=tokens,
            kernels=KERNELS,
            plan=plan,
            world=1,
            listener=Watching(),
        )
