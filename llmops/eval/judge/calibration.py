"""How far a judge agrees with people, measured once on things that people rated, and sealed by a digest."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np

from llmops.agreement import Agreement, Weights, agreement
from llmops.errors import InputError
from llmops.eval.judge.asking import Judge, counts_of_opinions, counts_of_preferences
from llmops.eval.judge.ratings import Given, Rated, Ratings
from llmops.eval.judge.reply import Judgement
from llmops.events import Listener
from llmops.files import digest_of
from llmops.rubric import Attributes, Likert, Pairwise, has_steps, value_of
from llmops.stats import Estimate, Resampled, Values, resampled

FORMAT = 1
CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Calibration:
    """Agreement of one judge with people. Numbers with an interval are `value`, `low`, `high`; None is not known.

    Attributes:
        judge: its `identity`: model, prompt, rubric, decoding.
        ratings: `digest`, `things` that were rated, `prompts` and single `ratings`.
        weights: of kappa; `quadratic` where the scale has steps.
        share, kappa: of single human ratings that the judge says too, and beyond chance.
        people: the kappa of people with each other on the same things, where some were rated twice.
        counts: parts and wholes: `unparsed_share`, and of pairs `inconsistent_share` (the order changed the verdict)
            and `first_share` (of single choices, what was shown first; a half where the place does not matter).
        length: pairs: how much more often than people the judge prefers the longer text, of the decided. Ratings:
            correlation of its error with the logarithm of the words. 0 is no bias.
    """

    judge: Mapping[str, Any]
    judge_digest: str
    ratings: Mapping[str, Any]
    weights: Weights
    share: Mapping[str, float | None]
    kappa: Mapping[str, float | None]
    people: Mapping[str, float | None] | None
    counts: Mapping[str, Sequence[int]]
    length: Mapping[str, float | None]
    confidence: float
    code_version: str
    digest: str
    format: int = FORMAT

    def plain(self) -> dict[str, Any]:
        """As its file holds it."""
        return json.loads(json.dumps(asdict(self)))

    def difference(self, judge: Mapping[str, Any]) -> str:
        """In what another judge differs, in words."""
        names = sorted({*self.judge, *judge})
        other = [name for name in names if self.judge.get(name) != judge.get(name)]
        told = [f"{name} {_short(self.judge.get(name))}, here {_short(judge.get(name))}" for name in other]
        return "; ".join(told)

    @property
    def sentence(self) -> str:
        """The agreement in one line."""
        interval = f"{_shown(self.kappa['low'])} to {_shown(self.kappa['high'])}"
        return f"kappa {_shown(self.kappa['value'])} ({interval}) with {self.ratings['ratings']:,} human ratings"


def calibrate(judge: Judge, ratings: Ratings, *, unparsed_at_most: float = 0.05, listener: Listener) -> Calibration:
    """Ask the judge about everything that people rated, and say how far it agrees with them.

    Each human rating counts as one comparison with the judge: the agreement is with a person, not with the majority of
    several. Things of one prompt are resampled together.

    Args:
        unparsed_at_most: share of things that may be without a verdict; they count for nothing but in that share.

    Raises:
        InputError: the judge gives fewer verdicts, or its prompt shows a reference that the ratings lack.
        EnvironmentFault: it does not answer.
    """
    asked = [({"role": "user", "content": one.prompt},) for one in ratings.rated]
    scale = judge.prompt.rubric.scale
    verdicts: Sequence[Judgement | None]
    if isinstance(scale, Pairwise):
        pairs = judge.prefer(
            asked, [one.texts[0] for one in ratings.rated], [one.texts[1] for one in ratings.rated], listener=listener
        )
        verdicts, counts = [one.choice for one in pairs], counts_of_preferences(pairs)
    else:
        if judge.prompt.wants_reference and not all(one.reference for one in ratings.rated):
            raise InputError(
                "the judge's prompt shows a reference, and rated answers have none",
                fix="say where it stands with --reference '{column}', or calibrate a prompt without {reference}",
            )
        references = [one.reference for one in ratings.rated]
        opinions = judge.rate(asked, [one.texts[0] for one in ratings.rated], references, listener=listener)
        verdicts, counts = [one.verdict for one in opinions], counts_of_opinions(opinions)
    judge.check_parsed(counts, at_most=unparsed_at_most, listener=listener)
    clusters = ratings.clusters
    known = [
        (rated, verdict, cluster)
        for rated, verdict, cluster in zip(ratings.rated, verdicts, clusters, strict=True)
        if verdict is not None
    ]
    weights: Weights = "quadratic" if has_steps(scale) else "none"
    units = [
        (one, other, cluster)
        for rated, verdict, cluster in known
        for given in rated.ratings
        for one, other in _units(verdict, given)
    ]
    found = _agreement(units, scale, weights)
    content: dict[str, Any] = {
        "format": FORMAT,
        "judge": judge.identity,
        "judge_digest": judge.digest,
        "ratings": {
            "digest": ratings.digest,
            "things": len(ratings.rated),
            "prompts": len(set(clusters)),
            "ratings": sum(len(one.ratings) for one in ratings.rated),
            "left_out": len(ratings.left_out),
        },
        "weights": weights,
        "share": _numbers(found.share),
        "kappa": _numbers(found.kappa),
        "people": _people(ratings, scale, weights),
        "counts": counts,
        "length": _numbers(
            length_bias([(rated, verdict) for rated, verdict, _ in known], [c for *_, c in known], scale)
        ),
        "confidence": CONFIDENCE,
        "code_version": version("llmops"),
    }
    return Calibration(**content, digest=digest_of(content))


def read(file: Path) -> Calibration:
    """The calibration in a file.

    Raises:
        InputError: there is none, it is none, of another format, or was changed after it was written.
    """
    again = "write it with `llmops judge calibrate`"
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"the calibration {file} cannot be read: {error}", fix=again) from error
    return from_record(record, str(file))


def from_record(record: Any, name: str) -> Calibration:
    """The calibration in a record that `plain` made; raises InputError where it was changed since."""
    again = "write it anew with `llmops judge calibrate`"
    if not isinstance(record, dict) or "judge_digest" not in record or "format" not in record:
        raise InputError(f"{name} is no calibration of a judge", fix=again)
    if record["format"] != FORMAT:
        raise InputError(f"{name} has format {record['format']}, this version reads format {FORMAT}", fix=again)
    if digest_of({key: value for key, value in record.items() if key != "digest"}) != record.get("digest"):
        raise InputError(f"{name} was changed after it was written: its digest does not fit", fix=again)
    return Calibration(**record)


def _units(verdict: Any, given: Given) -> list[tuple[Any, Any]]:
    """What is compared: two choices, two steps, or two answers to each attribute."""
    if isinstance(verdict, Mapping):
        assert isinstance(given, Mapping)
        return [(verdict[name], given[name]) for name in verdict]
    return [(verdict, given)]


def _agreement(
    units: Sequence[tuple[Any, Any, int]], scale: Pairwise | Likert | Attributes, weights: Weights
) -> Agreement:
    categories: Sequence[Any] = ("A", "TIE", "B")
    if isinstance(scale, Likert):
        categories = scale.steps
    elif isinstance(scale, Attributes):
        categories = scale.answers
    first, second, clusters = zip(*units, strict=True)
    return agreement(first, second, categories=categories, weights=weights, clusters=clusters)


def _people(
    ratings: Ratings, scale: Pairwise | Likert | Attributes, weights: Weights
) -> dict[str, float | None] | None:
    """Agreement of people: every two ratings of one thing, both ways round, since no rater comes first."""
    units = [
        (one, other, cluster)
        for rated, cluster in zip(ratings.rated, ratings.clusters, strict=True)
        for pair in permutations(rated.ratings, 2)
        for one, other in _units(*pair)
    ]
    return _numbers(_agreement(units, scale, weights).kappa) if units else None


def length_bias(
    judged: Sequence[tuple[Rated, Any]], clusters: Sequence[int], scale: Pairwise | Likert | Attributes
) -> Estimate:
    """How much more than people a judge likes long texts; see `Calibration.length`."""
    if isinstance(scale, Pairwise):
        rows = [_longer(rated, verdict) for rated, verdict in judged]
        value_of_sums, bounds = _excess, (-1.0, 1.0)
    else:
        rows = [_moments(rated, verdict, scale) for rated, verdict in judged]
        value_of_sums, bounds = _correlation, (-1.0, 1.0)
    statistics = np.array(rows, dtype=np.float64)
    samples = resampled(statistics, value_of_sums, clusters)
    return Resampled(float(value_of_sums(statistics.sum(0))), samples, len(set(clusters)), bounds=bounds)


def _longer(rated: Rated, verdict: str) -> list[float]:
    """Judge took the longer, judge chose; people took the longer, people chose. Texts of one length say nothing."""
    gap = len(rated.texts[0]) - len(rated.texts[1])
    if not gap:
        return [0.0] * 4
    longer = "A" if gap > 0 else "B"
    chosen = [one for one in rated.ratings if one != "TIE"]
    each = 1 / len(chosen) if chosen else 0.0
    return [verdict == longer, verdict != "TIE", sum(one == longer for one in chosen) * each, bool(chosen)]


def _excess(sums: Values) -> Values:
    judge, people = ((sums[..., at], sums[..., at + 1]) for at in (0, 2))
    there = (judge[1] > 0) & (people[1] > 0)
    shares = [longer / np.where(there, chose, 1.0) for longer, chose in (judge, people)]
    return np.where(there, shares[0] - shares[1], np.nan)


def _moments(rated: Rated, verdict: Any, scale: Likert | Attributes) -> list[float]:
    human = [value_of(scale, one) for one in rated.ratings]  # type: ignore[arg-type]
    error = value_of(scale, verdict) - sum(human) / len(human)
    words = math.log(1 + len(rated.texts[0].split()))
    return [1.0, error, words, error * error, words * words, error * words]


def _correlation(sums: Values) -> Values:
    n, x, y, xx, yy, xy = (sums[..., place] for place in range(6))
    below = (n * xx - x * x) * (n * yy - y * y)
    there = below > 1e-12
    return np.where(there, (n * xy - x * y) / np.sqrt(np.where(there, below, 1.0)), np.nan)


def _numbers(estimate: Estimate) -> dict[str, float | None]:
    low, high = estimate.interval(CONFIDENCE)
    return {
        name: float(one) if math.isfinite(one) else None
        for name, one in zip(("value", "low", "high"), (estimate.value, low, high), strict=True)
    }


def _short(value: Any) -> str:
    if isinstance(value, Mapping) and "digest" in value:
        return f"{value.get('name')}@{value.get('version')} {value['digest'][:12]}"
    text = str(value)
    return text[:12] if len(text) == 64 else text


def _shown(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.2f}"
