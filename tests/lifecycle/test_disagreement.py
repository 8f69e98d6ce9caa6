"""Items are drawn likelier the more judges disagree on them, or a router with what was better; chances are stored."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Engine, insert

from llmops.config import load
from llmops.database import open_database
from llmops.errors import FileFaults, InputError
from llmops.eval.measured import Measured, content_of
from llmops.eval.metric import Metric, mean_of, share_of
from llmops.feedback.campaign import AgainstMetric, ByRouter, Campaign
from llmops.feedback.drawing import inclusion, item_of
from llmops.feedback.items import NewItem, Response
from llmops.files import digest_of, write_json
from llmops.lifecycle.disagreement import LEAST, against_choice, drawn_by, regret, reported, spread, weight
from llmops.lifecycle.rated_items import items_of
from llmops.lifecycle.rated_ledger import ledger_items
from llmops.rubric import Rubric, load_rubric
from llmops.serve import ledger_tables
from llmops.serve.hooks import Feedback
from llmops.serve.routing.choose import Rules, choose
from llmops.serve.routing.features import features_of
from llmops.serve.routing.router import Router, read_router, write_router
from llmops.workspace import Workspace
from tests.eval.chat_server import Reply, Served, chat, serving
from tests.eval.measurements import measured
from tests.lifecycle.kept_requests import keep, ledger

SHARES = st.one_of(st.floats(0, 1), st.just(math.nan))
DRAW = random.Random(11)


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return open_database(Workspace(tmp_path / "home"))


# Three numbers, each against its definition.


@given(st.lists(SHARES, max_size=7))
def test_spread_is_the_mean_distance_of_two_opinions_drawn_without_replacement(opinions: list[float]) -> None:
    there = np.array([one for one in opinions if not math.isnan(one)])
    apart = np.abs(there[:, None] - there[None, :])
    n = len(there)
    assert spread(opinions) == pytest.approx(apart.sum() / (n * (n - 1)) if n > 1 else 0.0)


@given(st.lists(SHARES, max_size=7), st.floats(-1, 1), st.booleans())
def test_all_are_from_0_to_1_and_nothing_is_never_drawn(opinions: list[float], gain: float, large: bool) -> None:
    for one in (spread(opinions), against_choice(opinions), regret(gain, large=large)):
        assert 0 <= one <= 1
        assert LEAST <= weight(one) <= 1


@pytest.mark.parametrize(
    ("opinions", "far"), [([1, 1], 0.0), ([0.5, 0.5], 0.0), ([1, 0], 0.0), ([0, 0], 1.0), ([0.5, 0, 0, 0.5], 0.5)]
)
def test_opinions_are_against_a_choice_as_far_as_their_mean_is_for_the_other(opinions: list[float], far: float) -> None:
    assert against_choice([*opinions, math.nan]) == pytest.approx(far)


def test_a_choice_is_regretted_by_what_the_other_model_would_have_given() -> None:
    assert regret(0.7, large=False) == 0.7
    assert regret(0.7, large=True) == 0.0
    assert regret(-0.2, large=True) == 0.2
    assert regret(0.0, large=True) == 0.0, "what it cost is no matter of quality"


# Out of the ledger: what came of the router's choice.


def thumb(engine: Engine, request: str, *said: str, correction: str | None = None) -> None:
    """What callers said one after the other of an answer, each as `caller thumb`."""
    with engine.begin() as connection:
        for at, one in enumerate(said):
            caller, thumbs = one.split()
            up: Literal["up", "down"] = "up" if thumbs == "up" else "down"
            given = Feedback(request, float(at), caller=caller, thumbs=up, correction=correction)
            row = ledger_tables.feedback_row(f"{request} {at}", given)
            connection.execute(insert(ledger_tables.feedback()).values(**row))


def test_a_request_counts_against_the_router_where_the_cascade_went_on_or_callers_were_not_content(
    engine: Engine,
) -> None:
    below, above = "learned: gap 0.100, below 0.200", "learned: gap 0.900, from 0.200"
    cascade = "cascade: the small model first"
    weights = {
        keep(engine, "went on", "a", reason=cascade, escalated=True): 1.0,
        keep(engine, "stood", "a", reason=cascade): LEAST,
        keep(engine, "nobody said anything", "a", reason=below): LEAST,
        (down := keep(engine, "down", "a", reason=below)): 1.0,
        (half := keep(engine, "half", "a", reason="routine: about 4 tokens, no marks")): 0.5,
        (mended := keep(engine, "changed their mind", "a", reason=below)): LEAST,
        (corrected := keep(engine, "corrected", "a", reason=below)): 1.0,
        (large := keep(engine, "the large one was bad too", "a", reason=above)): LEAST,
    }
    thumb(engine, down, "k1 down")
    thumb(engine, half, "k1 down", "k2 up")
    thumb(engine, mended, "k1 down", "k1 up")
    thumb(engine, corrected, "k1 up", correction="b")
    thumb(engine, large, "k1 down")
    expected = dict(zip(weights, inclusion(list(weights.values()), 3), strict=True))
    drawn: dict[str, float] = {}
    for seed in range(20):
        items, _ = ledger_items(engine, ledger(by="router", sample=3), "rating", random.Random(seed))
        drawn |= {str(item.source["request"]): item.probability / 0.1 for item in items}
        assert {item.source["policy"] for item in items} == {"router"}
    assert set(drawn) > {down, corrected, half}
    assert drawn == pytest.approx({one: expected[one] for one in drawn})


@pytest.mark.parametrize(
    ("by", "kind", "says"),
    [
        ("router", "rating", "none of 1 requests that were kept tells whether its router chose well"),
        ("uncertainty", "rating", "none of 1 requests that were kept was routed by a learned router"),
        ("disagreement", "rating", "two answers are needed to disagree"),
    ],
)
def test_a_ledger_that_tells_nothing_of_it_is_refused_with_what_would(
    engine: Engine, by: str, kind: Any, says: str
) -> None:
    keep(engine, "q", "a", reason="direct: the route has one engine")
    with pytest.raises(InputError, match=says) as refused:
        ledger_items(engine, ledger(by=by), kind, DRAW)
    assert refused.value.fix


# Out of the ledger: judges that are asked as the campaign is made.


def campaign_file(tmp_path: Path, served: Sequence[Served], scale: str = "pairwise", **by: Any) -> Path:
    kinds = {"pairwise": "{kind: pairwise}", "likert": "{kind: likert, labels: [bad, poor, so-so, good, best]}"}
    (tmp_path / "r.yaml").write_text(f"name: r\nversion: 1\nquestion: Which?\nscale: {kinds[scale]}\n")
    texts = "FIRST {first}\nSECOND {second}" if scale == "pairwise" else "ANSWER {answer}"
    (tmp_path / "p.md").write_text(f"PROMPT {{prompt}}\n{texts}\n{{verdict}}")
    judges = [{"prompt": str(tmp_path / "p.md"), "endpoint": one.url, "model": "m"} for one in served]
    more, kind = by.pop("items", {}), by.pop("kind", "pairwise")
    items = {"from": "ledger", "by": {"judges": judges, **by}, **more}
    file = tmp_path / "c.yaml"
    file.write_text(json.dumps({"name": "c", "kind": kind, "rubric": str(tmp_path / "r.yaml"), "items": items}))
    return file


def made_of(file: Path, engine: Engine, seed: int = 1) -> dict[str, tuple[float, str]]:
    """Probability (the capture aside) and policy of each item that is drawn, by its prompt."""
    campaign = load(file, Campaign, what="campaign")
    made = items_of(campaign, load_rubric(Path(campaign.rubric)), engine, random.Random(seed))
    return {
        item.prompt[0]["content"]: (item.probability / 0.1, str(item.source["policy"])) for item in made.items
    }  # fmt: skip


def takes_the_first(number: int, body: dict[str, Any]) -> Reply:
    """A judge that is torn: whatever is shown first is better, but that `good` always wins."""
    text = body["messages"][0]["content"]
    first, second = (next(one for one in text.splitlines() if one.startswith(side)) for side in ("FIRST", "SECOND"))
    return chat(f"VERDICT: {'B' if 'good' in second and 'good' not in first else 'A'}")


def test_a_pair_whose_order_changes_the_verdict_is_drawn_more_often(engine: Engine, tmp_path: Path) -> None:
    for n in range(4):
        keep(engine, f"torn {n}", f"one {n}", f"two {n}")
        keep(engine, f"clear {n}", f"good {n}", f"two {n}")
    with serving(takes_the_first) as served:
        file = campaign_file(tmp_path, [served], items={"sample": 3})
        found = made_of(file, engine)
    # Both orders: torn says 1 and 0, a distance of 1; clear says 1 twice, and weighs the least.
    torn, clear = inclusion([1.0] * 4 + [LEAST] * 4, 3)[0], inclusion([1.0] * 4 + [LEAST] * 4, 3)[-1]
    assert len(found) == 3
    for prompt, (chance, policy) in found.items():
        assert chance == pytest.approx(torn if prompt.startswith("torn") else clear)
        assert policy == "judges against one another"


def test_judges_against_the_router_draw_what_they_would_not_have_chosen(engine: Engine, tmp_path: Path) -> None:
    keep(engine, "chosen well", "good", "two")
    keep(engine, "chosen badly", "one", "good")
    keep(engine, "torn", "one", "two")
    with serving(takes_the_first) as served:
        file = campaign_file(tmp_path, [served, served], against="router", items={"sample": 1})
        found = [made_of(file, engine, seed) for seed in range(4)]
    expected = dict(zip(("chosen well", "chosen badly", "torn"), inclusion([LEAST, 1.0, LEAST], 1), strict=True))
    for one in found:
        ((prompt, (chance, policy)),) = one.items()
        assert chance == pytest.approx(expected[prompt])
        assert policy == "judges against router"


def test_an_answer_alone_is_drawn_by_how_far_the_ratings_of_two_judges_are_apart(
    engine: Engine, tmp_path: Path
) -> None:
    keep(engine, "one", "short")
    keep(engine, "two", "a long answer")

    def short_is_good(number: int, body: dict[str, Any]) -> Reply:
        return chat("VERDICT: 1" if "long" in body["messages"][0]["content"] else "VERDICT: 4")

    with serving(lambda number, body: chat("VERDICT: 5")) as kind, serving(short_is_good) as strict:
        file = campaign_file(tmp_path, [kind, strict], scale="likert", kind="rating", items={"sample": 1})
        found = made_of(file, engine) | made_of(file, engine, 2) | made_of(file, engine, 3)
        # (5 − 1) / 4 against (4 − 1) / 4, and against 0.
        expected = dict(zip(("one", "two"), inclusion([0.25, 1.0], 1), strict=True))
        assert {prompt: chance for prompt, (chance, _) in found.items()} == pytest.approx(
            {prompt: expected[prompt] for prompt in found}
        )
        alone = campaign_file(tmp_path, [kind], scale="likert", kind="rating")
        with pytest.raises(InputError, match="nobody to disagree with"):
            made_of(alone, engine)


def test_sampled_twice_the_stored_chance_still_makes_sums_unbiased() -> None:
    """Of 12 requests judges are asked about 6, and 2 are drawn: Σ y / π is right on average."""
    worth = {f"q{n}": float(n) for n in range(12)}
    items = [
        item_of(({"role": "user", "content": prompt},), (Response("a"), Response("b")), {}, probability=0.1)
        for prompt in worth
    ]

    def value(item: NewItem) -> float:
        return worth[item.prompt[0]["content"]]

    sums = []
    for seed in range(3000):
        draw = random.Random(seed)
        asked = drawn_by([1.0] * 12, items, 6, draw)
        chosen = drawn_by([value(item) / 12 for item in asked], asked, 2, draw)
        assert (len(asked), len(chosen)) == (6, 2)
        sums.append(sum(value(item) / (item.probability / 0.1) for item in chosen))
    error = float(np.std(sums)) / math.sqrt(len(sums))
    assert np.mean(sums) == pytest.approx(sum(worth.values()), abs=4 * error)


def test_judges_are_asked_about_no_more_than_is_said_and_the_chance_says_so(engine: Engine) -> None:
    for n in range(12):
        keep(engine, f"q{n}", "a", f"b {n}")
    wanted = ledger(by={"judges": [{"prompt": "p", "endpoint": "http://x", "model": "m"}], "asked": 6}, sample=2)
    items, _ = ledger_items(engine, wanted, "pairwise", DRAW, ask=lambda _, asked: [1.0] * len(asked))
    assert [item.probability for item in items] == pytest.approx([0.1 * 6 / 12 * 2 / 6] * 2)


# Out of reports.


def report(*metrics: Metric, judges: Mapping[str, Mapping[str, Any]] | None = None, **others: Any) -> Measured:
    return replace(measured(metrics, **others), judges=judges or {})


def record(rubric: str = "r", **orders: Sequence[str | None]) -> dict[str, Any]:
    return {"rubric": {"digest": rubric}, **({"orders": orders} if orders else {})}


IDS = ["x", "y", "z"]


def test_verdicts_of_one_rubric_are_compared_whoever_gave_them() -> None:
    first = share_of("exact_match", "v1", [1, 0, 1])
    orders = report(
        mean_of("judge", "j", [1.0, 0.5, 0.5]), first,
        judges={"judge": record(x=["A", "A"], y=["A", "B"], z=["TIE", None])}, ids=IDS,
    )  # fmt: skip
    assert reported("judges", [orders], IDS) == [0.0, 1.0, 0.0]
    two = report(
        mean_of("kind", "j", [1.0, 1.0, 0.75]), mean_of("strict", "k", [1.0, 0.0, math.nan]),
        mean_of("other", "l", [0.0, 1.0, 0.0]),
        judges={"kind": record(), "strict": record(), "other": record("another question")}, ids=IDS, model="n",
    )  # fmt: skip
    assert reported("judges", [two], IDS) == [0.0, 1.0, 0.0]
    assert reported("judges", [orders, two], ["y", "x"]) == [1.0, 0.0]


def test_without_a_second_verdict_on_any_answer_they_cannot_differ() -> None:
    alone = report(mean_of("judge", "j", [1.0, 0.5, 0.5]), judges={"judge": record()}, ids=IDS)
    with pytest.raises(InputError, match="no answer in the reports was judged twice"):
        reported("judges", [alone, alone], IDS)


def test_a_judge_is_compared_with_a_metric_on_one_scale() -> None:
    judge = mean_of("judge", "j", [1.0, 0.0, math.nan])
    chrf = mean_of("chrf", "v1", [25.0, 10.0, 90.0], span=100.0)
    errors = mean_of("wrong", "v1", [1.0, 1.0, 0.0], span=1.0, better="lower")
    one = report(judge, chrf, errors, judges={"judge": record()}, ids=IDS)
    assert reported(AgainstMetric(judges_against="chrf"), [one], IDS) == pytest.approx([0.75, 0.10, 0.0])
    assert reported(AgainstMetric(judges_against="wrong"), [one], IDS) == pytest.approx([1.0, 0.0, 0.0])
    unbounded = replace(one, metrics=(*one.metrics, mean_of("nats", "v1", [1.0, 2.0, 3.0])))
    for metric, says in (("chr", "no metric 'chr'; did you mean"), ("judge", "is a judge itself")):
        with pytest.raises(InputError, match=says):
            reported(AgainstMetric(judges_against=metric), [one], IDS)
    with pytest.raises(InputError, match="no value from 0 to 1"):
        reported(AgainstMetric(judges_against="nats"), [unbounded], IDS)
    with pytest.raises(InputError, match="has no judge's verdicts"):
        reported(AgainstMetric(judges_against="chrf"), [replace(one, judges={})], IDS)


@pytest.fixture
def router(tmp_path: Path) -> Path:
    """It gives `integral` to the large model, and all else to the small one."""
    known = {"value": 0.5, "low": 0.4, "high": 0.6}
    learned = Router.model_validate({
        "format": 1,
        "data": {"source": "s", "digest": "d", "rows": 9, "left_out": 0, "small": "little", "large": "big",
                 "small_quality": 0.4, "large_quality": 0.6},
        "learning": {"seed": 0, "folds": 2, "candidates": ["words"], "chosen": "words", "versions": {}},
        "aim": {"kind": "quality", "value": 0.9, "confidence": 0.5, "small_cost": 0.1},
        "expected": {**dict.fromkeys(("quality", "large_share", "saving", "false_cheap"), known), "confidence": 0.95},
        "beats_length": known,
        "threshold": 0.3,
        "known_share": 0.0,
        "tokens": 100,
        "model": {"pairs": False, "terms": {"integral": (1.0, -5.0, 5.0)}, "measures": [], "small": 0.0, "large": 0.0},
    })  # fmt: skip
    file = tmp_path / "router.json"
    write_router(file, learned)
    return file


def written(report: Measured, file: Path) -> Path:
    content = content_of(report, scores=[], slices={})
    write_json(file, {**content, "digest": digest_of(content)})
    return file


def test_a_router_is_compared_with_which_model_answered_better(router: Path, tmp_path: Path, engine: Engine) -> None:
    prompts = ["is red a colour?", "what is an integral?"]
    sizes = [
        choose(features_of({"messages": [{"role": "user", "content": one}]}), Rules(0, read_router(router))).size
        for one in prompts
    ]
    assert sizes == ["small", "large"]
    # Right and wrong in all four ways on a prompt of each kind: the small model's, then the large one's.
    grades = [(0, 0), (0, 1), (1, 0), (1, 1)] * 2
    grades += [(0, 1)]  # so that the large one is the better on the whole
    texts = [f"{prompts[place // 4 % 2]}" for place in range(9)]

    def of(model: str, side: int) -> Measured:
        found = report(share_of("exact_match", "v1", [float(one[side]) for one in grades]), model=model)
        items = [
            replace(item, messages=({"role": "user", "content": texts[place]},), answer=f"{model} {place}")
            for place, item in enumerate(found.items)
        ]
        return replace(found, items=tuple(items))

    small, large = of("little", 0), of("big", 1)
    ids = [item.id for item in small.items]
    wanted = ByRouter(router=str(router), metric="exact_match")
    # Regretted: small was chosen and the large one alone was right; large was chosen and the small one alone was.
    expected = [0, 1, 0, 0, 0, 0, 1, 0, 1]
    for order in ([small, large], [large, small]):
        assert reported(wanted, order, ids) == expected
    with pytest.raises(InputError, match="chooses between two models, 1 reports"):
        reported(wanted, [small], ids)
    files = [written(small, tmp_path / "s.json"), written(large, tmp_path / "l.json")]
    items = {"from": "reports", "reports": list(map(str, files)), "sample": 4, "by": wanted.model_dump()}
    campaign = Campaign.model_validate({"name": "c", "kind": "pairwise", "rubric": "r.yaml", "items": items})
    rubric = Rubric(name="r", version=1, question="?", scale={"kind": "pairwise"})
    drawn = items_of(campaign, rubric, engine, DRAW)
    chances = dict(zip(ids, inclusion([weight(one) for one in expected], 4), strict=True))
    assert len(drawn.items) == 4
    assert all(item.probability == pytest.approx(chances[str(item.source["item"])]) for item in drawn.items)
    assert {item.source["policy"] for item in drawn.items} == {"router by exact_match"}


@pytest.mark.parametrize(
    ("items", "says"),
    [
        ({"from": "ledger", "by": "judges"}, "'uniform', 'uncertainty', 'disagreement' or 'router'"),
        ({"from": "reports", "reports": ["a"], "by": {"metric": "bleu"}}, "must be uniform, judges, {judges_against"),
        ({"from": "reports", "reports": ["a"], "by": {"router": "r.json"}}, "metric: missing"),
    ],
)
def test_another_way_of_drawing_is_refused_with_those_there_are(
    tmp_path: Path, items: dict[str, Any], says: str
) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(json.dumps({"name": "c", "kind": "pairwise", "rubric": "r.yaml", "items": items}))
    with pytest.raises(FileFaults) as refused:
        load(file, Campaign, what="campaign")
    assert says in str(refused.value)
