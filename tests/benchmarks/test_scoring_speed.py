"""Scoring 100,000 answers against calling sacreBLEU and rouge-score directly on the same texts."""

from __future__ import annotations

import csv
import statistics
import time
from collections.abc import Callable
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import pytest
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU, CHRF

from llmops.eval.measured import Answered
from llmops.eval.scorers.catalog import Scorer
from llmops.eval.scorers.corpus import Bleu, Chrf, transposed
from llmops.eval.scorers.rouge import Rouge
from tests.eval.measurements import answered

E2E = Path(__file__).parents[2].parent / "shared" / "data" / "e2e" / "testset_w_refs.csv"

pytestmark = [
    pytest.mark.benchmark,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not E2E.is_file(), reason="the E2E data is not beside the repository"),
]

ANSWERS = 100_000
LONG = 400
"""Words of a long answer, in sentences of a line each."""
LONG_ANSWERS = 300
"""rouge-score takes tens of milliseconds for each: 100,000 would be an hour or two."""


@pytest.fixture(scope="module")
def texts() -> list[str]:
    with E2E.open(encoding="utf-8") as lines:
        return [row["ref"] for row in csv.DictReader(lines)]


@pytest.fixture(scope="module")
def corpus(texts: list[str]) -> list[Answered]:
    """Real sentences as references, each with an answer that has lost, doubled and swapped some of its words."""
    draw = np.random.default_rng(0)
    references = list(islice(cycle(texts), ANSWERS))
    return answered([_perturbed(text.split(), draw) for text in references], [[text] for text in references])


def _perturbed(words: list[str], draw: np.random.Generator) -> str:
    kept = [word for word, chance in zip(words, draw.random(len(words)), strict=True) if chance > 0.15]
    if len(kept) > 2:
        place = int(draw.integers(len(kept) - 1))
        kept[place], kept[place + 1] = kept[place + 1], kept[place]
    return " ".join([*kept, words[0]])


def seconds(do: Callable[[], object]) -> float:
    began = time.perf_counter()
    do()
    return time.perf_counter() - began


@pytest.mark.parametrize(("ours", "theirs"), [(Bleu(), BLEU), (Chrf(), CHRF)], ids=["bleu", "chrf"])
def test_a_corpus_takes_hardly_longer_than_sacrebleu_itself(
    ours: Scorer, theirs: Callable[[], BLEU | CHRF], corpus: list[Answered]
) -> None:
    """Ours measures every item beside the corpus; the time of making the lists that sacreBLEU wants is ours too."""
    answers, references = [item.answer for item in corpus], transposed([item.references for item in corpus])
    ratios = []
    for _ in range(3):
        them = seconds(lambda: theirs().corpus_score(answers, references))
        us = seconds(lambda: ours.measure(corpus))
        ratios.append(us / them)
        print(f"\n{len(corpus):,} answers: ours {us:.1f} s, sacreBLEU {them:.1f} s")
    assert statistics.median(ratios) <= 1.1


def test_rouge_of_long_answers_takes_at_most_a_third_of_rouge_scores_time(corpus: list[Answered]) -> None:
    words = [(item.answer, item.references[0]) for item in corpus]
    long = _long(words)
    direct = RougeScorer(["rouge1", "rouge2", "rougeL", "rougeLsum"])
    found = {metric.name: metric for metric in Rouge().measure(long)}
    for place, item in enumerate(long[:20]):
        theirs = direct.score(item.references[0], item.answer)
        assert all(theirs[name].fmeasure == metric.per_item[place] for name, metric in found.items())
    them = seconds(lambda: [direct.score(item.references[0], item.answer) for item in long])
    us = statistics.median(seconds(lambda: Rouge().measure(long)) for _ in range(3))
    print(f"\n{len(long)} answers of {LONG} words: ours {us:.2f} s, rouge-score {them:.1f} s ({them / us:.0f} times)")
    assert us <= them / 3


def test_rouge_of_short_answers_is_faster_too(corpus: list[Answered]) -> None:
    direct = RougeScorer(["rouge1", "rouge2", "rougeL", "rougeLsum"])
    part = corpus[:5000]
    them = seconds(lambda: [direct.score(item.references[0], item.answer) for item in part])
    us = statistics.median(seconds(lambda: Rouge().measure(part)) for _ in range(3))
    print(
        f"\n{len(part):,} answers of about 20 words: ours {us:.2f} s, rouge-score {them:.1f} s ({them / us:.0f} times)"
    )
    assert us <= them / 3


def _long(pairs: list[tuple[str, str]]) -> list[Answered]:
    """Short answers and references joined, line by line, until each reference has `LONG` words."""
    answers, references = [], []
    given, wanted, words = [], [], 0
    for answer, reference in pairs:
        given.append(answer)
        wanted.append(reference)
        words += len(reference.split())
        if words >= LONG:
            answers.append("\n".join(given))
            references.append(["\n".join(wanted)])
            given, wanted, words = [], [], 0
        if len(answers) == LONG_ANSWERS:
            return answered(answers, references)
    raise AssertionError("too few texts")
