"""Learning a router's model from graded answers with scikit-learn, and what it says of prompts it has not seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmops.errors import EnvironmentFault
from llmops.serve.routing.curve import Ranking, curve, places_within
from llmops.serve.routing.features import SCANNED, Features, features_of_text
from llmops.serve.routing.graded import Graded
from llmops.serve.routing.router import MEASURES, Measure, Model

Values = NDArray[np.float64]
Places = NDArray[np.int64]

SEED = 17
FOLDS = 5


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way to learn.

    Attributes:
        words: longest run of words that is a term; 0 reads no words.
        measures: names of `MEASURES` read beside them.
        strength: inverse of the penalty on weights (scikit-learn's C).
        fewest: prompts that a term must be in.
    """

    name: str
    words: int
    measures: tuple[str, ...]
    strength: float = 1.0
    fewest: int = 2


_GRID = [
    Candidate(
        f"{terms}{'' if fewest == 1 else ' in two prompts'} and length{'' if strength == 1 else ', held back'}",
        words,
        ("characters",),
        strength,
        fewest,
    )
    for words, terms in ((1, "words"), (2, "pairs of words"))
    for fewest in (1, 2)
    for strength in (1.0, 0.3)
]
CANDIDATES = (
    Candidate("length", 0, ("characters",)),
    Candidate("length and marks", 0, tuple(MEASURES)),
    *_GRID,
)
"""What is tried; which is best is told by held-out folds of the data at hand."""


@dataclass(frozen=True, eq=False)
class Prompts:
    """Prompts with what is measured of them, so that folds share the work.

    Attributes:
        measures: `(rows, len(MEASURES))`.
    """

    texts: tuple[str, ...]
    features: tuple[Features, ...]
    measures: Values

    @classmethod
    def of(cls, texts: Sequence[str]) -> Prompts:
        seen = tuple(map(features_of_text, texts))
        rows = [[measure(one) for measure in MEASURES.values()] for one in seen]
        return cls(tuple(text[:SCANNED] for text in texts), seen, np.asarray(rows, dtype=np.float64))

    def column(self, name: str) -> Values:
        return self.measures[:, list(MEASURES).index(name)]

    def matrix(self, names: Sequence[str], rows: Places) -> Values:
        """`(rows, names)`."""
        return self.measures[np.ix_(rows, np.asarray([list(MEASURES).index(name) for name in names], dtype=np.int64))]


class Learned:
    """A candidate fitted to some rows."""

    def __init__(self, candidate: Candidate, prompts: Prompts, graded: Graded, rows: Places) -> None:
        """Fit to `rows`.

        Raises:
            EnvironmentFault: scikit-learn is not installed.
        """
        try:
            from sklearn.feature_extraction.text import TfidfVectorizer
        except ImportError as error:
            raise EnvironmentFault(
                "learning a router needs scikit-learn", fix="pip install 'llmops[route]'; serving one needs nothing"
            ) from error
        self.candidate = candidate
        self._vectorizer = None
        if candidate.words:
            self._vectorizer = TfidfVectorizer(
                ngram_range=(1, candidate.words), min_df=candidate.fewest, sublinear_tf=True
            )
            try:
                self._vectorizer.fit([prompts.texts[row] for row in rows])
            except ValueError:  # no term is in so many prompts
                self._vectorizer = None
        measured = prompts.matrix(candidate.measures, rows)
        self._low, self._high = measured.min(axis=0), measured.max(axis=0)
        self._mean = measured.mean(axis=0)
        deviation = measured.std(axis=0)
        self._deviation = np.where(deviation > 0, deviation, 1.0)
        matrix = self._matrix(prompts, rows)
        self._small = _fitted(matrix, graded.small[rows], candidate.strength)
        self._large = _fitted(matrix, graded.large[rows], candidate.strength)

    def chances(self, prompts: Prompts, rows: Places) -> Values:
        """`(rows, 2)` probabilities that the small and the large model are right."""
        from scipy.special import expit

        matrix = self._matrix(prompts, rows)
        return np.column_stack([expit(matrix @ weights + bias) for weights, bias in (self._small, self._large)])

    def model(self) -> Model:
        """As the router's file holds it."""
        terms = {}
        names: list[str] = []
        (small, of_small), (large, of_large) = self._small, self._large
        if self._vectorizer is not None:
            names = self._vectorizer.get_feature_names_out().tolist()
            idf = self._vectorizer.idf_.tolist()
            terms = {name: (idf[place], float(small[place]), float(large[place])) for place, name in enumerate(names)}
        measures = tuple(
            Measure(
                name=name,
                low=float(self._low[place]),
                high=float(self._high[place]),
                mean=float(self._mean[place]),
                deviation=float(self._deviation[place]),
                small=float(small[len(names) + place]),
                large=float(large[len(names) + place]),
            )
            for place, name in enumerate(self.candidate.measures)
        )
        pairs = self.candidate.words > 1 and bool(terms)
        return Model(pairs=pairs, terms=terms, measures=measures, small=of_small, large=of_large)

    def _matrix(self, prompts: Prompts, rows: Places) -> Any:
        from scipy.sparse import csr_matrix, hstack

        within = np.clip(prompts.matrix(self.candidate.measures, rows), self._low, self._high)
        measured = csr_matrix((within - self._mean) / self._deviation)
        if self._vectorizer is None:
            return measured
        return hstack([self._vectorizer.transform([prompts.texts[row] for row in rows]), measured]).tocsr()


def _fitted(matrix: Any, grades: Values, strength: float) -> tuple[Values, float]:
    """Weights of the features, `(features,)`, and what is added whatever they are, by logistic regression.

    A grade between 0 and 1 counts as that much of a right answer and the rest of a wrong one. Where all answers are
    right, or all wrong, features tell nothing: the share itself, a little away from its end.
    """
    from scipy.sparse import vstack
    from sklearn.linear_model import LogisticRegression

    right, wrong = grades > 0, grades < 1
    if not right.any() or not wrong.any() or not matrix.shape[1]:
        share = (grades.sum() + 0.5) / (len(grades) + 1)
        return np.zeros(matrix.shape[1]), float(np.log(share / (1 - share)))
    regression = LogisticRegression(C=strength, max_iter=2000, tol=1e-6)
    targets = np.concatenate([np.ones(right.sum()), np.zeros(wrong.sum())])
    weights = np.concatenate([grades[right], 1 - grades[wrong]])
    regression.fit(vstack([matrix[right], matrix[wrong]]).tocsr(), targets, sample_weight=weights)
    return regression.coef_[0], float(regression.intercept_[0])


def folds_of(clusters: Sequence[int], folds: int, seed: int) -> Places:
    """`(rows,)` the fold of each row: clusters whole, by chance, folds of as even a size as that allows."""
    distinct, place = np.unique(np.asarray(clusters), return_inverse=True)
    shuffled = np.random.default_rng(seed).permutation(len(distinct))
    return np.asarray((shuffled % folds)[place], dtype=np.int64)


@dataclass(frozen=True, eq=False)
class HeldOut:
    """What models say of rows that they were not learned from.

    Attributes:
        chances: `(rows, 2)` that the small and the large model are right.
        folds: `(rows,)` the fold of each row; one model for each.
    """

    chances: Values
    folds: Places

    @property
    def gaps(self) -> Values:
        return np.asarray(self.chances[:, 1] - self.chances[:, 0])

    @property
    def places(self) -> Values:
        """`(rows,)` by gap, within each fold."""
        return places_within(self.gaps, self.folds)


def held_out(
    candidate: Candidate, prompts: Prompts, graded: Graded, rows: Places, *, folds: int = FOLDS, seed: int = SEED
) -> HeldOut:
    """What a candidate says of each of `rows`, learned on the other folds of them."""
    fold = folds_of([graded.clusters[row] for row in rows], folds, seed)
    chances = np.empty((len(rows), 2))
    for number in range(folds):
        inside = fold == number
        learned = Learned(candidate, prompts, graded, rows[~inside])
        chances[inside] = learned.chances(prompts, rows[inside])
    return HeldOut(chances, fold)


def best(
    candidates: Sequence[Candidate],
    prompts: Prompts,
    graded: Graded,
    rows: Places,
    *,
    folds: int = FOLDS,
    seed: int = SEED,
) -> tuple[Candidate, HeldOut]:
    """The candidate with the highest APGR on held-out folds within `rows`, and what it says there."""
    gaps = graded.gaps[rows]
    found = [held_out(one, prompts, graded, rows, folds=folds, seed=seed) for one in candidates]
    areas = [float(curve(Ranking.by(one.places), gaps).area()) for one in found]
    place = int(np.argmax(areas))
    return candidates[place], found[place]
