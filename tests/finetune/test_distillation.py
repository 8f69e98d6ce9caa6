"""What cannot be distilled or reinforced is refused when the recipe is loaded, and a plan says what it cannot know."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from llmops.config import load
from llmops.errors import FileFaults, InputError
from llmops.finetune.known_shapes import find_shape
from llmops.finetune.lengths import LengthProfile
from llmops.finetune.plan import Plan, make_plan
from llmops.finetune.preview import preview
from llmops.finetune.recipe import Recipe
from llmops.finetune.shape import shape_of
from llmops.finetune.trained import check_shape
from llmops.hardware import KNOWN_GPUS

TEACHER = {"model": "builtin:small"}
SERVED = {"endpoint": "http://there/v1", "model": "large"}
GRPO = {"kind": "grpo", "rewards": [{"scorer": {"bleu": {}}}]}
ROWS = [{"source": "rows.jsonl", "prompt": "{q}", "completion": "{a}"}]


def a_recipe(folder: Path, method: dict[str, Any], **sections: Any) -> Recipe:
    batch = {"max_length": 128, **sections.pop("batch", {})}
    settings = {"name": "small", "base": "builtin:tiny", "data": {"train": ROWS}, "method": method, "batch": batch}
    settings |= sections
    (folder / "recipe.yaml").write_text(yaml.safe_dump(settings))
    return load(folder / "recipe.yaml", Recipe, what="recipe")


def distill(**method: Any) -> dict[str, Any]:
    return {"kind": "distill", "teacher": TEACHER, **method}


@pytest.mark.parametrize(
    ("method", "sections", "problem"),
    [
        pytest.param(distill(), {}, "the teacher teaches nothing", id="neither answers nor logits"),
        pytest.param(
            {"kind": "distill", "teacher": SERVED, "logits": {}}, {}, "an endpoint gives no distributions", id="served"
        ),
        pytest.param(
            distill(answers={"samples": 2}), {}, "at temperature 0 they would all be equal", id="equal samples"
        ),
        pytest.param(
            distill(teacher={"endpoint": "there:8000", "model": "m"}, answers={}), {}, "is no address", id="no address"
        ),
        pytest.param(
            distill(teacher={"endpoint": "http://me:secret@there/v1", "model": "m"}, answers={}),
            {},
            "the address holds a password",
            id="a password",
        ),
        pytest.param(
            distill(answers={}),
            {"data": {"train": [{"source": "rows.jsonl", "text": "t"}]}},
            "a plain text asks the teacher nothing",
            id="no prompts",
        ),
        pytest.param(
            distill(answers={}),
            {"data": {"train": [{"source": "rows.jsonl", "messages": "m", "tools": "t"}]}},
            "who answers is not shown tools",
            id="tools",
        ),
        pytest.param(
            distill(logits={}),
            {"data": {"train": [{"source": "rows.jsonl", "prompt": "{q}"}]}},
            "`completion` is missing",
            id="no answers anywhere",
        ),
        pytest.param(
            GRPO, {"batch": {"sequences": 30}}, "is no multiple of method.generations (8); set 24", id="groups"
        ),
        pytest.param(GRPO, {"batch": {"packing": True}}, "grpo packs nothing", id="packing"),
        pytest.param(GRPO, {"checkpoints": {"every": 5}}, "grpo saves nothing on the way", id="checkpoints"),
        pytest.param(GRPO, {"validation": {"every": 5}}, "keeps the last weights", id="best weights"),
        pytest.param(GRPO, {"parallel": {"kind": "fsdp"}}, "grpo runs in one process", id="fsdp"),
        pytest.param(GRPO, {"kernels": {"attention": "varlen"}}, "cannot generate through varlen", id="attention"),
        pytest.param(GRPO, {"kernels": {"compile": True}}, "grpo generates with the model it trains", id="compiled"),
        pytest.param(GRPO, {"kernels": {"loss_chunk": 8}}, "holds all logits of a pass", id="chunks"),
        pytest.param(GRPO, {"data": {"train": [{**ROWS[0], "weight": 2}]}}, "equally often", id="weights"),
        pytest.param({**GRPO, "rewards": []}, {}, "method.rewards", id="no reward"),
        pytest.param({**GRPO, "rewards": [{"scorer": {}}]}, {}, "0 scorers are named", id="no scorer"),
        pytest.param(
            {**GRPO, "rewards": [{"scorer": {"bleu": {}}, "weight": 0}]}, {}, "a weight of 0 rewards nothing", id="zero"
        ),
    ],
)
def test_what_cannot_be_is_refused(
    tmp_path: Path, method: dict[str, Any], sections: dict[str, Any], problem: str
) -> None:
    with pytest.raises(FileFaults) as refused:
        a_recipe(tmp_path, method, **sections)
    assert problem in refused.value.problem


def test_prompts_and_answers_together_fit_into_what_the_base_looks_back_on(tmp_path: Path) -> None:
    recipe = a_recipe(tmp_path, {**GRPO, "max_tokens": 900})
    with pytest.raises(InputError, match="up to 1028 tokens, but builtin:tiny looks back on 1024"):
        check_shape(recipe, find_shape("builtin:tiny").shape, world=1)


class TestAPlan:
    def shape(self, hidden: int) -> Any:
        config = {
            "model_type": "llama",
            "hidden_size": hidden,
            "intermediate_size": 2 * hidden,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "vocab_size": 1000,
            "tie_word_embeddings": False,
        }
        return shape_of(config, named="made")

    def planned(self, folder: Path, teacher: Any) -> Plan:
        recipe = a_recipe(folder, distill(logits={}))
        lengths = LengthProfile.from_rows(range(20, 400), range(10, 390))
        return make_plan(
            recipe,
            self.shape(64),
            lengths,
            world=1,
            device=KNOWN_GPUS["h200"],
            price_per_gpu_hour=None,
            teacher=teacher,
        )

    def test_holds_the_teacher_in_16_bits_and_counts_its_passes(self, tmp_path: Path) -> None:
        large = self.shape(512)
        alone, taught = self.planned(tmp_path, None), self.planned(tmp_path, large)
        assert taught.memory.weights - alone.memory.weights == 2 * large.parameters.total
        assert taught.memory.logits > alone.memory.logits
        # Two operations a weight and token forwards; its attention beside.
        matrices = 2.0 * 4 * large.linear_weights * alone.tokens.computed
        more = taught.flops.computed - alone.flops.computed
        assert matrices < more < 1.5 * matrices
        assert taught.flops.model == alone.flops.model

    @pytest.mark.parametrize(
        ("method", "note"),
        [
            (distill(answers={"max_tokens": 50}), "builtin:small is asked first"),
            (distill(teacher={"model": "org/unknown"}, logits={}), "of the teacher org/unknown are not counted"),
            (GRPO, "answering takes most of its time, which is not planned"),
            (GRPO, "answers that are still to be made are counted at their longest, 256 tokens"),
        ],
    )
    def test_says_what_it_does_not_know(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: dict[str, Any], note: str
    ) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("LLMOPS_HOME", str(tmp_path / "home"))
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"q": f"{n}?", "a": "yes"}) + "\n" for n in range(40)))
        found = preview(a_recipe(tmp_path, method), world=1, device=KNOWN_GPUS["h200"], prices=None, cache=None)
        assert any(note in one for one in found.notes), found.notes

    def test_counts_every_answer_to_a_prompt_as_a_sequence(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"q": f"{n}?", "a": "yes"}) + "\n" for n in range(40)))

        def rows(method: dict[str, Any]) -> float:
            recipe = a_recipe(tmp_path, method)
            return preview(recipe, world=1, device=KNOWN_GPUS["h200"], prices=None, cache=None).lengths.rows

        assert rows({**GRPO, "generations": 4, "iterations": 2}) == 320
        assert rows(distill(answers={"samples": 3, "temperature": 1.0})) == 120
        assert rows(distill(logits={})) == 40
