"""Graded answers made here: some words and the length make a prompt hard for the small model."""

from __future__ import annotations

import numpy as np

from llmops.serve.routing.graded import Graded, graded

EASY = ["red", "blue", "cat", "dog", "tea", "sun", "sea", "bread", "milk", "tree"]
HARD = ["integral", "theorem", "matrix", "kernel"]


def made(rows: int = 240, *, seed: int = 0, informative: bool = True, confidence: bool = False) -> Graded:
    """Prompts with a `kernel` or the like are answered rightly by the small model in 10 %, others in 90 %; the large
    one is right in 90 % of all. Not informative: the words say nothing."""
    draw = np.random.default_rng(seed)
    found = []
    for number in range(rows):
        hard = draw.random() < 0.4
        words = draw.choice(EASY, int(draw.integers(5, 15))).tolist()
        if draw.random() < 0.5 if not informative else hard:
            words.insert(int(draw.integers(len(words))), str(draw.choice(HARD)))
        small, large = float(draw.random() < (0.1 if hard else 0.9)), float(draw.random() < 0.9)
        sure = float(np.clip(0.6 + 0.2 * small + draw.normal(0, 0.08), 0.01, 1)) if confidence else None
        text = f"{' '.join(words)} {number}"
        found.append((text, text, small, large, sure))
    return graded("made here", found, small="small", large="large")
