"""A task of lm-evaluation-harness gives through our engines what it gives through the harness's own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmops.errors import EnvironmentFault, InputError
from llmops.eval.engines import transformers, transformers_reading
from llmops.eval.harness import evaluate_task
from llmops.eval.harness_requests import Asked, as_text, turns_of
from llmops.eval.loading import load_tokenizer
from llmops.eval.measured import Measured, read
from llmops.eval.run import written
from llmops.events import Silent
from llmops.records import ModelSource

pytest.importorskip("lm_eval", reason="needs lm-evaluation-harness (extra lm-eval)")
pytestmark = pytest.mark.filterwarnings("ignore:::lm_eval", "ignore:::datasets", "ignore:::multiprocess")

COMMON = """\
dataset_path: json
dataset_kwargs: {data_files: {test: %s, shown: %s}}
test_split: test
fewshot_split: shown
"""
CHOICE = """\
task: choose
output_type: multiple_choice
doc_to_text: "Question: {{q}}\\nAnswer:"
doc_to_choice: "{{choices}}"
doc_to_target: "{{right}}"
metric_list: [{metric: acc}, {metric: acc_norm}]
"""
WORDS = """\
task: say
output_type: generate_until
doc_to_text: "Question: {{q}}\\nAnswer:"
doc_to_target: "{{choices[right]}}"
generation_kwargs: {until: ["\\n\\n"], max_gen_toks: 8, do_sample: false}
num_fewshot: 2
metric_list: [{metric: exact_match}]
"""
PERPLEXITY = """\
task: likely
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{q}}"
metric_list: [{metric: word_perplexity}]
"""


@pytest.fixture
def tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    words = ["hello", "world", "what", "is", "it", "a", "number", "seven"]
    for name, number in (("test", 14), ("shown", 5)):
        rows = [
            {
                "q": " ".join(rng.choice(words, 1 + place % 6)) + f" {name} {place}?",
                "choices": [" ".join(rng.choice(words, size)) for size in (1, 2, 3)],
                "right": place % 3,
            }
            for place in range(number)
        ]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, text in (("choose", CHOICE), ("say", WORDS), ("likely", PERPLEXITY)):
        files = (tmp_path / "test.jsonl", tmp_path / "shown.jsonl")
        (tmp_path / f"{name}.yaml").write_text(text + COMMON % files)
    return tmp_path


@pytest.fixture
def plain_base(random_base: Path, tmp_path: Path) -> Path:
    """The random base without its chat template: the harness's own model then asks with plain text too."""
    folder = tmp_path / "plain"
    folder.mkdir()
    for file in random_base.iterdir():
        if file.name != "chat_template.jinja":
            (folder / file.name).write_bytes(file.read_bytes())
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings.pop("chat_template", None)
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def ours(model: Path, task: Path, **settings: Any) -> Measured:
    asked = Asked(
        partial(transformers.generate, model, precision="fp32"),
        partial(transformers_reading.read, model, precision="fp32"),
        load_tokenizer(model),
        64,
        Silent(),
    )
    return evaluate_task(str(task), ModelSource("m", model, None, "d"), asked, **settings)


def theirs(model: Path, task: Path) -> Mapping[str, Any]:
    """The harness with its own model class on the same checkpoint."""
    import torch
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager
    from transformers import AutoModelForCausalLM

    whole = AutoModelForCausalLM.from_pretrained(str(model), dtype=torch.float32)
    lm = HFLM(pretrained=whole, tokenizer=load_tokenizer(model), batch_size=1, max_length=64)
    done = simple_evaluate(
        model=lm,
        tasks=[task.stem],
        bootstrap_iters=0,
        task_manager=TaskManager(include_path=str(task.parent), include_defaults=False),
    )
    assert done is not None
    return done


def test_choices_by_likelihood_are_the_harnesss_own(plain_base: Path, tasks: Path, tmp_path: Path) -> None:
    found, wanted = ours(plain_base, tasks / "choose.yaml"), theirs(plain_base, tasks / "choose.yaml")
    samples = sorted(wanted["samples"]["choose"], key=lambda one: one["doc_id"])
    for name in ("acc", "acc_norm"):
        metric = found.metric(name)
        assert metric is not None
        assert metric.per_item.tolist() == [float(one[name]) for one in samples]
        assert metric.value() == pytest.approx(wanted["results"]["choose"][f"{name},none"])
    assert [item.references[0] for item in found.items] == [one["doc"]["choices"][one["target"]] for one in samples]
    kept = written(found, tmp_path / "reports")
    assert kept.suite == "lm-eval:choose"
    assert kept.file is not None
    assert [score.metric for score in read(kept.file).scores] == ["acc", "acc_norm"]
    assert all(score.low is not None for score in kept.scores)


def test_answers_in_words_and_their_scores_are_the_harnesss_own(plain_base: Path, tasks: Path) -> None:
    found, wanted = ours(plain_base, tasks / "say.yaml"), theirs(plain_base, tasks / "say.yaml")
    samples = sorted(wanted["samples"]["say"], key=lambda one: one["doc_id"])
    assert [item.answer for item in found.items] == [one["resps"][0][0] for one in samples]
    assert {item.finish for item in found.items} <= {"stop", "length"}
    assert all(item.prompt.count("Question:") == 3 for item in found.items)
    assert "shots:2" in found.metrics[0].signature


def test_a_model_with_a_chat_template_is_asked_in_turns(random_base: Path, tasks: Path) -> None:
    found = ours(random_base, tasks / "say.yaml", limit=3)
    assert len(found.items) == 3
    roles = [turn["role"] for turn in found.items[0].messages]
    assert roles == ["user", "assistant", "user", "assistant", "user"]
    assert "chat:yes" in found.metrics[0].signature


def test_likelihoods_of_whole_texts_are_summed_over_windows(plain_base: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    tokenizer = load_tokenizer(plain_base)
    asked = Asked(
        partial(transformers.generate, plain_base),
        partial(transformers_reading.read, plain_base, precision="fp32"),
        tokenizer,
        16,
        Silent(),
    )
    text = "hello world what is it"
    ids = [tokenizer.bos_token_id, *tokenizer(text, add_special_tokens=False)["input_ids"]]
    assert len(ids) > 17, "more than one window"
    model = AutoModelForCausalLM.from_pretrained(str(plain_base), dtype=torch.float32).eval()
    total = 0.0
    with torch.inference_mode():
        # The harness's windows: as many new tokens as fit, the last one filled up with tokens read before.
        done = 0
        told = len(ids) - 1
        while done < told:
            new = min(16, told - done)
            end = done + new
            begin = max(0, end - 16)
            logits = torch.log_softmax(model(torch.tensor([ids[begin:end]])).logits[0].double(), -1)
            total += sum(float(logits[place - begin, ids[place + 1]]) for place in range(done, end))
            done = end
    assert asked.whole_likelihoods([text, text]) == pytest.approx([total, total], abs=1e-4)


def test_what_is_no_mean_over_documents_is_refused(plain_base: Path, tasks: Path) -> None:
    with pytest.raises(InputError, match="no intervals"):
        ours(plain_base, tasks / "likely.yaml")


def test_a_task_that_is_not_there_or_has_no_data_is_named(plain_base: Path, tasks: Path) -> None:
    with pytest.raises(InputError, match="there is no file"):
        ours(plain_base, tasks / "none.yaml")
    (tasks / "test.jsonl").unlink()
    with pytest.raises(EnvironmentFault, match="the task say cannot be run"):
        ours(plain_base, tasks / "say.yaml")


def test_conversations_are_read_back() -> None:
    turns = [{"role": "user", "content": "a\nb"}]
    assert turns_of(as_text(turns)) == turns
    assert turns_of("plain") == [{"role": "user", "content": "plain"}]
