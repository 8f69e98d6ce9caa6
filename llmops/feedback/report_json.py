"""A campaign's report as plain JSON values, for `--json` and for other programs."""

from __future__ import annotations

import math
from typing import Any

from llmops.feedback.campaign_report import CampaignReport
from llmops.stats import Estimate


def to_json(report: CampaignReport) -> dict[str, Any]:
    """All of it as plain JSON values; an interval is its two ends."""
    return {
        **{
            name: getattr(report, name)
            for name in (
                "campaign",
                "kind",
                "at",
                "items",
                "complete",
                "wanted",
                "left",
                "ratings",
                "skipped",
                "flagged",
                "surplus",
            )
        },
        "pace": None
        if report.pace is None
        else {
            "ratings": report.pace.ratings,
            "since": report.pace.since,
            "per_hour": report.pace.per_hour,
            "end": report.pace.end,
        },
        "verdicts": report.verdicts,
        "responses_not_text": report.not_text,
        "agreement": {
            name: None
            if one is None
            else {
                "items": one.items,
                "ratings": one.ratings,
                "level": one.level,
                **{kind: estimate_json(getattr(one, kind)) for kind in ("share", "unanimous", "fleiss", "alpha")},
            }
            for name, one in report.agreement.items()
        },
        "pairs": [
            {"raters": [one.one, one.other], "items": one.items, "kappa": finite(one.kappa)} for one in report.pairs
        ],
        "raters": [
            {
                "rater": one.rater,
                "ratings": one.ratings,
                "seconds": one.seconds,
                **{
                    name: estimate_json(getattr(one, name))
                    for name in ("shown_first", "longer", "others_longer", "agreement", "gold", "consistency")
                },
                "leans_to_a_side": one.leans_to_a_side,
            }
            for one in report.raters
        ],
        "longer_preferred": estimate_json(report.longer),
        "disagreements": [{"item": item, "share": share} for item, share in report.disagreements],
        "ranking": None
        if report.ranking is None
        else {
            "models": [
                {
                    "model": one.model,
                    "strength": estimate_json(one.strength),
                    "rank": one.rank,
                    "ranks": list(one.ranks),
                    "wins": one.wins,
                    "ties": one.ties,
                    "losses": one.losses,
                }
                for one in report.ranking.standings
            ],
            "pair_confidence": report.ranking.pair_confidence,
            "held_by_made_up_results": report.ranking.held,
            "gaps": [
                {
                    "better": one.better,
                    "worse": one.worse,
                    "difference": estimate_json(one.difference, report.ranking.pair_confidence),
                    "decided": one.decided,
                    "more_prompts": one.more_clusters,
                    "more_ratings": one.more_ratings,
                }
                for one in report.ranking.gaps
            ],
        },
    }


def estimate_json(found: Estimate | None, confidence: float = 0.95) -> dict[str, float | None] | None:
    """A value with its interval; None where there is none, and in the place of an end that is open."""
    if found is None:
        return None
    low, high = found.interval(confidence)
    return {"value": finite(found.value), "low": finite(low), "high": finite(high)}


def finite(number: float) -> float | None:
    """The number; None for what JSON has no word for."""
    return number if math.isfinite(number) else None
