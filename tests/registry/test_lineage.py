"""Trees of versions end, whatever the digests say, and name each version once."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from llmops.registry.lineage import ancestry, descendants
from llmops.registry.store import ModelVersion

START = datetime(2026, 1, 1, tzinfo=UTC)


def version(name: str, digest: str | None, base: str | None, *, number: int = 1, reference: str = "") -> ModelVersion:
    """A version with these bytes, trained from those bytes; names are in the order they were made."""
    tags = {"llmops.base_digest": base, "llmops.base": reference}
    made = START + timedelta(minutes=ord(name[0]) + number)
    known = {key: value for key, value in tags.items() if value}
    return ModelVersion(name, number, digest, "full", (), None, made, "", "", {}, known)


def line(one: ModelVersion, versions: list[ModelVersion], merged: dict[str, str] | None = None) -> list[str]:
    return [each.version.reference for each in ancestry(one, versions, lambda _: None, merged).line()]


def test_the_line_goes_back_to_the_first_base() -> None:
    a, b, c = version("a", "1", "0"), version("b", "2", "1"), version("c", "3", "2")
    assert line(c, [a, b, c]) == ["models:/c/1", "models:/b/1", "models:/a/1"]


def test_of_equal_bytes_the_one_the_recipe_names_counts_else_the_oldest() -> None:
    a, near, b = version("a", "1", "0"), version("a-large", "1", "0", number=5), version("b", "1", "0")
    named = version("c", "2", "1", reference="models:/a-large@champion")
    assert line(named, [a, near, b, named])[1] == "models:/a-large/5"
    by_folder = version("c", "2", "1", reference="/models/mine")
    assert line(by_folder, [b, near, a, by_folder])[1] == "models:/a/1"


def test_a_merged_folder_leads_to_the_adapter_in_it() -> None:
    a, b = version("a", "1", "0"), version("b", "2", "merged")
    assert line(b, [a, b]) == ["models:/b/1"]
    assert line(b, [a, b], {"merged": "1"}) == ["models:/b/1", "models:/a/1"]


def test_a_circle_is_named_and_ends() -> None:
    """Training that changes nothing leaves its base's bytes."""
    a, b = version("a", "1", "2"), version("b", "2", "1")
    found = ancestry(a, [a, b], lambda _: None)
    assert [each.version.name for each in found.line()] == ["a", "b"]
    assert found.base is not None
    assert found.base.seen == "models:/a/1"
    same = version("c", "3", "3")
    assert ancestry(same, [same], lambda _: None).seen == "models:/c/1"
    assert [one.version.name for one in descendants({"1"}, [a, b])] == ["b"]


def test_versions_with_the_same_bytes_are_all_made_of_it_and_what_follows_is_told_once() -> None:
    a, b, twin, c = version("a", "1", "0"), version("b", "2", "1"), version("d", "2", "1"), version("c", "3", "2")
    found = descendants({"1"}, [a, b, twin, c])
    assert [(one.version.name, len(one.made)) for one in found] == [("b", 1), ("d", 0)]


DIGESTS = st.sampled_from("123456")
VERSIONS = st.lists(st.tuples(st.sampled_from("abc"), DIGESTS, DIGESTS), max_size=9)


@given(VERSIONS, DIGESTS)
def test_whatever_the_digests_every_tree_ends_and_reaches_what_a_walk_reaches(
    made: list[tuple[str, str, str]], start: str
) -> None:
    """Against a plain walk over pairs of digests."""
    versions = [version(name, digest, base, number=place) for place, (name, digest, base) in enumerate(made, 1)]
    reached: set[str] = {start}
    before: set[str] = set()
    while reached != before:
        before = set(reached)
        reached |= {digest for _, digest, base in made if base in reached}
    found = [one.version for top in descendants({start}, versions) for one in top.every()]
    assert {one.digest for one in found} == reached - {start}
    assert len({one.reference for one in found}) == len(found)
    for one in versions:
        references = line(one, versions)
        assert len(set(references)) == len(references)
