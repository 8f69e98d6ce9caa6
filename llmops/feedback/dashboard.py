"""A campaign's report as its owner's page shows it: figures, tables and plots, section by section."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from urllib.parse import quote

from llmops.feedback.campaign_report import CampaignReport
from llmops.feedback.export import usual_purpose
from llmops.feedback.figures import day_and_time, facts, none, number_of, share_of, span_of
from llmops.feedback.items import RaterState
from llmops.feedback.ranking_section import ranking
from llmops.markup import Markup, grid, joined, tag
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
        Section("ranking", "Which model is better", ranking(report.ranking)),
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
    return joined(bar, facts(figures), tag("p", _projection(report), id="projection"))


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


def _agreement(report: CampaignReport) -> Markup:
    known = {name: one for name, one in report.agreement.items() if one is not None}
    if not known:
        return none("No item has two ratings yet, so nothing shows how far raters agree.")
    parts = []
    for name, one in known.items():
        rows = [
            Row("say the same (pairs of raters)", one.share.value, *one.share.interval(0.95), number_of(one.share)),
            Row("items with one voice", one.unanimous.value, *one.unanimous.interval(0.95), number_of(one.unanimous)),
            Row("Fleiss' kappa", one.fleiss.value, *one.fleiss.interval(0.95), number_of(one.fleiss)),
            Row("Krippendorff's alpha", one.alpha.value, *one.alpha.interval(0.95), number_of(one.alpha)),
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
        return none("Nobody has rated yet.")
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
    measured: list[tuple[str, Estimate]] = [
        (str(one.rater), getattr(one, name)) for one in raters if getattr(one, name) is not None
    ]
    if not measured:
        return Markup("")
    rows = [Row(rater, found.value, *found.interval(0.95), share_of(found)) for rater, found in measured]
    return intervals(rows, title=title, axis="share of ratings", even=even)


def _length(report: CampaignReport) -> Markup:
    if report.longer is None:
        return none("No preference between answers of different lengths has been stated yet.")
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
        return none("Nothing has been said yet.")
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
        return none("No two raters disagree.")
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
