"""A teacher answers the prompts of a recipe's rows, none twice; what is of use is trained on and says who wrote it."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import pytest

from llmops.data.versions import rows_of
from llmops.errors import EnvironmentFault, InputError
from llmops.files import folder_digest
from llmops.finetune.distillation import ModelTeacher
from llmops.finetune.recipe import Batch, Recipe
from llmops.lifecycle.teacher import dataset_of, teacher_of
from llmops.records import DatasetVersion, Split
from tests.eval.chat_server import Reply, chat, echo, serving
from tests.finetune.small_models import make_random_base, make_tokenizer
from tests.lifecycle.sites import Site
from tests.lifecycle.small_recipes import ROWS, write_rows
from tests.listener import Heard
from tests.patience import HANG_S


@dataclass
class Place:
    """A site whose recipe asks a server."""

    site: Site
    heard: Heard

    def recipe(self, url: str, *, answers: dict[str, Any] | None = None, concurrency: int = 4, **data: Any) -> Recipe:
        rows = {"source": f"{self.site.folder}/rows.jsonl", "prompt": "{question}", "licence": "CC0-1.0"}
        teacher = {"endpoint": url, "model": "m", "concurrency": concurrency, "attempts": 1, "licence": "Apache-2.0"}
        return self.site.recipe(
            data={"train": [rows], "validation": 0.2, **data},
            method={"kind": "distill", "teacher": teacher, "answers": {"max_tokens": 20, **(answers or {})}},
        )

    def version(self, recipe: Recipe) -> DatasetVersion:
        method: Any = recipe.method
        teacher = teacher_of(method.teacher, self.site.workspace, self.heard)
        return dataset_of(recipe, teacher, self.site.workspace, self.heard)


@pytest.fixture
def place(site: Site) -> Place:
    return Place(site, Heard())


def conversations(version: DatasetVersion) -> dict[str, str]:
    """Answer by question, over both sides of the split."""
    turns = [row.content["messages"] for split in get_args(Split) for row in rows_of(version, split)]
    return {asked["content"]: answer["content"] for asked, answer in turns}


def dropped(version: DatasetVersion) -> list[tuple[str, str, int]]:
    lines = (version.folder / "dropped.jsonl").read_text().splitlines()
    return [(one["check"], one["reason"], one["line"]) for one in map(json.loads, lines)]


QUESTIONS = [row["question"] for row in ROWS]


def test_every_prompt_gets_the_teachers_answer_and_those_of_the_rows_are_left_aside(place: Place) -> None:
    with serving(echo) as served:
        version = place.version(place.recipe(served.url))
    assert conversations(version) == {question: f"to {question}" for question in QUESTIONS}
    assert {body["max_tokens"] for body in served.asked} == {20}
    assert {body["temperature"] for body in served.asked} == {0.0}
    # Each on the side where its prompt belongs, as with any other answer.
    plain = place.site.recipe()
    plain_version = dataset_of(plain, None, place.site.workspace, place.heard)
    for split in get_args(Split):
        asked = [[row.content["messages"][0] for row in rows_of(one, split)] for one in (version, plain_version)]
        assert sorted(map(str, asked[0])) == sorted(map(str, asked[1]))


def test_the_version_names_its_teacher_what_it_read_and_wrote_and_the_cost(place: Place) -> None:
    def says(number: int, body: dict[str, Any]) -> Reply:
        choice = {"message": {"content": f"to {body['messages'][-1]['content']}"}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 10, "completion_tokens": 3}
        return 200, {}, json.dumps({"choices": [choice], "usage": usage}).encode()

    with serving(says) as served:
        recipe = place.recipe(served.url)
        method: Any = recipe.method
        prices = {"usd_per_million_read": 2.0, "usd_per_million_written": 5.0}
        priced = method.model_copy(update={"teacher": method.teacher.model_copy(update=prices)})
        version = place.version(recipe.model_copy(update={"method": priced}))
    assert version.sources[-1].source == f"teacher m at {served.url}"
    assert version.sources[-1].rows == len(ROWS)
    assert version.teacher["name"] == f"m at {served.url}"
    assert (version.teacher["prompt_tokens"], version.teacher["answer_tokens"]) == (10 * len(ROWS), 3 * len(ROWS))
    assert version.teacher["usd"] == pytest.approx((440 * 2 + 132 * 5) / 1e6)
    assert any("440 tokens read and 132 written, 0.0015 USD" in line for line in place.heard.lines)


def test_an_interrupted_run_goes_on_and_asks_nothing_twice(place: Place) -> None:
    def falls_over(number: int, body: dict[str, Any]) -> Reply:
        return echo(number, body) if number <= 20 else (503, {}, b"")

    asked: list[str] = []
    with serving(falls_over) as served:
        recipe = place.recipe(served.url, concurrency=1)
        with pytest.raises(EnvironmentFault, match=f"of {len(ROWS)} answers are kept"):
            place.version(recipe)
        asked += [body["messages"][-1]["content"] for body in served.asked[:20]]
        served.says = echo
        before = len(served.asked)
        version = place.version(recipe)
        asked += [body["messages"][-1]["content"] for body in served.asked[before:]]
        assert sorted(asked) == sorted(QUESTIONS)
        assert conversations(version) == {question: f"to {question}" for question in QUESTIONS}
        # Answered in full, it is not asked again, ...
        before = len(served.asked)
        assert place.version(recipe).digest == version.digest
        assert len(served.asked) == before
    # ... not even where it is gone; but another decoding asks anew.
    assert place.version(recipe).digest == version.digest
    with pytest.raises(EnvironmentFault, match="failed"):
        place.version(place.recipe(served.url, answers={"max_tokens": 21}))


def test_answers_of_no_use_are_dropped_and_named_with_their_line(place: Place) -> None:
    def says(number: int, body: dict[str, Any]) -> Reply:
        question = body["messages"][-1]["content"]
        replies: dict[str, Reply] = {
            QUESTIONS[1]: chat("it goes on and", finish="length"),
            QUESTIONS[2]: chat("  \n"),
            QUESTIONS[3]: chat("I'm sorry, but I can't help with that."),
            QUESTIONS[4]: (400, {}, b'{"error": {"message": "against the rules"}}'),
            QUESTIONS[5]: chat("", finish="content_filter"),
        }
        return replies.get(question) or chat("fine: " + question)

    with serving(says) as served:
        version = place.version(place.recipe(served.url))
        kept = place.version(place.recipe(served.url, answers={"refusals": "keep"}))
    assert conversations(version) == {question: f"fine: {question}" for question in [QUESTIONS[0], *QUESTIONS[6:]]}
    assert sorted(dropped(version), key=lambda one: one[2]) == [
        ("teacher's answers", "the answer was cut at 20 tokens", 2),
        ("teacher's answers", "the answer is empty", 3),
        ("teacher's answers", "the teacher declines to answer", 4),
        ("teacher's answers", "the teacher's server declined it", 5),
        ("teacher's answers", "the teacher's server declined it", 6),
    ]
    assert version.rows["dropped"] == 5
    assert QUESTIONS[3] in conversations(kept)
    assert any("5 are of no use and left out" in line for line in place.heard.lines)


def test_a_server_that_declines_everything_ends_the_run_and_nothing_of_it_is_kept(place: Place) -> None:
    with serving(lambda number, body: (400, {}, b"max_tokens is too large")) as served:
        recipe = place.recipe(served.url)
        with pytest.raises(InputError, match="max_tokens is too large"):
            place.version(recipe)
        assert len(served.asked) < len(ROWS)
        served.says = echo
        assert len(conversations(place.version(recipe))) == len(ROWS)


def test_it_is_asked_with_the_key_the_patience_and_as_many_requests_at_a_time_as_the_recipe_says(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEACHERS_KEY", "s3cret")

    three = threading.Barrier(3)

    def says(number: int, body: dict[str, Any]) -> Reply:
        if 3 <= number <= 5:
            three.wait(HANG_S)  # nobody is answered before three are there
        return echo(number, body) if number > 2 else (503, {"retry-after": "0"}, b"")

    with serving(says) as served:
        recipe = place.recipe(served.url)
        method: Any = recipe.method
        changed = {"api_key_env": "TEACHERS_KEY", "concurrency": 3, "attempts": 4}
        teacher = method.teacher.model_copy(update=changed)
        version = place.version(recipe.model_copy(update={"method": method.model_copy(update={"teacher": teacher})}))
    assert {headers["authorization"] for headers in served.headers} == {"Bearer s3cret"}
    assert served.most_at_once == 3
    assert len(served.asked) == len(ROWS) + 2
    assert "s3cret" not in json.dumps(dict(version.teacher))


def test_a_wrong_key_ends_the_run_at_once(place: Place) -> None:
    with (
        serving(lambda number, body: (401, {}, b"who are you?")) as served,
        pytest.raises(InputError, match="who are you"),
    ):
        place.version(place.recipe(served.url))


def test_several_samples_of_a_prompt_are_several_rows_and_equal_ones_count_once(place: Place) -> None:
    def says(number: int, body: dict[str, Any]) -> Reply:
        # The second and the third draw say the same.
        return chat(f"{body['messages'][-1]['content']} {min(body['seed'] - 7, 1)}")

    with serving(says) as served:
        version = place.version(place.recipe(served.url, answers={"samples": 3, "temperature": 0.7, "seed": 7}))
    assert len(served.asked) == 3 * len(ROWS)
    assert version.rows["train"] + version.rows["validation"] == 2 * len(ROWS)
    assert {check for check, *_ in dropped(version)} == {"duplicates"}
    sides = [{row.content["messages"][0]["content"] for row in rows_of(version, split)} for split in get_args(Split)]
    assert sides[0].isdisjoint(sides[1])


def test_the_checks_of_the_data_see_the_answers_too(place: Place) -> None:
    write_rows(place.site.folder / "rows.jsonl", [*ROWS[:8], {"question": "write to a@example.org", "answer": ""}])

    def says(number: int, body: dict[str, Any]) -> Reply:
        question = body["messages"][-1]["content"]
        return chat("mail jane.doe@example.org" if question == QUESTIONS[0] else f"to {question}")

    with serving(says) as served:
        recipe = place.recipe(served.url, checks={"personal_data": "redact"}, validation=0.0)
        version = place.version(recipe)
    found = conversations(version)
    assert "jane.doe" not in found[QUESTIONS[0]]
    # What was redacted in the prompt the teacher has never seen.
    assert not any("a@example.org" in json.dumps(body) for body in served.asked)


def test_the_whole_run_is_trained_judged_and_registered_as_any_other_with_the_teachers_licence(place: Place) -> None:
    with serving(echo) as served:
        recipe = place.recipe(served.url)
        result = place.site.run(recipe, heard=place.heard)
        asked = len(served.asked)
        again = place.site.run(recipe)
        assert len(served.asked) == asked
    assert again.finished.cached
    manifest = result.finished.manifest
    assert manifest.lineage["teacher"]["name"] == f"m at {served.url}"
    assert manifest.lineage["sources"][-1]["source"] == f"teacher m at {served.url}"
    stated = {(one["role"], one["licence"]) for one in manifest.lineage["licences"]}
    assert ("teacher", "Apache-2.0") in stated
    assert result.version is not None
    assert result.reports
    lost = [json.loads(line) for line in (result.finished.folder / "dropped.jsonl").read_text().splitlines()]
    assert all(one["check"] != "teacher's answers" for one in lost)


class TestAModelOfThisMachine:
    def test_answers_as_it_does_when_it_is_evaluated(self, site: Site, lively_model: Path) -> None:
        from llmops.eval.engines.transformers import generate
        from llmops.eval.suite import Generation
        from llmops.lifecycle.teacher import asked_by

        rows = {"source": f"{site.folder}/rows.jsonl", "prompt": "{question}"}
        teacher = {"model": str(lively_model)}
        recipe = site.recipe(
            data={"train": [rows], "validation": 0.0},
            method={"kind": "distill", "teacher": teacher, "answers": {"max_tokens": 60}},
        )
        place = Place(site, Heard())
        version = place.version(recipe)
        prompts = list(rows_of(version, "train"))
        made = conversations(version)
        assert 0 < len(made) <= len(ROWS)
        items = [
            asked_by(type(row)(row.id, "prompt", {"messages": row.content["messages"][:1]}, "", 1)) for row in prompts
        ]
        alone = generate(lively_model, items, Generation(max_tokens=60))
        assert [made[item.prompt] for item in items] == [answer.text for answer in alone.answers]

    @pytest.mark.parametrize("through", ["transformers", "vllm"])
    def test_answers_through_what_the_recipe_says(self, site: Site, lively_model: Path, through: Any) -> None:
        from llmops.eval.engines import transformers, vllm

        found = teacher_of(ModelTeacher(model=str(lively_model), through=through), site.workspace, Heard())
        assert found.subject is not None
        engine: Any = found.subject.engine
        assert engine.func is {"transformers": transformers.generate, "vllm": vllm.generate}[through]

    def test_prompts_longer_than_its_context_are_named(self, site: Site, lively_model: Path) -> None:
        write_rows(site.folder / "rows.jsonl", [*ROWS[:10], {"question": "x" * 300, "answer": "y"}])
        rows = {"source": f"{site.folder}/rows.jsonl", "prompt": "{question}"}
        recipe = site.recipe(
            data={"train": [rows], "validation": 0.0},
            method={"kind": "distill", "teacher": {"model": str(lively_model)}, "answers": {"max_tokens": 60}},
        )
        version = Place(site, Heard()).version(recipe)
        assert ("teacher's answers", "it leaves no room for an answer in the teacher's context", 11) in dropped(version)


class TestDistributions:
    @pytest.fixture
    def teacher(self, tmp_path: Path) -> Path:
        folder = tmp_path / "teacher"
        folder.mkdir()
        make_random_base(folder, tied=False, layers=3)
        return folder

    def a_student(self, site: Site, teacher: Path, **method: Any) -> Recipe:
        return site.recipe(method={"kind": "distill", "teacher": {"model": str(teacher)}, "logits": {}, **method})

    def test_are_learned_on_the_rows_own_answers_in_a_run_as_any_other(self, site: Site, teacher: Path) -> None:
        heard = Heard()
        result = site.run(self.a_student(site, teacher), heard=heard)
        manifest = result.finished.manifest
        assert {"cross_entropy", "divergence"} == set(heard.steps[-1].measures)
        assert set(manifest.validation_measures) == {"cross_entropy", "divergence"}
        assert manifest.lineage["teacher"]["name"] == str(teacher)
        assert manifest.lineage["teacher"]["digest"] == folder_digest(teacher)
        # The base of the tests states its licence, and so does the teacher, which is made alike.
        assert ("teacher", "Apache-2.0") in {(one["role"], one["licence"]) for one in manifest.lineage["licences"]}
        assert site.run(self.a_student(site, teacher)).finished.cached
        # Other weights under the same name are another teacher, and another run.
        make_random_base(teacher, tied=True, layers=3)
        assert not site.run(self.a_student(site, teacher), heard=heard).finished.cached

    def test_and_answers_come_from_one_teacher(self, site: Site, lively_model: Path) -> None:
        """Its answers are trained on, and its distributions are learned over them."""
        recipe = self.a_student(site, lively_model, answers={"max_tokens": 60}).model_copy(
            update={"base": str(lively_model), "batch": Batch(sequences=8, per_device=8, max_length=128)}
        )
        heard = Heard()
        result = site.run(recipe, heard=heard)
        # The student is its own teacher here: nothing is left to learn of the distributions.
        assert heard.steps[0].measures["divergence"] == pytest.approx(0, abs=1e-5)
        assert result.finished.manifest.lineage["teacher"]["answers"]["max_tokens"] == 60

    def test_over_other_tokens_are_refused_before_any_row_is_read(self, site: Site, tmp_path: Path) -> None:
        tokenizer = make_tokenizer()
        tokenizer.add_tokens(["<|new|>"])
        make_random_base(tmp_path / "other", tokenizer=tokenizer)
        with pytest.raises(InputError, match="have different tokenizers"):
            site.run(self.a_student(site, tmp_path / "other"))
        assert not site.workspace.objects.exists() or not list(site.workspace.objects.glob("dataset-*"))
