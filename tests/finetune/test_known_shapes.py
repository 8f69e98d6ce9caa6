"""A base's shape is found without network: embedded, in a folder, in the hub's cache, in the table; else it says so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llmops.errors import EnvironmentFault, InputError
from llmops.finetune.known_shapes import KNOWN, find_shape, hub_snapshot

CONFIG = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 160,
}
COMMIT = "c" * 40


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def put_in_cache(cache: Path, name: str, *, layers: int) -> Path:
    model = cache / f"models--{name.replace('/', '--')}"
    snapshot = model / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text(COMMIT)
    (snapshot / "config.json").write_text(json.dumps(CONFIG | {"num_hidden_layers": layers}))
    return snapshot


def test_an_embedded_base_needs_nothing() -> None:
    found = find_shape("builtin:tiny")
    assert (found.shape.hidden, found.shape.layers, found.folder) == (256, 4, None)


def test_a_folder_is_read(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    found = find_shape(str(tmp_path))
    assert (found.shape.layers, found.folder) == (2, tmp_path)


@pytest.mark.parametrize("revision", ["", "@main", f"@{COMMIT}"])
def test_the_hubs_cache_is_read_where_its_own_library_finds_the_file(cache: Path, revision: str) -> None:
    from huggingface_hub import try_to_load_from_cache

    snapshot = put_in_cache(cache, "org/model", layers=5)
    found = find_shape(f"org/model{revision}")
    assert (found.shape.layers, found.folder) == (5, snapshot)
    asked = try_to_load_from_cache("org/model", "config.json", cache_dir=cache, revision=revision[1:] or None)
    assert asked == str(snapshot / "config.json")


def test_the_cache_wins_over_the_table(cache: Path) -> None:
    put_in_cache(cache, "Qwen/Qwen3-8B", layers=7)
    assert find_shape("Qwen/Qwen3-8B").shape.layers == 7


@pytest.mark.parametrize("name", KNOWN)
def test_well_known_bases_need_no_cache(name: str) -> None:
    assert find_shape(name).folder is None
    assert find_shape(f"{name}@main").shape == find_shape(name).shape


def test_a_base_that_is_nowhere_says_how_to_get_its_shape() -> None:
    with pytest.raises(EnvironmentFault, match="did you mean `Qwen/Qwen3-8B`") as error:
        find_shape("Qwen/Qwen3-8BB")
    assert "hf download Qwen/Qwen3-8BB config.json" in error.value.fix


def test_an_unknown_revision_is_not_taken_for_another(cache: Path) -> None:
    put_in_cache(cache, "org/model", layers=5)
    assert hub_snapshot("org/model", "v2") is None


@pytest.mark.parametrize(
    ("reference", "says"),
    [
        pytest.param("builtin:tony", "builtin", id="no such embedded base"),
        pytest.param("./nowhere", "no folder", id="no such folder"),
        pytest.param("just-a-word", "names no model", id="no hub id"),
    ],
)
def test_a_name_of_nothing_is_the_users_error(reference: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        find_shape(reference)


@pytest.mark.parametrize("content", ["{", "[]"])
def test_a_broken_config_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(InputError, match=r"config\.json"):
        find_shape(str(tmp_path))


def test_a_folder_without_a_config_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no config\.json"):
        find_shape(str(tmp_path))
