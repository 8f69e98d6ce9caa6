"""Who rates what next follows from counts and small records alone."""

from __future__ import annotations

from collections import Counter
from itertools import permutations
from math import sqrt
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops.feedback.assign import (
    Counts,
    Gold,
    Opening,
    Shares,
    claim,
    extended,
    first,
    gold_for,
    kinds_due,
    missing,
    readable,
    sides,
    to_pause,
    why_none,
)
from llmops.feedback.tasks import NoTask


def given_out(shares: Shares, tasks: int, seed: int) -> list[str]:
    """The kinds of a rater's first tasks, where each kind can always be had."""
    kinds: list[str] = []
    for _ in range(tasks):
        had = Counter(kinds)
        counts = Counts(had["normal"], had["gold"], had["repeat"], had["training"])
        kinds.append(kinds_due(shares, counts, lambda kind, n: Random(f"{seed} {kind} {n}").random())[0])
    return kinds


# ── kinds ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@given(
    gold=st.floats(0, 0.5),
    repeat=st.floats(0, 0.45),
    tasks=st.integers(1, 150),
    seed=st.integers(),
)
def test_a_share_is_held_to_within_one_at_every_task(gold: float, repeat: float, tasks: int, seed: int) -> None:
    kinds = given_out(Shares(0, gold, repeat), tasks, seed)
    for upto in range(1, tasks + 1):
        had = Counter(kinds[:upto])
        assert abs(had["gold"] - gold * upto) <= 1 + 1e-9 + (1 if repeat else 0) * gold
        assert abs(had["repeat"] - repeat * upto) <= 1 + 1e-9 + (1 if gold else 0) * repeat


def test_no_share_gives_none() -> None:
    assert set(given_out(Shares(0, 0.0, 0.0), 200, 1)) == {"normal"}


def test_which_task_is_gold_cannot_be_foreseen() -> None:
    at = [
        tuple(n for n, kind in enumerate(given_out(Shares(0, 0.1, 0), 60, seed)) if kind == "gold") for seed in range(9)
    ]
    assert len(set(at)) == 9
    assert all(5 <= len(places) <= 7 for places in at)


def test_the_same_counts_give_the_same_kind() -> None:
    assert given_out(Shares(2, 0.2, 0.1), 50, 4) == given_out(Shares(2, 0.2, 0.1), 50, 4)


def test_training_comes_first_and_normal_items_where_there_is_nothing_to_train_with() -> None:
    assert given_out(Shares(3, 0.5, 0), 5, 1)[:3] == ["training"] * 3
    assert kinds_due(Shares(3, 0.5, 0), Counts(), lambda kind, n: 0.0) == ("training", "normal")


def test_where_two_kinds_are_due_both_are_offered_and_normal_last() -> None:
    due = kinds_due(Shares(0, 0.2, 0.4), Counts(normal=10, gold=1, repeat=0), lambda kind, n: 0.0)
    assert due == ("repeat", "gold", "normal")


# ── items ──────────────────────────────────────────────────────────────────────────────────────────────────────────

OPENINGS = st.lists(
    st.builds(
        Opening,
        item=st.text("abc", min_size=1),
        rank=st.integers(-2, 2),
        place=st.integers(0, 50),
        language=st.sampled_from(["", "de", "fr"]),
        had=st.booleans(),
    )
)


@given(openings=OPENINGS, languages=st.sets(st.sampled_from(["", "de", "fr"])))
def test_the_highest_priority_then_the_first_come_of_what_the_rater_reads_and_has_not_had(
    openings: list[Opening], languages: set[str]
) -> None:
    best = None
    for one in openings:  # a loop that compares one with another
        if one.had or one.language not in languages:
            continue
        if best is None or one.rank < best.rank or (one.rank == best.rank and one.place < best.place):
            best = one
    assert first(openings, languages) == best


@pytest.mark.parametrize(
    ("item", "read", "fits"),
    [
        ("", (), True),
        ("de", ("de",), True),
        ("de-CH", ("de",), True),
        ("de", ("de-CH",), False),
        ("fr", ("de",), False),
    ],
)
def test_who_reads_a_language_reads_it_from_everywhere(item: str, read: tuple[str, ...], fits: bool) -> None:
    assert bool(readable([item], read)) is fits


def test_a_campaign_in_languages_wants_all_of_them() -> None:
    assert missing(["de", "fr"], [], read=["de"], qualifications=[]) == NoTask("nothing")
    assert missing(["de", "fr"], [], read=["fr", "de"], qualifications=[]) is None


def test_a_qualification_comes_first() -> None:
    assert missing([], ["medicine"], read=[], qualifications=["law"]) == NoTask("training")
    assert missing([], ["medicine"], read=[], qualifications=["law", "medicine"]) is None


def test_gold_is_not_repeated_before_all_was_seen() -> None:
    times = dict.fromkeys("abcd", 0)
    rng = Random(2)
    for _ in range(3 * len(times)):
        chosen = gold_for([Gold(name, 0, n) for name, n in times.items()], training=False, rng=rng)
        assert chosen is not None
        times[chosen.item] += 1
        assert max(times.values()) - min(times.values()) <= 1


def test_what_was_told_in_training_proves_nothing() -> None:
    told = [Gold("a", 0, 1, told=True)]
    assert gold_for(told, training=False, rng=Random(1)) is None
    assert gold_for([*told, Gold("b", 1, 5)], training=False, rng=Random(1)) == Gold("b", 1, 5)
    assert gold_for(told, training=True, rng=Random(1)) == told[0]


def test_training_follows_the_order_of_the_items() -> None:
    assert gold_for([Gold("b", 1), Gold("a", 0), Gold("c", 2)], training=True, rng=Random(1)) == Gold("a", 0)


def test_every_order_of_the_sides_is_as_likely() -> None:
    rng, draws = Random(7), 6_000
    seen = Counter(sides(3, rng) for _ in range(draws))
    assert set(seen) == set(permutations(range(3)))
    expected = draws / 6
    assert sum((n - expected) ** 2 / expected for n in seen.values()) < 20.5  # chi² with 5 degrees, p = 0.001


# ── overlap, leases, pause ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("held", "wanted", "does"),
    [
        pytest.param(True, True, "keep", id="a rating in time keeps its place"),
        pytest.param(False, True, "take", id="a late one takes one that is free, or is surplus"),
        pytest.param(True, False, "give back", id="a skip hands it back"),
        pytest.param(False, False, "keep", id="a late skip holds nothing"),
    ],
)
def test_what_a_rating_does_to_the_overlap(held: bool, wanted: bool, does: str) -> None:
    assert claim(held=held, wanted=wanted) == does


@pytest.mark.parametrize(
    ("open_or_out", "had_any", "taken_until", "says"),
    [
        (True, True, 130.0, NoTask("taken", 30.0)),
        (True, False, 90.0, NoTask("taken", 0.0)),
        (True, False, None, NoTask("nothing")),
        (True, True, None, NoTask("finished")),
        (False, False, None, NoTask("finished")),
    ],
)
def test_why_there_is_no_task(open_or_out: bool, had_any: bool, taken_until: float | None, says: NoTask) -> None:
    assert why_none(open_or_out=open_or_out, had_any=had_any, taken_until=taken_until, now=100.0) == says


def test_a_lease_is_extended_once_a_third_of_it_is_over() -> None:
    assert extended(1000.0, 100.0, 1000.0) == 1000.0
    assert extended(1000.0, 400.0, 1000.0) == 1400.0
    assert extended(1000.0, 1200.0, 1000.0) == 2200.0


@pytest.mark.parametrize("of", [9, 10, 11, 30])
@pytest.mark.parametrize("right", [0, 2, 4, 6])
def test_a_rater_is_paused_when_the_interval_lies_wholly_below(right: int, of: int) -> None:
    z, n, p = 1.959963984540054, of, right / of
    upper = (p + z * z / (2 * n) + z * sqrt(p * (1 - p) / n + z * z / (4 * n * n))) / (1 + z * z / n)
    assert to_pause(right, of, below=0.6, after=10) is (of >= 10 and upper < 0.6)


def test_without_gold_items_nobody_is_paused() -> None:
    assert not to_pause(0, 0, below=1.0, after=1)
