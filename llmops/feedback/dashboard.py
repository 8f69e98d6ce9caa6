"""A campaign's report as its owner's page shows it: figures, tables and plots, section by section."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from urllib.parse import quote

from llmops.feedback.campaign_report import CampaignReport
from llmops.feedback.export import usual_purpose
from llmops.feedback.items import RaterState
from llmops.markup import Markup, grid, joined, tag
from llmops.paired_ranking import Gap, Ranking
from llmops.plots import Row, counts, intervals
from llmops.rater_report import RaterReport
from llmops.stats import Estimate

_MOST_DRAWN = 12
"""Raters in a plot, those with the most ratings; the table names all."""
_MOST_VERDICTS = 14
_PAIRWISE = {
    "+3": "first much better",
    "+2": "first better",
    "+1": "first slightly better",
    "tie": "alike",
    "-1": "second slightly better",
    "-2": "second better",
    "-3": "second much better",
    "both bad": "both bad",
}
"""Verdicts on a pair in the order of its answers as they are stored, not as they were shown."""


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the page; `name` is its id, `body` its markup."""

    name: str
    heading: str
    body: Markup


def sections(report: CampaignReport, states: Sequence[RaterState], *, csrf: str) -> list[Section]:
    """All parts, in the order in which an owner asks.

    Args:
        states: of each rater who was given anything; asked now, where the report may be some seconds old.
        csrf: for the forms that pause and resume.
    """
    return [
        Section("progress", "Progress", _progress(report)),
        Section("ranking", "Which model is better", _ranking(report.ranking)),
        Section("agreement", "Agreement", _agreement(report)),
        Section("raters", "Raters", _raters(report, states, csrf)),
        Section("length", "Length", _length(report)),
        Section("verdicts", "Verdicts", _verdicts(report)),
        Section("disagreements", "Disagreements", _disagreements(report)),
        Section("export", "Export", _export(report)),
    ]


def address(campaign: str, *more: str) -> str:
    """Where a campaign's page is, or one of its parts."""
    return "/".join(["/campaigns", *(quote(part, safe="") for part in (campaign, *more))])


# ── how numbers are written ────────────────────────────────────────────────────────────────────────────────────────


def day_and_time(at: float) -> str:
    """A time as people read it, in UTC, to the minute."""
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M} UTC"


def share_of(found: Estimate | None) -> str:
    """A share in per cent with its 95 % interval; a dash where nothing could be measured."""
    if found is None or not math.isfinite(found.value):
        return "–"
    low, high = found.interval(0.95)
    return f"{found.value:.0%} ({max(low, 0):.0%} to {min(high, 1):.0%})"


def number_of(found: Estimate | None, *, confidence: float = 0.95) -> str:
    """A number with its interval; a dash where nothing could be measured."""
    if found is None or not math.isfinite(found.value):
        return "–"
    low, high = (_end(end) for end in found.interval(confidence))
    return f"{found.value:z.2f} ({low} to {high})"


def _end(value: float) -> str:
    if math.isfinite(value):
        return f"{value:z.2f}"
    return "−∞" if value < 0 else "∞"


def span_of(seconds: float) -> str:
    """A length of time in its largest unit: `40 minutes`, `3.2 hours`, `6.0 days`."""
    if seconds < 7200:
        return f"{seconds / 60:.0f} minutes"
    return f"{seconds / 3600:.1f} hours" if seconds < 2 * 86_400 else f"{seconds / 86_400:.1f} days"


# ── sections ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _progress(report: CampaignReport) -> Markup:
    done = max(report.wanted - report.left, 0)
    bar = tag("progress", max=max(report.wanted, 1), value=done, aria_label="Ratings that are there")
    figures = {
        "ratings": f"{done:,} of {report.wanted:,}",
        "items complete": f"{report.complete:,} of {report.items:,}",
        "skipped": f"{report.skipped:,}",
        "flagged": f"{report.flagged:,}",
        "came late, kept beside": f"{report.surplus:,}",
    }
    if report.not_text:
        figures["answers that are no text"] = f"{report.not_text:,}"
    return joined(bar, _figures(figures), tag("p", _projection(report), id="projection"))


def _projection(report: CampaignReport) -> str:
    if report.items and not report.left:
        return "All ratings are there."
    pace = report.pace
    if pace is None:
        return "No end can be projected yet: that takes twenty ratings within a week, over ten minutes or more."
    span = span_of(pace.until - pace.since)
    rate = f"{pace.per_hour:,.0f} an hour" if pace.per_hour >= 2 else f"{pace.per_hour * 24:,.1f} a day"
    said = f"{pace.ratings:,} ratings in the last {span}: {rate}."
    if pace.end is None:
        return said
    try:
        day = day_and_time(pace.end)
    except (OverflowError, ValueError, OSError):  # in the year 10000 or later
        return f"{said} At this pace the {pace.left:,} that are missing will not come in a lifetime."
    ahead = span_of(timedelta(seconds=pace.end - pace.until).total_seconds())
    return f"{said} At this pace the {pace.left:,} that are missing are there in {ahead}, on {day}."


def _ranking(found: Ranking | None) -> Markup:
    if found is None:
        return _none("No two models have been compared yet.")
    parts: list[Markup] = [tag("p", _decided(found), class_="answer-line")]
    if len(found.groups) > 1:
        parts.append(
            tag(
                "p",
                f"The models fall into {len(found.groups)} groups that no comparison links; ranks hold within a group.",
                class_="caution",
            )
        )
    if found.held:
        parts.append(
            tag("p", "A model has never lost, or never won; a few made-up results hold its strength.", class_="caution")
        )
    drawn = [
        Row(_short(one.model), one.strength.value, *_ends(one.strength), number_of(one.strength))
        for one in found.standings
    ]
    plots = [intervals(drawn, title="Strength, with 95 % intervals", axis="log-odds; 0 is the mean", zero=True)]
    if found.gaps:
        steps = [_step(gap, found.pair_confidence) for gap in found.gaps]
        plots.append(intervals(steps, title="Ahead of the next one, all at once", axis="log-odds", zero=True))
    parts.append(tag("div", *plots, class_="plots"))
    parts.append(
        grid(
            ["model", "rank", "ranks left open", "strength", "won", "alike", "lost"],
            [
                [
                    str(one.model),
                    str(one.rank),
                    " to ".join(map(str, dict.fromkeys(one.ranks))),
                    number_of(one.strength),
                    f"{one.wins:,}",
                    f"{one.ties:,}",
                    f"{one.losses:,}",
                ]
                for one in found.standings
            ],
            caption=f"Bradley–Terry with ties, {found.ratings:,} ratings of {found.clusters:,} prompts, "
            "intervals by prompt",
        )
    )
    if found.gaps:
        parts.append(
            grid(
                ["model", "against", "ahead by (log-odds)", "decided?"],
                [
                    [
                        str(gap.better),
                        str(gap.worse),
                        number_of(gap.difference, confidence=found.pair_confidence),
                        to_decide(gap),
                    ]
                    for gap in found.gaps
                ],
                caption=f"Neighbours in the ranking; all differences hold at once with {found.confidence:.0%} "
                "confidence",
            )
        )
    return joined(*parts)


def _step(gap: Gap, confidence: float) -> Row:
    low, high = gap.difference.interval(confidence)
    said = number_of(gap.difference, confidence=confidence)
    name = f"{_short(gap.better)} over {_short(gap.worse)}"
    return Row(name, gap.difference.value, low, high, said, "better" if gap.decided else "")


def _short(model: object) -> str:
    """A model's name for a plot, where two of them stand in one line."""
    return str(model).removeprefix("models:/")


def _decided(found: Ranking) -> str:
    if not found.gaps:
        return "There is nothing to decide between yet."
    still = [gap for gap in found.gaps if not gap.decided]
    if not still:
        return "The order is decided."
    known = [gap.more_ratings for gap in still if gap.more_ratings is not None]
    said = f"{len(still)} of {len(found.gaps)} steps of the order are open."
    if len(known) == len(still):
        return f"{said} About {max(known):,} more ratings would decide all of them."
    if known:
        return f"{said} About {max(known):,} more ratings would decide {len(known)} of them."
    return f"{said} No number of ratings is known to decide them."


def to_decide(gap: Gap) -> str:
    """Whether a step of the order is decided, and what would decide it."""
    if gap.decided:
        return "yes"
    if gap.more_ratings is None or gap.more_clusters is None:
        return "open; no number of ratings is known to decide it"
    return f"open; about {gap.more_ratings:,} more ratings, of {gap.more_clusters:,} more prompts"


def _agreement(report: CampaignReport) -> Markup:
    known = {name: one for name, one in report.agreement.items() if one is not None}
    if not known:
        return _none("No item has two ratings yet, so nothing shows how far raters agree.")
    parts = []
    for name, one in known.items():
        rows = [
            Row("say the same (pairs of raters)", one.share.value, *_ends(one.share), number_of(one.share)),
            Row("items with one voice", one.unanimous.value, *_ends(one.unanimous), number_of(one.unanimous)),
            Row("Fleiss' kappa", one.fleiss.value, *_ends(one.fleiss), number_of(one.fleiss)),
            Row("Krippendorff's alpha", one.alpha.value, *_ends(one.alpha), number_of(one.alpha)),
        ]
        finite = [row for row in rows if math.isfinite(row.value)]
        parts.append(intervals(finite, title=f"Agreement on {name}", axis="1 is full agreement"))
    table = grid(
        ["question", "items", "say the same", "one voice", "Fleiss' kappa", "alpha", "alpha's scale"],
        [
            [
                name,
                f"{one.items:,}",
                share_of(one.share),
                share_of(one.unanimous),
                number_of(one.fleiss),
                number_of(one.alpha),
                one.level,
            ]
            for name, one in known.items()
        ],
        caption="Agreement of all raters, with 95 % intervals by prompt",
    )
    found = [tag("div", *parts, class_="plots"), table]
    if report.pairs:
        found.append(
            grid(
                ["rater", "and", "items both rated", "Cohen's kappa"],
                [[one.one, one.other, f"{one.items:,}", f"{one.kappa:.3f}"] for one in report.pairs],
                caption="Agreement of two raters",
            )
        )
    return joined(*found)


def _raters(report: CampaignReport, states: Sequence[RaterState], csrf: str) -> Markup:
    by_name = {str(one.rater): one for one in report.raters}
    standing = {one.rater: one for one in states}
    names = [*by_name, *sorted(standing.keys() - by_name.keys())]
    if not names:
        return _none("Nobody has rated yet.")
    columns: dict[str, Callable[[RaterReport], str]] = {
        "ratings": lambda one: f"{one.ratings:,}",
        "median time": lambda one: "–" if one.seconds is None else f"{one.seconds:.1f} s",
        "as most others": lambda one: share_of(one.agreement),
        "gold right": lambda one: share_of(one.gold),
        "same again": lambda one: share_of(one.consistency),
        "prefers the first shown": _side,
        "prefers the longer": lambda one: share_of(one.longer),
        "others the longer": lambda one: share_of(one.others_longer),
    }
    rows = [
        [
            name,
            _state(standing.get(name)),
            _switch(report.campaign, standing.get(name), csrf),
            *(("–" if name not in by_name else said(by_name[name])) for said in columns.values()),
        ]
        for name in names
    ]
    drawn = [one for one in report.raters if one.ratings][:_MOST_DRAWN]
    plots = [
        _of_raters(drawn, "shown_first", "Prefers the answer shown first", even=0.5),
        _of_raters(drawn, "agreement", "Says what most others say"),
        _of_raters(drawn, "gold", "Gold items answered as expected"),
        _of_raters(drawn, "longer", "Prefers the longer answer", even=0.5),
    ]
    table = grid(["rater", "state", "change", *columns], rows, caption="Each rater, gold and repeated items included")
    return joined(table, tag("div", *plots, class_="plots"))


def _side(one: RaterReport) -> str:
    said = share_of(one.shown_first)
    return f"{said} leans" if one.leans_to_a_side else said


def _state(state: RaterState | None) -> str:
    return "–" if state is None else "paused" if state.paused else "may rate"


def _switch(campaign: str, state: RaterState | None, csrf: str) -> Markup:
    if state is None:
        return Markup("")
    word, does = ("Resume", "resume") if state.paused else ("Pause", "pause")
    return tag(
        "form",
        Markup(tag("input", type="hidden", name_="csrf", value=csrf).removesuffix("</input>")),
        tag("button", word, tag("span", f" {state.rater}", class_="unseen-text"), class_="small"),
        method="post",
        action=address(campaign, "raters", state.rater, does),
    )


def _of_raters(raters: Iterable[RaterReport], name: str, title: str, *, even: float | None = None) -> Markup:
    measured = [(str(one.rater), getattr(one, name)) for one in raters if getattr(one, name) is not None]
    if not measured:
        return Markup("")
    rows = [Row(rater, found.value, *_ends(found), share_of(found)) for rater, found in measured]
    return intervals(rows, title=title, axis="share of ratings", even=even)


def _length(report: CampaignReport) -> Markup:
    if report.longer is None:
        return _none("No preference between answers of different lengths has been stated yet.")
    low, high = report.longer.interval(0.95)
    said = (
        "More often than not the longer answer is preferred."
        if low > 0.5
        else "More often than not the shorter answer is preferred."
        if high < 0.5
        else "No leaning to longer or shorter answers is shown."
    )
    row = Row("the longer was preferred", report.longer.value, low, high, share_of(report.longer))
    return joined(
        tag("p", f"{said} Longer answers may be the better ones; what is trained on such preferences learns both."),
        tag(
            "div",
            intervals([row], title="Preferences for the longer of two answers", axis="share", even=0.5),
            class_="plots",
        ),
    )


def _verdicts(report: CampaignReport) -> Markup:
    if not report.verdicts:
        return _none("Nothing has been said yet.")
    found: Mapping[str, int] = report.verdicts
    if report.kind == "pairwise":
        found = {said: report.verdicts[name] for name, said in _PAIRWISE.items() if name in report.verdicts}
    shown = dict(list(found.items())[:_MOST_VERDICTS])
    rest = sum(found.values()) - sum(shown.values())
    if rest:
        shown["all others"] = rest
    return tag("div", counts(shown, title="What was said", axis="ratings"), class_="plots")


def _disagreements(report: CampaignReport) -> Markup:
    if not report.disagreements:
        return _none("No two raters disagree.")
    worst = report.disagreements[0][1]
    return tag(
        "p",
        f"{_items(len(report.disagreements))} raters differ, at the worst {worst:.0%} of the pairs of them. ",
        tag("a", "Look at them, the worst first", href=address(report.campaign, "disagreements")),
    )


def _items(number: int) -> str:
    return "On one item" if number == 1 else f"On {number:,} items"


def _export(report: CampaignReport) -> Markup:
    command = f"llmops feedback export {report.campaign} --for {usual_purpose(report.kind)}"
    return joined(
        tag("p", "In the service's workspace, this writes the ratings as training data:"),
        tag("pre", tag("code", command), tabindex=0),
    )


# ── pieces ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _ends(found: Estimate) -> tuple[float, float]:
    return found.interval(0.95)


def _none(said: str) -> Markup:
    return tag("p", said, class_="quiet")


def _figures(pairs: Mapping[str, str]) -> Markup:
    return tag("dl", *(tag("div", tag("dt", name), tag("dd", value)) for name, value in pairs.items()), class_="facts")
