"""A suite says what is asked, how it is answered and how that is scored; what is wrong in its file is named at once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from llmops.config import load
from llmops.errors import FileFaults
from llmops.eval.scorers.corpus import Bleu, Chrf
from llmops.eval.scorers.ours import scorers
from llmops.eval.scorers.rouge import Rouge
from llmops.eval.scorers.text import ExactMatch
from llmops.eval.suite import Suite
from llmops.explain import keys

SHIPPED = Path(__file__).parents[2] / "eval" / "suites" / "e2e.yaml"


def written(folder: Path, text: str) -> Path:
    path = folder / "suite.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def suite_with(scorer_lines: str) -> str:
    return f"name: s\nitems: {{source: s.csv, prompt: '{{q}}', references: '{{a}}'}}\nscorers:\n{scorer_lines}"


def faults_of(folder: Path, text: str) -> list[str]:
    with pytest.raises(FileFaults) as caught:
        load(written(folder, text), Suite, what="suite")
    return [f"{fault.line}: {fault.key}: {fault.problem}" for fault in caught.value.faults]


def test_the_shipped_suite_loads_as_it_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("E2E", raising=False)
    suite = load(SHIPPED, Suite, what="suite")
    assert suite.items.source == "data/e2e/testset_w_refs.csv"
    assert suite.generation.max_tokens == 96
    assert [one.chosen for one in suite.scorers] == [
        Bleu(lowercase=True),
        Chrf(),
        Rouge(variants=["rouge1", "rouge2", "rougeL", "rougeLsum"]),
        ExactMatch(),
    ]


def test_a_scorer_is_its_name_with_or_without_settings(tmp_path: Path) -> None:
    path = written(tmp_path, suite_with("  - bleu\n  - chrf: {}\n  - exact_match: null\n"))
    assert [one.chosen for one in load(path, Suite, what="suite").scorers] == [Bleu(), Chrf(), ExactMatch()]


def test_a_misspelt_setting_of_a_scorer_is_named_with_its_line_and_the_nearest_one(tmp_path: Path) -> None:
    (fault,) = faults_of(tmp_path, suite_with("  - chrf: {}\n  - bleu: {lowercsae: true}\n"))
    assert fault == "5: scorers[1].bleu.lowercsae: no such key; did you mean `lowercase`?"


def test_an_unknown_scorer_is_named_with_the_nearest_one(tmp_path: Path) -> None:
    (fault,) = faults_of(tmp_path, suite_with("  - rogue: {}\n"))
    assert fault.startswith("4: scorers[0].rogue: no such key; did you mean `rouge`?")


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        pytest.param("  - {bleu: {}, chrf: {}}\n", "name one scorer per entry", id="two scorers in one entry"),
        pytest.param("  - {}\n", "name one scorer per entry", id="none in an entry"),
        pytest.param("  - bleu: {}\n  - bleu: {lowercase: true}\n", "bleu is measured twice", id="a metric twice"),
        pytest.param("  - rouge: {variants: [rougel]}\n", "did you mean `rougeL`?", id="a variant misspelt"),
        pytest.param("  - rouge: {variants: [rougeL, rougeL]}\n", "rougeL is listed twice", id="a variant twice"),
        pytest.param("  - chrf: {word_order: -1}\n", "greater than or equal to 0", id="a number out of range"),
        pytest.param("  []\n", "at least 1 item", id="no scorers at all"),
    ],
)
def test_scorers_that_make_no_sense_are_refused(tmp_path: Path, lines: str, says: str) -> None:
    assert says in " ".join(faults_of(tmp_path, suite_with(lines)))


def test_chrf_with_and_without_words_are_two_metrics_of_one_suite(tmp_path: Path) -> None:
    path = written(tmp_path, suite_with("  - chrf: {}\n  - chrf: {word_order: 2}\n"))
    names = [name for one in load(path, Suite, what="suite").scorers for name in one.chosen.names()]
    assert names == ["chrf", "chrf++"]


@pytest.mark.parametrize(
    ("items", "says"),
    [
        pytest.param("{source: s, prompt: q, references: '{a}'}", "write '{q}'?", id="a prompt without a column"),
        pytest.param("{source: s, prompt: '{q}', references: '{a'}", "single `{`", id="a brace left open"),
        pytest.param("{source: s, prompt: '{q}', references: []}", "at least 1 item", id="no references"),
        pytest.param("{source: s, prompt: '{q}'}", "missing", id="references left out"),
        pytest.param("{source: s, prompt: '{q}', references: '{a}', slices: {x: '(a)(b)'}}", "2 groups", id="groups"),
        pytest.param("{source: s, prompt: '{q}', references: '{a}', slices: {x: '(a'}}", "nor a pattern", id="regex"),
        pytest.param("{source: s, prompt: '{q}', references: '{a}', limit: 0}", "greater than 0", id="a limit of 0"),
        pytest.param("3", "valid dictionary", id="no mapping"),
    ],
)
def test_items_that_make_no_sense_are_refused(tmp_path: Path, items: str, says: str) -> None:
    text = f"name: s\nitems: {items}\nscorers: [bleu: {{}}]\n"
    assert says in " ".join(faults_of(tmp_path, text))


def test_all_faults_are_named_together(tmp_path: Path) -> None:
    text = (
        "name: S\nitems: {source: s, prompt: q, references: '{a}', lmit: 3}\n"
        "generation: {max_tokens: 0, temprature: 1}\nscorers: [bleu: {tokenise: char}]\n"
    )
    found = faults_of(tmp_path, text)
    assert [fault.partition(": ")[2].partition(":")[0] for fault in found] == [
        "name",
        "items.lmit",
        "items.prompt",
        "generation.max_tokens",
        "generation.temprature",
        "scorers[0].bleu.tokenise",
    ]


def test_every_key_is_explained_those_of_each_scorer_too() -> None:
    explained = {key.path: key.meaning for key in keys(Suite)}
    assert all(explained.values())
    assert {f"scorers.{name}" for name in scorers} <= set(explained)
    assert "scorers.bleu.lowercase" in explained
    assert "scorers.rouge.variants" in explained


def test_the_schema_for_editors_describes_a_scorer_as_it_is_written() -> None:
    definitions = Suite.model_json_schema()["$defs"]
    assert set(definitions["OneScorer"]["properties"]) == set(scorers)


def test_suites_with_every_scorer_are_read_where_only_the_core_is_installed(tmp_path: Path) -> None:
    needs = {
        "classes": "{labels: [a, b]}",
        "evaluate": "{metric: m}",
        "json_schema": "{against: {type: object}}",
        "judge": "{endpoint: 'http://h/v1', model: m, prompt: p.md, rubric: r.yaml}",
        "regex": "{pattern: x}",
        "reward": "{model: m}",
    }
    written(tmp_path, suite_with("".join(f"  - {name}: {needs.get(name, '{}')}\n" for name in scorers)))
    script = (
        "import sys\nfrom pathlib import Path\n"
        "core = {'numpy', 'scipy', 'sacrebleu', 'rapidfuzz', 'nltk', 'jsonschema', 'evaluate', 'datasets', 'torch'}\n"
        "sys.modules.update(dict.fromkeys(core))\n"
        "from llmops.config import load\nfrom llmops.eval.suite import Suite\n"
        "print(len(load(Path(sys.argv[1]), Suite, what='suite').scorers))"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "suite.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) == len(list(scorers))
