"""vLLM in a process of its own answers as transformers does: the same tokens in, the same ends, adapters too."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch

from llmops.errors import EnvironmentFault, InputError
from llmops.eval.cache import AnswerCache
from llmops.eval.engines import transformers, transformers_reading, vllm
from llmops.eval.items import Item
from llmops.eval.loading import asked_ids, end_tokens, load
from llmops.eval.parity import statistics_of
from llmops.eval.suite import Generation
from tests.eval.engines.test_reading import passages
from tests.eval.lively_models import small_adapter, small_llama
from tests.real_vllm import WITH_VLLM

pytestmark = WITH_VLLM

GREEDY = Generation(max_tokens=16)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_llama(tmp_path_factory.mktemp("vllm-model"))


@pytest.fixture(scope="module")
def adapter(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_adapter(model, tmp_path_factory.mktemp("vllm-adapter"))


@pytest.fixture(scope="module")
def items(make_item: Callable[..., Item]) -> list[Item]:
    return [make_item("hello " * (1 + (5 * k) % 8) + "x" * k) for k in range(12)]


def test_answers_of_an_adapter_are_those_of_transformers_end_at_a_stop_text_and_are_kept(
    model: Path, adapter: Path, items: list[Item], tmp_path: Path
) -> None:
    plain = transformers.generate(adapter, items, GREEDY, base=model, precision="fp32").answers
    assert [answer.text for answer in plain] != [
        answer.text for answer in transformers.generate(model, items, GREEDY, precision="fp32").answers
    ]
    longest = max(plain, key=lambda answer: len(answer.text))
    stopping = GREEDY.model_copy(update={"stop": (longest.text[3:5],)})
    wanted = transformers.generate(adapter, items, stopping, base=model, precision="fp32").answers
    cache = AnswerCache(tmp_path, "m", "b")
    made = vllm.generate(adapter, items, stopping, base=model, precision="fp32", cache=cache)
    assert [answer.item for answer in made.answers] == [item.id for item in items]
    same = [
        (one.text, one.finish) == (other.text, other.finish) for one, other in zip(made.answers, wanted, strict=True)
    ]
    # Two implementations of the same sums in 32 bits: where two tokens are nearly as likely they may differ.
    assert sum(same) >= 11
    cut = [one.text != other.text for one, other in zip(wanted, plain, strict=True)]
    assert 1 <= sum(cut) <= 6
    assert made.answers[items.index(next(item for item in items if item.id == longest.item))].finish == "stop"
    # Of those that go on to their own end, the very tokens, and how sure of them the model is.
    whole = [number for number in range(len(items)) if same[number] and not cut[number]]
    assert [made.answers[number].tokens for number in whole] == [plain[number].tokens for number in whole]
    sure = _mean_probabilities(adapter, [items[number] for number in whole], base=model)
    assert np.allclose([made.answers[number].confidence or 0.0 for number in whole], sure, atol=1e-4)
    assert made.seconds >= max(answer.seconds or 0 for answer in made.answers) > 0
    again = vllm.generate(adapter, items, stopping, base=model, precision="fp32", cache=cache)
    assert (again.answers, len(again.kept)) == (made.answers, len(items))


def _mean_probabilities(folder: Path, items: list[Item], *, base: Path) -> list[float]:
    """Of the tokens of transformers' own greedy decoding, one at a time over the whole text so far."""
    model, tokenizer = load(folder, base=base, device="cpu", precision="fp32")
    closing, means = end_tokens(model, tokenizer), []
    for item in items:
        ids = asked_ids(tokenizer, item.messages, "chat")
        found: list[float] = []
        while len(found) < GREEDY.max_tokens and not (found and ids[-1] in closing):
            with torch.inference_mode():
                chances = model(torch.tensor([ids])).logits[0, -1].softmax(-1)
            found.append(float(chances.max()))
            ids.append(int(chances.argmax()))
        means.append(float(np.mean(found)))
    return means


@pytest.mark.parametrize(
    ("change", "problem"),
    [({"use_dora": True}, "DoRA"), ({"modules_to_save": ["lm_head"]}, "modules_to_save"), ({"r": 1000}, "rank 1000")],
)
def test_an_adapter_that_vllm_does_not_load_is_refused_before_it_starts(
    model: Path, adapter: Path, items: list[Item], tmp_path: Path, change: dict[str, object], problem: str
) -> None:
    own = json.loads((adapter / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps(own | change))
    with pytest.raises(InputError, match=problem) as refused:
        vllm.generate(tmp_path, items, GREEDY, base=model, precision="fp32")
    assert "llmops merge" in refused.value.fix


def test_a_model_that_vllm_cannot_run_is_said_with_its_reason_and_the_log_stays(
    model: Path, items: list[Item], tmp_path: Path
) -> None:
    for file in model.iterdir():
        if file.suffix != ".safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(EnvironmentFault, match=r"vLLM fails with this model: .*Error") as failed:
        vllm.generate(tmp_path, items, GREEDY, precision="fp32")
    log = Path(failed.value.fix.split()[1].rstrip(","))
    assert "Traceback" in log.read_text()
    log.unlink()


def test_what_it_reads_is_what_transformers_reads(model: Path, adapter: Path) -> None:
    asked = passages()
    served = vllm.read(adapter, asked, base=model, others=8, precision="fp32")
    trained = transformers_reading.read(adapter, asked, base=model, at=[one.ids for one in served], precision="fp32")
    for passage, one, other in zip(asked, trained, served, strict=True):
        among = (other.ids == np.array(passage.ids[passage.start :])[:, None]).any(1)
        assert (np.isnan(other.logprobs) == ~among).all()
        assert np.allclose(one.logprobs[among], other.logprobs[among], atol=1e-3)
        assert np.allclose(one.at, other.at, atol=1e-3)
    numbers = np.stack([statistics_of(one, other) for one, other in zip(trained, served, strict=True)]).sum(0)
    assert numbers[0] / numbers[2] < 1e-6
    assert numbers[1] <= 1  # near ties may turn
    # The base without its adapter is another model.
    base = transformers_reading.read(model, asked, at=[one.ids for one in served], precision="fp32")
    apart = np.stack([statistics_of(one, other) for one, other in zip(base, served, strict=True)]).sum(0)
    assert apart[0] / apart[2] > 0.1


@pytest.mark.parametrize(("free_gib", "taken_gib"), [(1, 1), (3, 1), (12, 3), (100, 8)])
def test_of_the_memory_that_is_free_a_quarter_is_for_keys_and_values_where_nothing_else_is_said(
    monkeypatch: pytest.MonkeyPatch, free_gib: int, taken_gib: int
) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=free_gib << 30))
    name = "VLLM_CPU_KVCACHE_SPACE"
    monkeypatch.delenv(name)
    assert vllm._environment("/tmp", on_gpu=False)[name] == str(taken_gib)
    monkeypatch.setenv(name, "5")
    assert vllm._environment("/tmp", on_gpu=False)[name] == "5"
