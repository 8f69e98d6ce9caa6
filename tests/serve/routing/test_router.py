"""A router's file says what scikit-learn says, without it, and is refused where it is none."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix, hstack
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from llmops.errors import InputError
from llmops.serve.routing.calibrate import calibrate
from llmops.serve.routing.features import features_of_text
from llmops.serve.routing.learn import Candidate, Learned, Prompts
from llmops.serve.routing.router import MEASURES, Aim, Model, Router, read_router, write_router
from tests.serve.routing.graded_prompts import EASY, HARD, made

AIM = Aim(kind="quality", value=0.9, confidence=0.5, small_cost=0.1)
CANDIDATE = Candidate("pairs and measures", 2, ("tokens", "numbers", "code"), 3.0, 2)


class Theirs:
    """The same by scikit-learn alone: its vectorizer, its regression, its predict_proba."""

    def __init__(self) -> None:
        data = made(200)
        self.texts = list(data.prompts)
        self.vectorizer = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True).fit(self.texts)
        self.low, self.high = (getattr(self._raw(self.texts), end)(axis=0) for end in ("min", "max"))
        raw = self._measured(self.texts)
        self.mean, self.deviation = raw.mean(axis=0), raw.std(axis=0)
        self.deviation[self.deviation == 0] = 1.0
        rows = self._rows(self.texts)
        self.models = []
        for grades in (data.small, data.large):
            # Rows in the order in which ours are given, for the solver to take the same steps.
            order = np.concatenate([np.flatnonzero(grades == 1), np.flatnonzero(grades == 0)])
            regression = LogisticRegression(C=3.0, max_iter=2000, tol=1e-6)
            self.models.append(regression.fit(rows[order], grades[order]))
        self.ours = Learned(CANDIDATE, Prompts.of(data.prompts), data, np.arange(len(data))).model()

    def _measured(self, texts: list[str]) -> Any:
        return np.clip(self._raw(texts), self.low, self.high)

    def _raw(self, texts: list[str]) -> Any:
        return np.asarray([[MEASURES[name](features_of_text(text)) for name in CANDIDATE.measures] for text in texts])

    def _rows(self, texts: list[str]) -> Any:
        measured = csr_matrix((self._measured(texts) - self.mean) / self.deviation)
        return hstack([self.vectorizer.transform(texts), measured]).tocsr()

    def chances(self, text: str) -> list[float]:
        return [float(one.predict_proba(self._rows([text]))[0, 1]) for one in self.models]


@pytest.fixture(scope="module")
def theirs() -> Theirs:
    return Theirs()


WORDS = st.sampled_from([*EASY, *HARD, "Red", "CAT", "dog,", "ünïcode", "İ", "ß", "12", "x", "a_b", "café", "\u0130I"])


@settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=150
)
@given(text=st.one_of(st.lists(WORDS, max_size=60).map(" ".join), st.text(max_size=300)))
def test_chances_are_those_of_predict_proba(theirs: Theirs, text: str) -> None:
    ours = theirs.ours.chances(features_of_text(text))
    np.testing.assert_allclose(ours, theirs.chances(text), rtol=0, atol=1e-9)


def test_the_gap_is_the_large_ones_chance_less_the_small_ones(theirs: Theirs) -> None:
    found = theirs.ours.chances(features_of_text("red kernel"))
    assert found.gap == found.large - found.small
    assert found.gap > theirs.ours.chances(features_of_text("red cat")).gap


def test_known_words_are_those_of_training(theirs: Theirs) -> None:
    blind = Model(pairs=False, terms={}, measures=(), small=0.0, large=0.0)
    for model, text, share in (
        (theirs.ours, "red CAT xylophone quux", 0.5),
        (theirs.ours, "!", 0.0),
        (blind, "anything", 1.0),
    ):
        assert model.known_share(model.words(features_of_text(text))) == share


@pytest.mark.parametrize("value", [-1e6, 1e6])
def test_sums_of_any_size_stay_chances(value: float) -> None:
    chances = Model(pairs=False, terms={}, measures=(), small=value, large=-value).chances(features_of_text("x"))
    assert 0 <= chances.small <= 1
    assert chances.small + chances.large == pytest.approx(1.0)


@pytest.fixture(scope="module")
def router() -> Router:
    return calibrate(made(120, confidence=True), AIM, candidates=[Candidate("words", 1, ("tokens",))]).router


def test_a_file_holds_all_of_it(router: Router, tmp_path: Path) -> None:
    file = tmp_path / "router.json"
    write_router(file, router)
    assert read_router(file) == router


INTERVAL = {"value": 0.5, "low": 0.4, "high": 0.6}
EXPECTED = {
    **dict.fromkeys(("quality", "large_share", "saving", "false_cheap"), INTERVAL),
    "confidence": 0.95,
}
LATER = {
    "pairs": False,
    "terms": {},
    "measures": [{"name": "mood", "low": 0, "high": 1, "mean": 0, "deviation": 1, "small": 0, "large": 0}],
    "small": 0,
    "large": 0,
}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        pytest.param({"format": 2}, "format", id="of another format"),
        pytest.param({"threshold": None}, "threshold", id="without a threshold"),
        pytest.param({"extra": 1}, "extra", id="with what nobody knows"),
        pytest.param({"model": LATER}, "no measure mood", id="with a measure of a later version"),
        pytest.param(
            {"confidence": {"scores": [0.5, 0.1], "values": [0, 1], "at_least": 0.5, "expected": EXPECTED}},
            "rise",
            id="with falling steps",
        ),
    ],
)  # fmt: skip
def test_what_is_no_router_is_refused_with_the_command_that_makes_one(
    router: Router, tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    file = tmp_path / "router.json"
    file.write_text(json.dumps({**router.model_dump(mode="json"), **change}))
    with pytest.raises(InputError) as refused:
        read_router(file)
    assert said in refused.value.problem
    assert f"llmops route calibrate DATA --out {file}" in refused.value.fix


@pytest.mark.parametrize("content", [None, b"", b"{", b"[]", b"\xff", b'{"threshold": NaN}'])
def test_other_files_are_refused(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "router.json"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(InputError, match="router"):
        read_router(file)


def test_serving_one_needs_no_numbers_library(router: Router, tmp_path: Path) -> None:
    file = tmp_path / "router.json"
    write_router(file, router)
    script = (
        "import sys\nfrom pathlib import Path\n"
        "from llmops.serve.routing import policy\nfrom llmops.serve.routing.features import features_of_text\n"
        f"print(policy.read_router(Path({str(file)!r})).model.chances(features_of_text('red kernel')).gap)\n"
        "print({'numpy', 'scipy', 'sklearn', 'torch', 'pickle5', 'joblib'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    gap, loaded = done.stdout.splitlines()
    assert loaded == "set()"
    assert float(gap) == router.model.chances(features_of_text("red kernel")).gap
