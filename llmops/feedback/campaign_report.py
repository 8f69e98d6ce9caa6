"""What a campaign has shown so far: how far raters agree, what each of them is like, which model is better."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import combinations
from typing import TYPE_CHECKING, Any

from llmops.agreement import cohen_kappa
from llmops.feedback.campaign import Campaign
from llmops.feedback.events import events
from llmops.feedback.items import Item, Rated, Rating
from llmops.feedback.labels import first_preferred, labels_of, longer_preferred, side_of, spoken
from llmops.feedback.opinions import comparisons
from llmops.feedback.pace import Pace, pace_of
from llmops.feedback.ratings import rated
from llmops.feedback.settled import counted
from llmops.feedback.sides import by_place
from llmops.feedback.store import campaign_named, campaigns, rubrics
from llmops.paired_ranking import Ranking, ranking
from llmops.rater_report import RaterReport, rater_reports
from llmops.reliability import Reliability, reliability
from llmops.rubric import Rubric, has_steps
from llmops.stats import Proportion
from llmops.votes import votes_of

if TYPE_CHECKING:
    from sqlalchemy import Engine

_ENOUGH = 20
"""Items two raters must have in common for a kappa of the two."""
DISAGREEMENTS = 50
"""Items that raters disagree on, listed at most."""
_MOST_RATERS = 12
"""Raters whose pairs are shown; of more, those with the most ratings."""


@dataclass(frozen=True, slots=True)
class PairOfRaters:
    """Cohen's kappa of two raters on what both rated."""

    one: str
    other: str
    items: int
    kappa: float


@dataclass(frozen=True, slots=True)
class CampaignReport:
    """A campaign so far.

    Attributes:
        ratings: newest ratings, gold, practice and repeats left out; `skipped`, `flagged`, `surplus` beside them.
        at: when, in seconds since 1970.
        complete: items with as many ratings as they need.
        left: ratings still to come; those of flagged items and late ones are no part of `ratings`, so that this is not
            what `ratings` lacks of `wanted`.
        pace: how quickly ratings come, and when they will all be there; None where there is too little to tell.
        agreement: by question: `preference` for comparisons; `score` or the attributes' names for ratings; None in it
            where no item has two ratings.
        steps: the same with the strength of preferences as a scale (interval alpha); None where there are none.
        longer: share of preferences for the longer of two answers.
        not_text: responses that are no text.
        method: how a consensus would be found now.
    """

    campaign: str
    kind: str
    at: float
    items: int
    complete: int
    wanted: int
    left: int
    pace: Pace | None
    ratings: int
    skipped: int
    flagged: int
    surplus: int
    agreement: dict[str, Reliability | None]
    pairs: tuple[PairOfRaters, ...]
    raters: tuple[RaterReport, ...]
    ranking: Ranking | None
    longer: Proportion | None
    verdicts: dict[str, int]
    not_text: int
    disagreements: tuple[tuple[str, float], ...] = field(default=())
    """Items whose raters disagree, the worst first, with the share of pairs of raters who do."""


def report_of(
    campaign: Campaign,
    rubric: Rubric,
    found: Iterable[Rated],
    *,
    items: int,
    wanted: int,
    left: int | None = None,
    reopened: Mapping[str, int] | None = None,
    now: float | None = None,
    disagreements: int = DISAGREEMENTS,
) -> CampaignReport:
    """The report; everything is computed from the ratings, read once.

    Args:
        found: items that were rated; those that were not say nothing.
        items, wanted: normal items of the campaign, and the ratings it needs in all.
        left: ratings still to come; None: what the counted ones lack of `wanted`.
        reopened: ratings an item needs more than its overlap.
        now: seconds since 1970; None takes the clock.
        disagreements: items listed at most.
    """
    seen = _Seen(campaign, rubric, reopened or {})
    for one in found:
        seen.add(one)
    return seen.report(
        items=items,
        wanted=wanted,
        left=max(wanted - seen.ratings, 0) if left is None else left,
        now=time.time() if now is None else now,
        disagreements=disagreements,
    )


def report_on(
    engine: Engine, campaign: str, *, now: float | None = None, disagreements: int = DISAGREEMENTS
) -> CampaignReport:
    """The report of a campaign in the database, read whole.

    Raises:
        NotThere: there is no such campaign.
    """
    settings = campaign_named(engine, campaign)
    state = next(one for one in campaigns(engine) if one.campaign.name == campaign)
    reopened: Counter[str] = Counter()
    for event in events(engine, campaign=campaign, kind="reopened"):
        reopened[event.subject] += event.detail["more"]
    return report_of(
        settings,
        rubrics(engine, campaign)[-1],
        rated(engine, campaign),
        items=state.items - state.gold,
        wanted=state.wanted,
        left=max(state.wanted - state.done, 0),
        reopened=reopened,
        now=now,
        disagreements=disagreements,
    )


class _Seen:
    """Ratings as columns, per question."""

    def __init__(self, campaign: Campaign, rubric: Rubric, reopened: Mapping[str, int]) -> None:
        self.campaign, self.rubric, self.reopened = campaign, rubric, reopened
        self.arrived: list[float] = []
        self.complete = self.skipped = self.flagged = self.surplus = self.ratings = 0
        self.not_text = 0
        self.columns: dict[str, _Column] = {}
        self.verdicts: Counter[str] = Counter()
        self.lengths = [0, 0]  # preferences for the longer, of those between unequal lengths
        self.first: list[str] = []
        self.second: list[str] = []
        self.outcome: list[int] = []
        self.clusters: list[str] = []
        self.cluster_of: dict[Hashable, Hashable] = {}
        self.per_rater = _Column(())

    def add(self, rated: Rated) -> None:
        item = rated.item
        self.not_text += sum(bool(one.detail.get("not_text")) for one in item.responses)
        self._checks(rated)
        if item.kind == "gold":
            return
        good, _ = counted(item.id, rated.ratings)
        self.complete += len(good) >= item.overlap + self.reopened.get(item.id, 0)
        self.ratings += len(good)
        self.arrived += (one.first_at for one in good)
        self.skipped += sum(one.said == "skip" for one in rated.ratings)
        self.flagged += sum(bool(one.content.get("flag")) for one in rated.ratings)
        self.surplus += sum(one.surplus for one in rated.ratings)
        self.cluster_of[item.id] = item.cluster
        for one in good:
            self._count(item, one)

    def _count(self, item: Item, one: Rating) -> None:
        verdict = by_place(one.content["verdict"], one.shown)
        for name, label, categories in labels_of(verdict, self.rubric):
            column = self.columns.setdefault(name, _Column(categories))
            # Of several answers each is a thing of its own, named by its place.
            column.add(item.id, one.rater, label)
        self.verdicts[spoken(verdict)] += 1
        for first, second, better, _ in comparisons(verdict, self.rubric):
            lengths = [len(item.responses[place].text) for place in (first, second)]
            if better in ("first", "second") and lengths[0] != lengths[1]:
                longer = "first" if lengths[0] > lengths[1] else "second"
                self.lengths[0] += better == longer
                self.lengths[1] += 1
            models = [item.responses[place].model for place in (first, second)]
            if None in models or models[0] == models[1]:
                continue
            turned = one.shown.index(first) > one.shown.index(second)
            shown = models[::-1] if turned else models
            sign = {"first": 1, "second": -1}.get(better, 0)
            self.first.append(str(shown[0]))
            self.second.append(str(shown[1]))
            self.outcome.append(-sign if turned else sign)
            self.clusters.append(item.cluster)

    def _checks(self, rated: Rated) -> None:
        """What raters are judged by, gold and repeats included; practice is not held against anybody."""
        before: dict[str, str] = {}
        gold = None if rated.item.expected is None else side_of(rated.item.expected, self.rubric)
        for one in sorted(rated.ratings, key=lambda rating: rating.round):
            if one.said == "skip" or one.kind == "training":
                continue
            verdict = by_place(one.content["verdict"], one.shown)
            label = side_of(verdict, self.rubric)
            if one.round > 0 and one.rater not in before:
                continue
            self.per_rater.add(
                f"{rated.item.id} {one.round}",
                one.rater,
                label,
                seconds=one.content.get("active_ms", 0) / 1000 or None,
                first=first_preferred(verdict, one.shown),
                longer=longer_preferred(verdict, rated.item),
                gold=gold,
                before=before.get(one.rater),
            )
            before[one.rater] = label

    def report(self, *, items: int, wanted: int, left: int, now: float, disagreements: int) -> CampaignReport:
        agreement: dict[str, Reliability | None] = {}
        for name, column in self.columns.items():
            level: Any = "ordinal" if self.campaign.kind == "rating" and has_steps(self.rubric.scale) else "nominal"
            votes = votes_of(column.items, column.raters, column.labels, categories=column.categories)
            agreement[name] = reliability(votes, level=level, clusters=self.cluster_of)
        main = next(iter(self.columns.values()), None)
        return CampaignReport(
            campaign=self.campaign.name,
            kind=self.campaign.kind,
            at=now,
            items=items,
            complete=self.complete,
            wanted=wanted,
            left=left,
            pace=pace_of(self.arrived, left=left, now=now),
            ratings=self.ratings,
            skipped=self.skipped,
            flagged=self.flagged,
            surplus=self.surplus,
            agreement=agreement,
            pairs=() if main is None else _pairs(main),
            raters=self._raters(),
            ranking=self._ranking(),
            longer=Proportion(self.lengths[0], self.lengths[1]) if self.lengths[1] else None,
            verdicts=dict(self.verdicts.most_common()),
            not_text=self.not_text,
            disagreements=() if main is None else _worst(main, disagreements),
        )

    def _raters(self) -> tuple[RaterReport, ...]:
        made = self.per_rater
        if not made.items:
            return ()
        votes = votes_of(made.items, made.raters, made.labels, categories=sorted(set(made.labels)))
        found = rater_reports(
            votes,
            seconds=made.seconds,
            first_preferred=made.first,
            longer_preferred=made.longer,
            gold=made.gold,
            before=made.before,
        )
        return tuple(sorted(found, key=lambda one: (-one.ratings, str(one.rater))))

    def _ranking(self) -> Ranking | None:
        if not self.outcome:
            return None
        return ranking(self.first, self.second, self.outcome, clusters=self.clusters)


class _Column:
    """Ratings of one question; the further lists are filled where raters are judged."""

    def __init__(self, categories: tuple[Hashable, ...]) -> None:
        self.categories = categories
        self.items: list[str] = []
        self.raters: list[str] = []
        self.labels: list[Any] = []
        self.seconds: list[float | None] = []
        self.first: list[bool | None] = []
        self.longer: list[bool | None] = []
        self.gold: list[str | None] = []
        self.before: list[str | None] = []

    def add(self, item: str, rater: str, label: Hashable, **further: Any) -> None:
        self.items.append(item)
        self.raters.append(rater)
        self.labels.append(label)
        for name, value in further.items():
            getattr(self, name).append(value)


def _pairs(column: _Column) -> tuple[PairOfRaters, ...]:
    """Kappa of those who share enough items, of the busiest raters."""
    by_rater: dict[str, dict[str, Hashable]] = {}
    for item, rater, label in zip(column.items, column.raters, column.labels, strict=True):
        by_rater.setdefault(rater, {})[item] = label
    busy = sorted(by_rater, key=lambda rater: (-len(by_rater[rater]), rater))[:_MOST_RATERS]
    found = []
    for one, other in combinations(sorted(busy), 2):
        shared = [item for item in by_rater[one] if item in by_rater[other]]
        if len(shared) >= _ENOUGH:
            kappa = cohen_kappa(
                [by_rater[one][item] for item in shared],
                [by_rater[other][item] for item in shared],
                categories=column.categories,
            )
            found.append(PairOfRaters(one, other, len(shared), kappa))
    return tuple(found)


def _worst(column: _Column, most: int) -> tuple[tuple[str, float], ...]:
    """Items by the share of pairs of raters who disagree."""
    said: dict[str, Counter[Hashable]] = {}
    for item, label in zip(column.items, column.labels, strict=True):
        said.setdefault(item, Counter())[label] += 1
    shares = {}
    for item, counts in said.items():
        n = counts.total()
        if n > 1:
            shares[item] = 1 - sum(count * (count - 1) for count in counts.values()) / (n * (n - 1))
    worst = sorted((item for item in shares if shares[item] > 0), key=lambda item: (-shares[item], item))
    return tuple((item, shares[item]) for item in worst[:most])
