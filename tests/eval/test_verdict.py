"""A gate passes only what is surely good enough, fails only what is surely not, and else says how much is missing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import scipy.stats

from llmops.errors import InputError
from llmops.eval.gates import Gate
from llmops.eval.measured import Measured
from llmops.eval.metric import mean_of, share_of
from llmops.eval.parity import Parity
from llmops.eval.verdict import EXIT_CODES, check_without_model, judge, lines
from llmops.files import digest_of
from llmops.records import Verdict
from llmops.registry.verdicts import plain
from tests.eval.measurements import measured, right, scored


def gate(*rules: dict[str, Any], **others: Any) -> Gate:
    return Gate.model_validate({"against": "champion", "rules": [{"suite": "s", **rule} for rule in rules], **others})


def ask(one: Gate, report: Measured, other: Measured | None = None) -> Verdict:
    others = {} if other is None else {"s": other}
    return judge(one, {"s": report}, others, name="g", against=None if other is None else "models:/m/1")


def with_hits(report: Measured, found: Any) -> Measured:
    """The report of the same items with other values, which a thousand need not be made anew for."""
    (metric,) = report.metrics
    return replace(report, metrics=(share_of(metric.name, "v1", found.astype(float).tolist()),))


def hits(share: float, number: int) -> list[float]:
    return [float(place < share * number) for place in range(number)]


@pytest.mark.parametrize(
    ("share", "number", "result"),
    [
        pytest.param(0.9, 400, "PASS", id="the whole interval above the bound passes"),
        pytest.param(0.6, 400, "FAIL", id="the whole interval below it fails"),
        pytest.param(0.84, 40, "INCONCLUSIVE", id="above it on too few items is no pass"),
        pytest.param(0.76, 40, "INCONCLUSIVE", id="below it on too few items is no failure"),
        pytest.param(1.0, 5, "INCONCLUSIVE", id="five of five prove nothing"),
    ],
)
def test_a_fixed_bound(share: float, number: int, result: str) -> None:
    found = ask(gate({"metric": "exact_match", "at_least": 0.8}), right(hits(share, number)))
    assert found.result == result
    turned = ask(gate({"metric": "exact_match", "at_most": 0.2}), right([1 - hit for hit in hits(share, number)]))
    assert turned.result == result


@pytest.mark.parametrize(
    ("shift", "rule", "result"),
    [
        pytest.param(0.00, {"no_worse_by": 0.02}, "PASS", id="no change is no worse"),
        pytest.param(-0.01, {"no_worse_by": 0.02}, "PASS", id="a sure but small drop passes"),
        pytest.param(-0.02, {"no_worse_by": 0.02}, "INCONCLUSIVE", id="a drop of the margin itself cannot be told"),
        pytest.param(-0.05, {"no_worse_by": 0.02}, "FAIL", id="a drop beyond the margin fails"),
        pytest.param(0.05, {"better_by": 0.02}, "PASS", id="a gain beyond what is asked passes"),
        pytest.param(0.00, {"better_by": 0.02}, "FAIL", id="no gain fails where one is asked"),
    ],
)
@pytest.mark.parametrize("better", ["higher", "lower"])
def test_the_low_end_of_the_paired_interval_decides(
    shift: float, rule: dict[str, Any], result: str, better: Any
) -> None:
    draw = np.random.default_rng(0)
    before = draw.random(400)
    noise = draw.normal(0, 0.03, 400)
    after = before + (noise - noise.mean() + shift) * (1 if better == "higher" else -1)
    one, two = (measured([mean_of("score", "v1", values.tolist(), better=better)]) for values in (before, after))
    assert ask(gate({"metric": "score", **rule}), two, one).result == result


def test_few_items_that_all_agree_do_not_show_that_nothing_was_lost() -> None:
    same = scored([0.5] * 8)
    found = ask(gate({"metric": "rougeL", "no_worse_by": 0.02}), same, same)
    assert found.result == "INCONCLUSIVE"
    assert (
        ask(gate({"metric": "rougeL", "no_worse_by": 0.02}), scored([0.5] * 400), scored([0.5] * 400)).result == "PASS"
    )


def test_a_first_version_has_nothing_to_be_compared_with() -> None:
    found = ask(
        gate({"metric": "exact_match", "at_least": 0.5}, {"metric": "exact_match", "better_by": 0.1}),
        right(hits(0.9, 200)),
    )
    assert found.result == "PASS"
    assert found.rules[1]["note"] == "nothing to compare with"
    assert found.against is None


def test_every_slice_is_asked_where_the_rule_says_so() -> None:
    kinds = [{"kind": "a" if place < 300 else "b"} for place in range(600)]
    values = [0.9] * 300 + [0.3] * 300
    noisy = (np.array(values) + np.random.default_rng(0).normal(0, 0.05, 600)).tolist()
    whole = ask(gate({"metric": "rougeL", "at_least": 0.5}), scored(noisy, slices=kinds))
    assert (whole.result, len(whole.rules)) == ("PASS", 1)
    each = ask(gate({"metric": "rougeL", "at_least": 0.5, "per_slice": True}), scored(noisy, slices=kinds))
    assert each.result == "FAIL"
    assert [(rule["rule"], rule["result"]) for rule in each.rules] == [
        ("s rougeL ≥ 0.5", "PASS"),
        ("s rougeL [kind=a] ≥ 0.5", "PASS"),
        ("s rougeL [kind=b] ≥ 0.5", "FAIL"),
    ]


def test_what_is_missing_is_said_in_items() -> None:
    found = ask(gate({"metric": "exact_match", "at_least": 0.8}), right(hits(0.85, 100)))
    assert found.result == "INCONCLUSIVE"
    missing = int(found.rules[0]["note"].split()[1].replace(",", ""))
    more = ask(gate({"metric": "exact_match", "at_least": 0.8}), right(hits(0.85, 100 + missing)))
    assert more.result == "PASS"


def test_measures_have_intervals_where_they_are_of_items() -> None:
    seconds = np.random.default_rng(0).exponential(0.1, 500).tolist()
    report = right(hits(0.9, 500), seconds=seconds)
    passes = gate({"measure": "latency_p95_ms", "at_most": 500}, {"measure": "size_bytes", "at_most": 11})
    found = ask(passes, report)
    assert found.result == "PASS"
    first, second = found.rules
    assert first["low"] < np.quantile(seconds, 0.95) * 1000 < first["high"]
    assert second["low"] == second["high"] == 10.0
    assert ask(gate({"measure": "latency_p95_ms", "at_most": 50}), report).result == "FAIL"
    assert ask(gate({"measure": "truncated_share", "at_most": 0.001}), report).result == "INCONCLUSIVE"


def test_equal_models_are_promoted_by_error_no_more_often_than_stated() -> None:
    """1,000 comparisons of a model with itself on other draws: `better_by: 0` must pass at most 2.5 % of them."""
    draw = np.random.default_rng(8)
    asked = gate({"metric": "exact_match", "better_by": 0.0})
    promoted, failed, items = 0, 0, right([0] * 120)
    for _ in range(1000):
        chance = draw.random(120)
        first, second = (with_hits(items, draw.random(120) < chance) for _ in range(2))
        result = ask(asked, second, first).result
        promoted += result == "PASS"
        failed += result == "FAIL"
    # The error of one side is 0.025; three standard errors of 1,000 draws above it.
    limit = 0.025 + 3 * np.sqrt(0.025 * 0.975 / 1000)
    assert promoted / 1000 <= limit
    assert failed / 1000 <= limit


def test_many_slices_do_not_make_a_good_model_fail() -> None:
    """Twenty slices and the whole, all exactly at the bound: uncorrected, two in five such gates would say FAIL."""
    draw = np.random.default_rng(3)
    items = right([0] * 1200, slices=[{"kind": f"{place % 20:02}"} for place in range(1200)])
    asked = gate({"metric": "exact_match", "at_least": 0.5, "per_slice": True})
    failed = sum(ask(asked, with_hits(items, draw.random(1200) < 0.5)).result == "FAIL" for _ in range(1000))
    # Of 60 items 18 or fewer are needed to fail after correction, a chance of 0.0013 in each slice: 0.028 in all.
    each = float(scipy.stats.binom.cdf(18, 60, 0.5))
    expected = 1 - (1 - each) ** 21
    assert failed / 1000 <= expected + 3 * np.sqrt(expected * (1 - expected) / 1000)


def test_a_planted_drop_is_caught_at_the_stated_power() -> None:
    """As many items as the detectable difference asks for find a drop of that size in four of five comparisons."""
    draw = np.random.default_rng(5)
    asked = gate({"metric": "rougeL", "no_worse_by": 0.0})
    drop, deviation = 0.02, 0.1
    number = int(np.ceil(((1.96 + 0.8416) * deviation / drop) ** 2))
    caught = 0
    for _ in range(150):
        before = draw.random(number)
        after = before + draw.normal(-drop, deviation, number)
        caught += ask(asked, scored(after.tolist()), scored(before.tolist())).result == "FAIL"
    assert caught / 150 == pytest.approx(0.8, abs=0.1)


def test_the_verdict_names_what_it_was_made_from() -> None:
    found = ask(
        gate({"metric": "exact_match", "no_worse_by": 0.5}), right([1] * 50, model="new"), right([1] * 50, model="old")
    )
    assert found.model_digest == "bytes of new"
    assert found.reports == ("report of new", "report of old")
    written = plain(found)
    assert digest_of({key: value for key, value in written.items() if key != "digest"}) == found.digest
    assert EXIT_CODES[found.result] == 0
    assert lines(found)[0][:2] == ("PASS", "s exact_match no worse by 0.5")


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ({"metric": "exact_mach", "at_least": 1}, "exact_mach, which s does not measure; did you mean `exact_match`"),
        ({"measure": "latency_p95", "at_most": 1}, "did you mean `latency_p95_ms`"),
        ({"measure": "latency_p95_ms", "no_worse_by": 1}, "compares the measure"),
    ],
)
def test_what_was_not_measured_is_no_verdict(rule: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        ask(gate(rule), right([1, 0]))
    with pytest.raises(InputError, match="asks for the suite s, which was not measured"):
        judge(gate(rule), {"other": right([1, 0])}, {}, name="g", against=None)


def test_what_is_served_must_surely_be_what_was_trained() -> None:
    rng = np.random.default_rng(0)
    statistics = np.stack([rng.uniform(0, 0.6, 50), rng.integers(0, 2, 50), np.full(50, 20.0)], 1)
    near = Parity("s", "merged", statistics, tuple(range(50)))  # 0.015 nats and 2.5 % a token on average
    report = right([1.0] * 50)

    def judged(**bounds: float) -> Verdict:
        rules = gate({"served_equals": bounds})
        return judge(rules, {"s": report}, {}, name="g", against=None, parities={"s": near})

    passed = judged(kl=0.05, flips=0.1)
    assert [rule["result"] for rule in passed.rules] == ["PASS", "PASS"]
    assert passed.rules[0]["value"] == pytest.approx(statistics[:, 0].sum() / 1000)
    assert passed.reports == (report.digest, near.digest)
    assert judged(kl=0.005).result == "FAIL"
    assert judged(flips=float(statistics[:, 1].sum() / 1000)).result == "INCONCLUSIVE"


def test_the_share_of_the_suite_that_was_trained_on_is_counted_not_estimated() -> None:
    for share, result in ((0.0, "PASS"), (0.01, "PASS"), (0.02, "FAIL")):
        rules = gate({"contaminated_at_most": 0.01})
        found = judge(rules, {"s": right([1, 0])}, {}, name="g", against=None, contaminated={"s": share})
        assert (found.result, found.rules[0]["value"]) == (result, share)


@pytest.mark.parametrize("rule", [{"served_equals": {"kl": 1}}, {"contaminated_at_most": 0}])
def test_answers_alone_cannot_be_judged_by_rules_that_look_into_the_model(rule: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="looks into the model"):
        check_without_model(gate(rule))


def test_slices_must_surely_lie_close_together() -> None:
    found = hits(0.9, 300) + hits(0.7, 300)
    slices = [{"group": "a"}] * 300 + [{"group": "b"}] * 300
    report = right(found, slices=slices)

    def judged(bound: float, **changes: str) -> Verdict:
        return ask(gate({"metric": "exact_match", "between": "group", "gap_at_most": bound} | changes), report)

    assert judged(0.3).result == "PASS"
    assert judged(0.1).result == "FAIL"
    assert judged(0.19).result == "INCONCLUSIVE"
    assert judged(0.3).rules[0]["value"] == pytest.approx(0.2)
    with pytest.raises(InputError, match="did you mean `group`"):
        judged(0.3, between="grup")
    with pytest.raises(InputError, match="did you mean `exact_match`"):
        judged(0.3, metric="exact_mach")


@pytest.mark.parametrize(
    ("changed", "result"),
    [
        pytest.param(2, "PASS", id="few"),
        pytest.param(20, "INCONCLUSIVE", id="about so many"),
        pytest.param(60, "FAIL", id="many"),
    ],
)
def test_answers_that_are_another_text_count_whether_right_or_wrong(changed: int, result: str) -> None:
    before = right([1.0] * 100, model="m")
    items = [replace(item, answer="another") if place < changed else item for place, item in enumerate(before.items)]
    after = replace(before, items=tuple(reversed(items)))
    found = ask(gate({"changed_at_most": 0.2}), after, before)
    assert found.result == result
    (rule,) = found.rules
    assert rule["value"] == changed / 100
    # Wilson's interval, by its formula.
    z, n, p = scipy.stats.norm.ppf(0.975), 100, changed / 100
    middle, half = (p + z**2 / (2 * n)) / (1 + z**2 / n), z * (p * (1 - p) / n + z**2 / (4 * n**2)) ** 0.5
    assert rule["high"] == pytest.approx(middle + half / (1 + z**2 / n))


def test_answers_drawn_at_a_temperature_are_not_compared_word_by_word() -> None:
    drawn = right([1.0] * 4)
    drawn = replace(drawn, suite={**drawn.suite, "settings": {"generation": {"temperature": 0.7}}})
    with pytest.raises(InputError, match="drawn at a temperature"):
        ask(gate({"changed_at_most": 0.2}), drawn, drawn)


def test_weights_are_compared_by_their_bytes() -> None:
    before, after = (right([1.0] * 4, model=name, measures={"weights_gib": gib}) for name, gib in (("m", 8), ("q", 3)))
    assert ask(gate({"weights_at_most": 0.5}), after, before).rules[0]["value"] == 3 / 8
    assert ask(gate({"weights_at_most": 0.3}), after, before).result == "FAIL"
    with pytest.raises(InputError, match="only known of models on this machine"):
        ask(gate({"weights_at_most": 0.5}), right([1.0]), right([1.0]))
    with pytest.raises(InputError, match="weights_at_most looks into the model"):
        check_without_model(gate({"weights_at_most": 0.5}))


@pytest.mark.parametrize("rule", [{"changed_at_most": 0.2}, {"weights_at_most": 0.5}])
def test_what_changed_against_nothing_passes_and_says_so(rule: dict[str, float]) -> None:
    found = ask(gate(rule), right([1.0] * 4))
    assert (found.result, found.rules[0]["note"]) == ("PASS", "nothing to compare with")
