"""From graded answers to a router: what to read is chosen, the threshold picked, and both tried on held-out prompts."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version

import numpy as np
from numpy.typing import NDArray

from llmops.errors import InputError
from llmops.serve.routing.graded import FEWEST, Graded
from llmops.serve.routing.isotonic import isotonic
from llmops.serve.routing.judged import CURVE_RESAMPLES, Judged, judged
from llmops.serve.routing.learn import CANDIDATES, FOLDS, SEED, Candidate, HeldOut, Learned, Prompts, best, folds_of
from llmops.serve.routing.router import FORMAT, Aim, Confidence, Data, Learning, Router
from llmops.serve.routing.threshold import calls_within, pick

Values = NDArray[np.float64]
_RARE = 0.01
"""Share of held-out prompts with so few known words that they would go to the large model for that."""


@dataclass(frozen=True, eq=False)
class Trial:
    """The whole procedure on held-out prompts.

    Attributes:
        held_out: from models for which neither the row nor its grades were seen, their choice included.
        to_large: `(rows,)` by thresholds picked without the row.
        known: `(rows,)` share of each prompt's words that the model knew.
        chosen: the candidate of each fold.
    """

    held_out: HeldOut
    to_large: NDArray[np.bool_]
    known: Values
    chosen: tuple[str, ...]


def trial(
    graded: Graded,
    aim: Aim,
    *,
    candidates: Sequence[Candidate] = CANDIDATES,
    folds: int = FOLDS,
    seed: int = SEED,
    done: Callable[[int, int], None] = lambda step, of: None,
) -> Trial:
    """Nested cross-validation: in each fold the candidate is chosen, the threshold picked and the model learned on the
    other folds alone, by cross-validation within them.

    Args:
        done: told after each fold.
    """
    prompts = Prompts.of(graded.prompts)
    fold = folds_of(graded.clusters, folds, seed)
    chances, known = np.empty((len(graded), 2)), np.empty(len(graded))
    to_large = np.empty(len(graded), dtype=bool)
    chosen = []
    for number in range(folds):
        inside, outside = np.flatnonzero(fold == number), np.flatnonzero(fold != number)
        candidate, within = best(candidates, prompts, graded, outside, folds=folds, seed=seed + 1)
        threshold = _picked(graded, within, outside, aim)
        learned = Learned(candidate, prompts, graded, outside)
        chances[inside] = learned.chances(prompts, inside)
        to_large[inside] = chances[inside, 1] - chances[inside, 0] >= threshold
        model = learned.model()
        known[inside] = [model.known_share(graded.prompts[row]) for row in inside]
        chosen.append(candidate.name)
        done(number + 1, folds)
    return Trial(HeldOut(chances, fold), to_large, known, tuple(chosen))


def judged_trial(graded: Graded, tried: Trial, aim: Aim, *, resamples: int = CURVE_RESAMPLES) -> Judged:
    """What the procedure is worth."""
    held_out = tried.held_out
    return judged(
        graded,
        held_out.chances,
        tried.to_large,
        ranks=held_out.places,
        small_cost=aim.small_cost,
        resamples=resamples,
    )


@dataclass(frozen=True, eq=False)
class Calibrated:
    """A router, and what its procedure was worth on held-out prompts."""

    router: Router
    judged: Judged
    trial: Trial


def calibrate(
    graded: Graded,
    aim: Aim,
    *,
    candidates: Sequence[Candidate] = CANDIDATES,
    folds: int = FOLDS,
    seed: int = SEED,
    resamples: int = CURVE_RESAMPLES,
    done: Callable[[int, int], None] = lambda step, of: None,
) -> Calibrated:
    """Learn a router from all rows, with a threshold for `aim`; what to expect of it is measured on held-out prompts.

    The same rows, seed and versions give the same router.

    Raises:
        InputError: too few different prompts, or a ceiling that the small model alone exceeds.
        EnvironmentFault: scikit-learn is not installed.
    """
    if aim.kind == "cost":
        calls_within(aim)
    distinct = len(set(graded.clusters))
    if distinct < FEWEST:
        raise InputError(
            f"{graded.source} has {distinct} different prompts, and fewer than {FEWEST} teach nothing",
            fix="grade more prompts",
        )
    tried = trial(graded, aim, candidates=candidates, folds=folds, seed=seed, done=done)
    found = judged_trial(graded, tried, aim, resamples=resamples)
    prompts, rows = Prompts.of(graded.prompts), np.arange(len(graded))
    candidate, within = best(candidates, prompts, graded, rows, folds=folds, seed=seed)
    router = Router(
        format=FORMAT,
        data=Data(
            source=graded.source,
            digest=graded.digest,
            rows=len(graded),
            left_out=graded.left_out,
            small=graded.small_name,
            large=graded.large_name,
            small_quality=float(graded.small.mean()),
            large_quality=float(graded.large.mean()),
        ),
        learning=Learning(
            seed=seed,
            folds=folds,
            candidates=tuple(one.name for one in candidates),
            chosen=candidate.name,
            versions=_versions(),
        ),
        aim=aim,
        expected=found.expected,
        beats_length=found.beats_length,
        threshold=_picked(graded, within, rows, aim),
        known_share=float(np.quantile(tried.known, _RARE, method="lower")),
        tokens=max(one.prompt_tokens for one in prompts.features),
        model=Learned(candidate, prompts, graded, rows).model(),
        confidence=_confidence(graded, aim, folds=folds, seed=seed),
    )
    return Calibrated(router, found, tried)


def _picked(graded: Graded, held_out: HeldOut, rows: NDArray[np.int64], aim: Aim) -> float:
    clusters = [graded.clusters[row] for row in rows]
    return pick(held_out.gaps, graded.small[rows], graded.large[rows], clusters, aim)


def _confidence(graded: Graded, aim: Aim, *, folds: int, seed: int) -> Confidence | None:
    """For a cascade, where the small model's confidence is known: calibrated on all rows, the bound picked on
    confidences calibrated on other folds."""
    if graded.confidence is None:
        return None
    sure = graded.confidence
    fold = folds_of(graded.clusters, folds, seed)
    unsure = np.empty(len(graded))
    for number in range(folds):
        inside = fold == number
        steps = isotonic(sure[~inside].tolist(), graded.small[~inside].tolist())
        unsure[inside] = [1 - steps(one) for one in sure[inside]]
    threshold = pick(unsure, graded.small, graded.large, graded.clusters, aim)
    # An answer goes on where 1 − confidence ≥ threshold, and stands from the next confidence above.
    stands = 1 - unsure[unsure < threshold]
    at_least = float(stands.min()) if len(stands) else 1.0
    steps = isotonic(sure.tolist(), graded.small.tolist())
    return Confidence(scores=steps.scores, values=steps.values, at_least=at_least)


def _versions() -> dict[str, str]:
    names = ("llmops", "scikit-learn", "numpy", "scipy")
    return {"python": platform.python_version(), **{name: _version(name) for name in names}}


def _version(name: str) -> str:
    from importlib.metadata import PackageNotFoundError

    try:
        return version(name)
    except PackageNotFoundError:  # run from a checkout
        return "unknown"
