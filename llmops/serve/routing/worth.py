"""What routing is worth on graded prompts, of a procedure or of a router that is there already."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from llmops.serve.routing.calibrate import judged_trial, trial
from llmops.serve.routing.choose import Rules, choose
from llmops.serve.routing.features import features_of_text
from llmops.serve.routing.graded import Graded
from llmops.serve.routing.judged import CURVE_RESAMPLES, Judged, judged
from llmops.serve.routing.learn import CANDIDATES, FOLDS, SEED
from llmops.serve.routing.router import Aim, Router


@dataclass(frozen=True, eq=False)
class Worth:
    """`notes`: what a reader must know of how it was measured."""

    judged: Judged
    notes: tuple[str, ...]


def worth_of(
    graded: Graded,
    aim: Aim,
    *,
    folds: int = FOLDS,
    seed: int = SEED,
    done: Callable[[int, int], None] = lambda step, of: None,
) -> Worth:
    """Of learning from these rows, on held-out ones."""
    tried = trial(graded, aim, folds=folds, seed=seed, done=done)
    return Worth(judged_trial(graded, tried, aim), _chosen(tried.chosen))


def worth_of_router(
    router: Router,
    graded: Graded,
    *,
    resamples: int = CURVE_RESAMPLES,
    done: Callable[[int, int], None] = lambda step, of: None,
) -> Worth:
    """Of a router on prompts that it was not learned from.

    On the very rows it was learned from, what it says is too good: there the procedure that made it is tried on
    held-out folds instead, as it was when it was made.
    """
    if graded.digest == router.data.digest:
        candidates = [one for one in CANDIDATES if one.name in router.learning.candidates]
        tried = trial(
            graded,
            router.aim,
            candidates=candidates,
            folds=router.learning.folds,
            seed=router.learning.seed,
            done=done,
        )
        note = "the router was learned from these rows: what is shown is its procedure on held-out folds of them"
        return Worth(judged_trial(graded, tried, router.aim), (note, *_chosen(tried.chosen)))
    rules = Rules(router.tokens, router)
    seen = [features_of_text(prompt) for prompt in graded.prompts]
    chances = np.asarray([router.model.chances(one) for one in seen])
    decided = [choose(one, rules) for one in seen]
    unknown = sum(one.kind == "unknown" for one in decided)
    notes = [f"{unknown} of {len(seen)} prompts are unlike those it was learned from and go to the large model"]
    large = np.asarray([one.size == "large" for one in decided])
    found = judged(graded, chances, large, small_cost=router.aim.small_cost, resamples=resamples)
    return Worth(found, tuple(notes if unknown else ()))


def _chosen(names: tuple[str, ...]) -> tuple[str, ...]:
    return ("chosen within each fold: " + ", ".join(names),)
