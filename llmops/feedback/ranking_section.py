"""The part of a campaign's page that says which model is better, and what would decide it."""

from __future__ import annotations

from llmops.feedback.figures import none, number_of
from llmops.markup import Markup, grid, joined, tag
from llmops.paired_ranking import Gap, Ranking
from llmops.plots import Row, intervals


def ranking(found: Ranking | None) -> Markup:
    """How strong each model is, who is ahead of whom, and how many more ratings would decide the rest."""
    if found is None:
        return none("No two models have been compared yet.")
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
        Row(str(one.model), one.strength.value, *one.strength.interval(0.95), number_of(one.strength))
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
    return Row(f"{gap.better} over {gap.worse}", gap.difference.value, low, high, said, "better" if gap.decided else "")


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
