"""A version is served only where its bytes are the registered ones, and a PASS and an approval are on record."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llmops.database import open_database
from llmops.errors import EnvironmentFault, InputError
from llmops.files import folder_digest
from llmops.registry import store
from llmops.registry.admission import admit, aliased, may_serve, required
from llmops.registry.derived import FROM_TAG, SCHEME_TAG, beside_tag
from llmops.registry.promote import approve, reject, rollback
from llmops.registry.store import ModelVersion
from llmops.registry.verdicts import attach
from llmops.workspace import Workspace
from tests.registry.artifacts import write_model
from tests.registry.registrations import Registrar, champion, register, verdict


@pytest.fixture(autouse=True)
def in_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LLMOPS_DATABASE_URL", raising=False)


def quantized(make: Registrar, original: ModelVersion, result: str | None = "PASS") -> ModelVersion:
    return make(result, "m-w4a16", original.reference, **{FROM_TAG: str(original.digest), SCHEME_TAG: "w4a16"})


class TestPromoted:
    def test_a_champion_is_served_with_its_own_bytes(self, workspace: Workspace, make: Registrar) -> None:
        one = make()
        champion(one, workspace)
        found = admit("models:/m@champion", workspace=workspace)
        assert (found.version, found.digest, found.original) == ("models:/m/1", one.digest, "models:/m/1")
        assert folder_digest(found.folder) == one.digest
        assert found.said == ()
        assert admit("models:/m/1", workspace=workspace).digest == one.digest

    def test_without_an_approval_it_is_not(self, workspace: Workspace, make: Registrar) -> None:
        make()
        with pytest.raises(InputError, match="models:/m/1 is not approved, and only approved versions are served"):
            admit("models:/m/1", workspace=workspace)

    def test_a_verdict_after_the_approval_counts(self, workspace: Workspace, make: Registrar) -> None:
        one = make()
        champion(one, workspace)
        attach(open_database(workspace), verdict(str(one.digest), "FAIL"))
        with pytest.raises(InputError, match="the newest verdict on models:/m/1 is FAIL"):
            admit("models:/m@champion", workspace=workspace)

    def test_an_override_is_said_aloud(self, workspace: Workspace, make: Registrar) -> None:
        one = make("FAIL")
        approve(one, "ann", override="the old one is worse", workspace=workspace)
        (said,) = admit("models:/m/1", workspace=workspace).said
        assert said == "models:/m/1 is served by override of ann: the old one is worse"

    def test_what_was_gone_back_from_or_rejected_is_not_served(self, workspace: Workspace, make: Registrar) -> None:
        one, two, three = make(), make(), make()
        champion(one, workspace)
        champion(two, workspace)
        rollback("m", "ann", workspace=workspace)
        approve(three, "ann", workspace=workspace)
        reject(three, "bob", reason="rude", workspace=workspace)
        assert admit("models:/m@champion", workspace=workspace).version == "models:/m/1"
        for refused in (two, three):
            with pytest.raises(InputError, match="is not approved"):
                admit(refused.reference, workspace=workspace)

    def test_changed_bytes_are_refused(self, workspace: Workspace, make: Registrar) -> None:
        one = make()
        champion(one, workspace)
        weights = store.fetch(one, workspace=workspace) / "model.safetensors"
        content = bytearray(weights.read_bytes())
        content[-1] ^= 1
        weights.write_bytes(content)
        with pytest.raises(EnvironmentFault, match=r"the bytes of models:/m/1 .* are not those that were registered"):
            admit("models:/m@champion", workspace=workspace)

    def test_an_alias_moved_in_mlflow_alone_moves_nothing(self, workspace: Workspace, make: Registrar) -> None:
        from llmops.registry.connection import connect

        champion(make(), workspace)
        make()
        connect(workspace.tracking_uri).set_registered_model_alias("m", "champion", "2")
        assert admit("models:/m@champion", workspace=workspace).version == "models:/m/1"
        assert aliased("models:/m@champion", workspace=workspace) == 1

    def test_a_version_that_is_gone_is_told(self, workspace: Workspace, make: Registrar) -> None:
        from llmops.registry.connection import connect

        champion(make(), workspace)
        assert may_serve("models:/m@champion", workspace=workspace) == "models:/m/1"
        connect(workspace.tracking_uri).delete_model_version("m", "1")
        with pytest.raises(InputError, match="the model 'm' has no version"):
            may_serve("models:/m@champion", workspace=workspace)


class TestQuantized:
    def test_it_stands_on_its_originals_approval_and_its_own_pass(self, workspace: Workspace, make: Registrar) -> None:
        one = make()
        champion(one, workspace)
        small = quantized(make, one)
        found = admit("models:/m@champion", quantization="w4a16", workspace=workspace)
        assert (found.version, found.digest, found.original) == ("models:/m-w4a16/1", small.digest, "models:/m/1")

    def test_an_original_that_is_not_approved_is_not_served_quantized(
        self, workspace: Workspace, make: Registrar
    ) -> None:
        quantized(make, make())
        with pytest.raises(InputError, match="models:/m/1 is not approved"):
            admit("models:/m/1", quantization="w4a16", workspace=workspace)

    @pytest.mark.parametrize(
        ("result", "problem"),
        [("FAIL", "quantized from models:/m/1, has the verdict FAIL"), (None, "was never judged")],
    )
    def test_without_a_pass_of_its_own_it_is_not_served(
        self, workspace: Workspace, make: Registrar, result: str | None, problem: str
    ) -> None:
        one = make()
        champion(one, workspace)
        quantized(make, one, result)
        with pytest.raises(InputError, match=problem):
            admit("models:/m@champion", quantization="w4a16", workspace=workspace)

    @pytest.mark.parametrize("against", [None, "models:/m/2", "models:/gone/1"])
    def test_a_pass_against_nothing_or_another_is_not_its_own(
        self, workspace: Workspace, make: Registrar, against: str | None
    ) -> None:
        one = make()
        make()
        champion(one, workspace)
        make("PASS", "m-w4a16", against, **{FROM_TAG: str(one.digest), SCHEME_TAG: "w4a16"})
        with pytest.raises(InputError, match="was never judged against it"):
            admit("models:/m@champion", quantization="w4a16", workspace=workspace)

    def test_a_rejected_one_is_not_served(self, workspace: Workspace, make: Registrar) -> None:
        one = make()
        champion(one, workspace)
        reject(quantized(make, one), "bob", reason="rude", workspace=workspace)
        with pytest.raises(InputError, match="was rejected by bob: rude"):
            admit("models:/m@champion", quantization="w4a16", workspace=workspace)

    def test_a_scheme_that_nothing_was_made_by_names_the_command(self, workspace: Workspace, make: Registrar) -> None:
        one = make()
        champion(one, workspace)
        quantized(make, one)
        with pytest.raises(InputError, match="nothing was made from models:/m/1 by w8a8") as caught:
            admit("models:/m@champion", quantization="w8a8", workspace=workspace)
        assert "llmops quantize models:/m/1 --scheme w8a8" in caught.value.fix

    def test_its_bytes_are_read_too(self, workspace: Workspace, make: Registrar) -> None:
        one = make()
        champion(one, workspace)
        weights = store.fetch(quantized(make, one), workspace=workspace) / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-4] + b"abcd")
        with pytest.raises(EnvironmentFault, match="the bytes of models:/m-w4a16/1"):
            admit("models:/m@champion", quantization="w4a16", workspace=workspace)

    def test_an_adapter_stands_on_the_quantized_base_it_was_judged_with(
        self,
        workspace: Workspace,
        make: Registrar,
        tmp_path: Path,
    ) -> None:
        folder = write_model(tmp_path / "adapter", value=9.0, config="adapter_config.json")
        one = register(folder, workspace, name="a")
        champion(one, workspace)
        base = make("PASS", "b-w4a16", "models:/a/1", **{beside_tag(str(one.digest)): "w4a16"})
        found = admit("models:/a@champion", quantization="w4a16", workspace=workspace)
        assert (found.version, found.digest) == ("models:/a/1", one.digest)
        assert found.base_digest == base.digest
        assert found.base == store.fetch(base, workspace=workspace)


class TestFolders:
    def test_a_folder_is_served_unchecked_and_that_is_said(self, workspace: Workspace, tmp_path: Path) -> None:
        folder = write_model(tmp_path / "mine")
        found = admit(str(folder), workspace=workspace)
        assert (found.version, found.digest, found.original) == (str(folder), folder_digest(folder), None)
        assert "served unchecked" in found.said[0]
        with pytest.raises(InputError, match="no PASS and no approval of it can be on record"):
            admit(str(folder), require="promoted", workspace=workspace)

    def test_a_version_can_be_served_unchecked_where_that_is_asked(self, workspace: Workspace, make: Registrar) -> None:
        make("FAIL")
        found = admit("models:/m/1", require="none", workspace=workspace)
        assert "without asking for a PASS" in found.said[0]

    def test_what_is_asked_follows_from_the_reference(self) -> None:
        assert required("models:/m@champion", None) == "promoted"
        assert required("models:/m@champion", "none") == "none"
        assert required("./folder", None) == "none"


class TestAdapters:
    @pytest.fixture
    def adapter(self, tmp_path: Path) -> Path:
        base = write_model(tmp_path / "base")
        folder = write_model(tmp_path / "adapter", value=2.0, config="adapter_config.json")
        (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(base), "r": 8}))
        return folder

    def test_its_base_comes_with_it(self, workspace: Workspace, tmp_path: Path, adapter: Path) -> None:
        found = admit(str(adapter), workspace=workspace)
        assert (found.folder, found.base) == (adapter, tmp_path / "base")
        assert found.base_digest == folder_digest(tmp_path / "base")

    def test_another_base_than_it_was_trained_on_is_refused(self, workspace: Workspace, adapter: Path) -> None:
        (adapter / "manifest.json").write_text(json.dumps({"lineage": {"base_digest": "f" * 64}}))
        with pytest.raises(EnvironmentFault, match="was trained on a base with digest ffffffffffff"):
            admit(str(adapter), workspace=workspace)

    def test_a_base_that_is_gone_is_told(self, workspace: Workspace, tmp_path: Path, adapter: Path) -> None:
        (tmp_path / "base").rename(tmp_path / "elsewhere")
        with pytest.raises(InputError, match=r"the base of .*adapter is not to be had"):
            admit(str(adapter), workspace=workspace)
