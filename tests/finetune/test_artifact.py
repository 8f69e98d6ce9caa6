"""What a run leaves loads as it stands: peft takes the adapter, transformers the model, with the base's tokenizer."""

from __future__ import annotations

import json
import resource
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from llmops.errors import EnvironmentFault
from llmops.finetune.artifact import TOKENIZER_FILES, copy_tokenizer, save_artifact
from llmops.finetune.model import LossModel, Placement, load_model
from llmops.records import ModelSource
from tests.finetune.small_models import make_random_base
from tests.finetune.small_runs import ALONE, a_recipe

LORA = {"kind": "lora", "rank": 4}


@pytest.fixture(scope="module")
def untied_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("untied")
    make_random_base(folder, tied=False)
    return folder


def source(folder: Path, reference: str = "", revision: str | None = None) -> ModelSource:
    return ModelSource(reference or str(folder), folder, revision, "0" * 64)


def changed(base: Path, **recipe: Any) -> LossModel:
    """The model of a recipe with every trained weight moved, as training would."""
    torch.manual_seed(3)
    model = load_model(a_recipe(**recipe), base, Placement(ALONE.device, "sdpa", liger=False))
    with torch.no_grad():
        for one in model.parameters():
            if one.requires_grad:
                one.add_(torch.randn_like(one) * 0.01)
    return model


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model.eval()(torch.arange(12).reshape(1, 12)).logits
    return found


class TestAWholeModel:
    @pytest.mark.parametrize("tied", [True, False])
    def test_loads_and_computes_what_the_trained_one_did(
        self, random_base: Path, untied_base: Path, tmp_path: Path, tied: bool
    ) -> None:
        from transformers import AutoModelForCausalLM

        base = random_base if tied else untied_base
        model = changed(base)
        assert save_artifact(model, a_recipe(), source(base), tmp_path / "out", ALONE) == "full"
        back = AutoModelForCausalLM.from_pretrained(tmp_path / "out", local_files_only=True)
        assert torch.equal(logits(back), logits(model.causal))
        with safe_open(tmp_path / "out" / "model.safetensors", "pt") as file:
            names = set(file.keys())
        assert ("lm_head.weight" in names) is not tied
        assert "model.embed_tokens.weight" in names
        shared = back.lm_head.weight.data_ptr() == back.model.embed_tokens.weight.data_ptr()
        assert shared is tied
        assert json.loads((tmp_path / "out" / "config.json").read_text())["tie_word_embeddings"] is tied

    def test_has_the_number_format_of_its_base(self, random_base: Path, tmp_path: Path) -> None:
        """Trained in 32 bits, written in what the base was published in."""
        from transformers import AutoModelForCausalLM

        half = tmp_path / "half"
        AutoModelForCausalLM.from_pretrained(random_base, dtype=torch.bfloat16).save_pretrained(half)
        copy_tokenizer(random_base, half)
        model = changed(half)
        assert next(model.parameters()).dtype == torch.float32
        save_artifact(model, a_recipe(), source(half), tmp_path / "out", ALONE)
        written = load_file(tmp_path / "out" / "model.safetensors")
        assert {one.dtype for one in written.values()} == {torch.bfloat16}
        assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"
        trained = model.causal.state_dict()
        assert all(torch.equal(one, trained[name].to(torch.bfloat16)) for name, one in written.items())


class TestAnAdapter:
    def test_loads_beside_its_base_and_computes_what_the_trained_one_did(
        self, random_base: Path, tmp_path: Path
    ) -> None:
        from peft import AutoPeftModelForCausalLM

        recipe = {"adapter": LORA}
        model = changed(random_base, **recipe)
        assert save_artifact(model, a_recipe(**recipe), source(random_base), tmp_path / "out", ALONE) == "adapter"
        back = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "out", local_files_only=True)
        assert torch.equal(logits(back), logits(model.inner))

    def test_holds_the_adapter_alone(self, random_base: Path, tmp_path: Path) -> None:
        recipe = {"adapter": LORA}
        save_artifact(changed(random_base, **recipe), a_recipe(**recipe), source(random_base), tmp_path / "out", ALONE)
        written = load_file(tmp_path / "out" / "adapter_model.safetensors")
        # A and B of seven linear layers in two decoder layers.
        assert len(written) == 2 * 7 * 2
        assert all("lora_" in name for name in written)
        assert not (tmp_path / "out" / "model.safetensors").exists()

    def test_holds_whole_modules_where_the_recipe_trains_them(self, untied_base: Path, tmp_path: Path) -> None:
        from peft import AutoPeftModelForCausalLM

        recipe = {"adapter": {**LORA, "modules_to_save": ["lm_head"]}}
        model = changed(untied_base, **recipe)
        save_artifact(model, a_recipe(**recipe), source(untied_base), tmp_path / "out", ALONE)
        assert any("lm_head" in name for name in load_file(tmp_path / "out" / "adapter_model.safetensors"))
        back = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "out", local_files_only=True)
        assert torch.equal(logits(back), logits(model.inner))

    @pytest.mark.parametrize(
        ("reference", "revision", "named", "at"),
        [
            pytest.param("some-lab/model", "c" * 40, "some-lab/model", "c" * 40, id="a hub model at its commit"),
            pytest.param("some-lab/model@main", "c" * 40, "some-lab/model", "c" * 40, id="a branch at its commit"),
            pytest.param("models:/mine@champion", "3", None, None, id="a registered model where it lies"),
            pytest.param("builtin:tiny", None, None, None, id="an embedded base where it lies"),
            pytest.param("./folder", None, None, None, id="a folder where it lies"),
        ],
    )
    def test_names_its_base_so_that_others_find_it(
        self, random_base: Path, tmp_path: Path, reference: str, revision: str | None, named: str | None, at: str | None
    ) -> None:
        recipe = {"adapter": LORA}
        base = source(random_base, reference, revision)
        save_artifact(changed(random_base, **recipe), a_recipe(**recipe), base, tmp_path / "out", ALONE)
        config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
        assert config["base_model_name_or_path"] == (named or str(random_base))
        assert config["revision"] == at


class TestTheTokenizer:
    @pytest.mark.parametrize("recipe", [{}, {"adapter": LORA}], ids=["full", "lora"])
    def test_is_copied_byte_for_byte(self, random_base: Path, tmp_path: Path, recipe: dict[str, Any]) -> None:
        save_artifact(changed(random_base, **recipe), a_recipe(**recipe), source(random_base), tmp_path / "out", ALONE)
        copied = [
            name for name in TOKENIZER_FILES if (random_base / name).is_file() and name != "generation_config.json"
        ]
        assert {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"} <= set(copied)
        for name in copied:
            assert (tmp_path / "out" / name).read_bytes() == (random_base / name).read_bytes()

    def test_of_an_older_kind_is_copied_too(self, tmp_path: Path) -> None:
        (tmp_path / "from").mkdir()
        (tmp_path / "to").mkdir()
        for name in ("vocab.json", "merges.txt", "tokenizer.model", "training_args.bin"):
            (tmp_path / "from" / name).write_bytes(name.encode())
        copy_tokenizer(tmp_path / "from", tmp_path / "to")
        assert sorted(path.name for path in (tmp_path / "to").iterdir()) == [
            "merges.txt",
            "tokenizer.model",
            "vocab.json",
        ]


class TestAnArtifactThatCannotBeWritten:
    @pytest.fixture
    def out(self, random_base: Path, tmp_path: Path) -> Path:
        """A folder that holds the artifact of another run."""
        shutil.copytree(random_base, tmp_path / "out")
        return tmp_path / "out"

    @pytest.mark.parametrize("recipe", [{}, {"adapter": LORA}], ids=["full", "lora"])
    def test_leaves_the_old_one_and_says_what_to_do(self, random_base: Path, out: Path, recipe: dict[str, Any]) -> None:
        model = changed(random_base, **recipe)
        before = {path.name: path.read_bytes() for path in out.iterdir()}
        limit = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, limit[1]))
        try:
            with pytest.raises(EnvironmentFault) as full:
                save_artifact(model, a_recipe(**recipe), source(random_base), out, ALONE)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        assert f"could not be written to {out}" in full.value.problem
        assert "File too large" in full.value.problem
        assert "from the last checkpoint" in full.value.fix
        assert {path.name: path.read_bytes() for path in out.iterdir()} == before
        assert [path.name for path in out.parent.iterdir()] == ["out"]
