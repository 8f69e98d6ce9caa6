"""Two runs are the same run only if nothing that decides a weight differs; what differs can be named."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops.files import digest_of
from llmops.finetune.identity import PACKAGES, differences, environment, identity, run_digest
from tests.finetune.small_runs import a_recipe


def parts(**changes: Any) -> dict[str, Any]:
    known: dict[str, Any] = {
        "dataset": "d" * 64,
        "tokens": "e" * 64,
        "template": "f" * 64,
        "base": "a" * 64,
        "base_revision": None,
        "world": 1,
        "threads": 2,
        "kernels": {"attention": "sdpa", "liger": False, "device": "CPU, 2 threads"},
    }
    recipe = changes.pop("recipe", a_recipe())
    return identity(recipe, **{**known, **changes})


@pytest.mark.parametrize(
    ("part", "value", "named"),
    [
        ("recipe", a_recipe(seed=6), ["recipe.seed: 5 → 6"]),
        ("recipe", a_recipe(optimizer={"clip": 0.5}), ["recipe.optimizer.clip: 1.0 → 0.5"]),
        ("dataset", "0" * 64, ["dataset: dddddddddddd… → 000000000000…"]),
        ("tokens", "0" * 64, ["tokens: eeeeeeeeeeee… → 000000000000…"]),
        ("template", None, ["template: ffffffffffff… → None"]),
        ("base", "0" * 64, ["base: aaaaaaaaaaaa… → 000000000000…"]),
        ("base_revision", "3", ["base_revision: None → 3"]),
        ("world", 2, ["world: 1 → 2"]),
        ("threads", 4, ["threads: 2 → 4"]),
        (
            "kernels",
            {"attention": "varlen", "liger": True, "device": "CPU, 2 threads"},
            ["kernels.attention: sdpa → varlen", "kernels.liger: False → True"],
        ),
    ],
)
def test_every_part_changes_the_digest_and_is_named(part: str, value: Any, named: list[str]) -> None:
    before, after = parts(), parts(**{part: value})
    assert run_digest(before) != run_digest(after)
    assert list(differences(before, after)) == named


def test_the_versions_of_what_computes_weights_are_part_of_it() -> None:
    found = environment()
    assert parts()["environment"] == found
    assert {"python", "machine", "torch", "transformers", "peft"} <= found.keys()
    assert found.keys() <= {"python", "machine", *PACKAGES}
    older = {**parts(), "environment": {**found, "torch": "1.0"}}
    assert run_digest(older) != run_digest(parts())
    assert list(differences(older, parts())) == [f"environment.torch: 1.0 → {found['torch']}"]


def test_every_default_is_part_of_it() -> None:
    """A default that another version of llmops has changed is another run."""
    recipe = parts()["recipe"]
    assert recipe["optimizer"]["betas"] == [0.9, 0.999]
    assert recipe["schedule"] == {"epochs": 2.0, "steps": None, "warmup": 0.03, "shape": "cosine", "floor": 0.0}


def test_it_is_the_same_after_a_round_trip_through_json() -> None:
    back = json.loads(json.dumps(parts()))
    assert run_digest(back) == run_digest(parts()) == digest_of(parts())
    assert list(differences(back, json.loads(json.dumps(parts())))) == []


values = st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.lists(st.integers(), max_size=3)
trees = st.recursive(
    st.dictionaries(st.sampled_from("abcd"), values, max_size=4),
    lambda inner: st.dictionaries(st.sampled_from("abcd"), values | inner, max_size=4),
    max_leaves=12,
)


@given(trees)
def test_nothing_differs_from_itself(one: dict[str, Any]) -> None:
    assert list(differences(one, json.loads(json.dumps(one)))) == []


@given(trees, trees)
def test_what_differs_is_named_both_ways(one: dict[str, Any], other: dict[str, Any]) -> None:
    keys = [line.partition(":")[0] for line in differences(one, other)]
    assert keys == [line.partition(":")[0] for line in differences(other, one)]
    assert bool(keys) is (digest_of(without_nulls(one)) != digest_of(without_nulls(other)))


def without_nulls(tree: Any) -> Any:
    """A key that is missing and one that holds nothing are the same to a reader of differences."""
    if not isinstance(tree, dict):
        return tree
    return {key: without_nulls(value) for key, value in tree.items() if value is not None}


def test_long_values_are_shortened_where_they_still_tell_apart() -> None:
    one, other = {"base": "/models/" + "x" * 100 + "/one"}, {"base": "/models/" + "x" * 100 + "/two"}
    (line,) = differences(one, other)
    assert line.count("…") == 2
    assert "/one → /models/" in line
    assert line.endswith("/two")
