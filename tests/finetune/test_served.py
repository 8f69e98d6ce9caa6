"""What llmops trains is what vLLM serves: the same tokens asked, the same probabilities answered.

A real vLLM on the CPU, in 32-bit arithmetic. The base it serves is itself the result of a full fine-tune, with
tied embeddings; the adapters are trained on it.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from llmops.builtin.tokenizer import TEMPLATE as BUILTIN
from llmops.data.chat import encode_prompt
from llmops.data.formats import rows as shaped
from llmops.data.section import MessageRows
from llmops.finetune.job import Job, Outcome, read_outcome
from llmops.finetune.launch import launch
from llmops.finetune.merge import merge
from llmops.finetune.tokens import TokenStore, encode
from llmops.records import Row
from tests.finetune import tokenizers_made as made
from tests.finetune.small_models import make_random_base
from tests.finetune.small_runs import PAD, a_recipe, as_source, encoded
from tests.finetune.vllm_offline import Completion, complete
from tests.finetune.vllm_server import Answer, Server, server
from tests.real_vllm import WITH_VLLM

pytestmark = WITH_VLLM

TOLERANCE = 1e-4
"""Nats that a log-probability may differ by: two implementations of the same sums in 32 bits (measured: 1e-5)."""

CITIES = {
    "France": "Paris",
    "Peru": "Lima",
    "Japan": "Tokyo",
    "Kenya": "Nairobi",
    "Chile": "Santiago",
    "Cuba": "Havana",
}
RIVERS = {"France": "Seine", "Peru": "Amazon", "Japan": "Shinano", "Kenya": "Tana", "Chile": "Loa", "Cuba": "Cauto"}
HELD_OUT = {"Spain": "Madrid", "Egypt": "Nile"}


def ask(country: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": f"What about {country}?"}]


def rows(answers: Mapping[str, str]) -> list[Row]:
    """The same questions whatever is answered."""
    return [
        Row(country, "messages", {"messages": [*ask(country), {"role": "assistant", "content": f"The {name}."}]}, "", 1)
        for country, name in answers.items()
    ]


def train(run: Path, base: Path, answers: Mapping[str, str], **changes: Any) -> Outcome:
    """A run until it knows the answers, as `llmops finetune` makes it."""
    run.mkdir(parents=True)
    encoded(rows(answers), base, run / "tokens" / "train.safetensors")
    encoded(rows(HELD_OUT), base, run / "tokens" / "validation.safetensors")
    recipe = a_recipe(
        **{
            "batch": {"sequences": 6, "per_device": 6},
            "schedule": {"steps": 60, "epochs": None},
            "checkpoints": {"every": 60},
            "validation": {"keep_best": False, "every": 100},
            **changes,
        }
    )
    Job(recipe, as_source(base), run / "tokens", "sdpa", False, PAD).write(run)
    return launch(run, world=1)


LORA = {"kind": "lora", "rank": 8, "alpha": 16}
ADAPTERS: dict[str, dict[str, Any]] = {
    "plain": LORA,
    "rslora": {**LORA, "variant": "rslora"},
    "dora": {**LORA, "variant": "dora"},
    "whole-module": {**LORA, "modules_to_save": ["lm_head"]},
}
SERVED = ["plain", "rslora"]
REFUSED = {"dora": "DoRA", "whole-module": "modules_to_save"}


@dataclass(frozen=True)
class World:
    """A served base with its adapters, and all that was trained."""

    folder: Path
    server: Server
    tokenizer: Any

    @property
    def base(self) -> Path:
        """Result of the full fine-tune that is served."""
        return self.folder / "full" / "artifact"

    def artifact(self, name: str) -> Path:
        return self.folder / name / "artifact"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    from transformers import AutoTokenizer

    folder = tmp_path_factory.mktemp("served")
    make_random_base(folder / "random", hidden=128, tokenizer=made.make(made.MARKED, adds_bos=True))
    train(folder / "full", folder / "random", CITIES, optimizer={"learning_rate": 5e-3})
    base = folder / "full" / "artifact"
    options = ["--enable-lora", "--max-lora-rank", "8", "--max-loras", "2", "--trust-request-chat-template"]
    with server(base, folder, *options) as starting:
        for name, adapter in ADAPTERS.items():
            with warnings.catch_warnings():
                # peft remarks on a whole module beside tied embeddings; merging it is tested below.
                warnings.filterwarnings("ignore", message="Model has `tie_word_embeddings=True`")
                train(folder / name, base, RIVERS, adapter=adapter, optimizer={"learning_rate": 1e-2})
        starting.wait()
        for name in SERVED:
            loaded = starting.load(name, folder / name / "artifact")
            assert loaded.status == 200, loaded.body
        yield World(folder, starting, AutoTokenizer.from_pretrained(base))


# Transformers as the reference


def model_of(base: Path, adapter: Path | None = None) -> Any:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    return (PeftModel.from_pretrained(model, adapter) if adapter else model).eval()


@torch.no_grad()
def distributions_of(model: Any, ids: Sequence[int]) -> Tensor:
    return model(input_ids=torch.tensor([ids])).logits[0, :-1].log_softmax(-1)


@torch.no_grad()
def greedy(model: Any, prompt: Sequence[int]) -> tuple[list[int], list[float]]:
    """Tokens after `prompt` up to the end of the turn, at most 24, and their log-probabilities."""
    done = model.generate(
        input_ids=torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        do_sample=False,
        max_new_tokens=24,
        return_dict_in_generate=True,
        output_logits=True,
    )
    tokens = done.sequences[0, len(prompt) :].tolist()
    chosen = [float(one[0].log_softmax(-1)[token]) for one, token in zip(done.logits, tokens, strict=True)]
    return tokens, chosen


def assert_same_answers(found: Answer | Completion, model: Any, prompt: Sequence[int]) -> None:
    tokens, logprobs = greedy(model, prompt)
    assert found.tokens == tokens
    assert found.logprobs == pytest.approx(logprobs, abs=TOLERANCE)


def apart(one: Tensor, other: Tensor) -> float:
    """The largest difference of two log-probabilities, over all positions and tokens."""
    assert one.shape == other.shape
    return float((one - other).abs().max())


# Tokens

CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Lima", "at": 7}'}}
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}, "at": {"type": "integer"}}},
    },
}
SYSTEM, USER = {"role": "system", "content": "Be kind."}, {"role": "user", "content": "The weather in Lima?"}
THOUGHT = {"role": "assistant", "content": "12 degrees.", "reasoning_content": "Lima is in Peru"}
CONVERSATIONS: dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]] | None]] = {
    "one turn": ([USER], None),
    "system": ([SYSTEM, USER], None),
    "several turns": ([USER, {"role": "assistant", "content": "12 degrees."}, USER], None),
    "thought": ([USER, THOUGHT, USER], None),
    "tools": ([USER], [TOOL]),
    "a tool said in another order, without description": (
        [USER],
        [
            {
                "function": {"parameters": {"type": "object", "properties": {"z": {}, "a": {}}}, "name": "f"},
                "type": "function",
            }
        ],
    ),
    "a strict tool": ([USER], [{"type": "function", "function": {"strict": True, "name": "f", "extra": 1}}]),
    "calls": (
        [
            USER,
            {"role": "assistant", "content": "", "tool_calls": [CALL]},
            {"role": "tool", "content": "12", "tool_call_id": "c1"},
            USER,
        ],
        [TOOL],
    ),
    "text in parts": ([{"role": "user", "content": [{"type": "text", "text": part} for part in ("a ", "b")]}], None),
    "no ASCII": ([{"role": "user", "content": "Où est São Paulo? 日本 🎉"}], None),
    "spaces": ([{"role": "user", "content": "  a\n\n b \n"}, {"role": "assistant", "content": " c\n"}, USER], None),
    "marks in the text": ([{"role": "user", "content": "<|bos|>a<|end|><|assistant|>"}], None),
}
TEMPLATES = {"BUILTIN": BUILTIN, **{name: getattr(made, name) for name in ("MARKED", "CHATML", "LLAMA3", "QWEN3")}}


@pytest.mark.parametrize("conversation", CONVERSATIONS)
@pytest.mark.parametrize("template", TEMPLATES)
def test_a_conversation_is_the_same_tokens_in_training_and_in_serving(
    world: World, template: str, conversation: str, tmp_path: Path
) -> None:
    """What vLLM makes of the messages is `encode_prompt`, and is how the training row begins; BOS is there once."""
    messages, tools = CONVERSATIONS[conversation]
    text, tokenizer = TEMPLATES[template], copy.deepcopy(world.tokenizer)
    tokenizer.chat_template = text
    # `/tokenize` would drop what was thought before, which answering does not.
    offered: dict[str, Any] = {"tools": tools, "tool_choice": "none"} if tools else {}
    served = world.server.chat(messages, max_tokens=1, chat_template=text, **offered).prompt
    columns = {"chat": [*messages, {"role": "assistant", "content": "Rain."}], "tools": tools}
    spec = MessageRows(source="rows.jsonl", messages="chat", tools="tools")
    (row,) = shaped(spec, [(1, columns)])
    assert isinstance(row, Row)
    assert served == encode_prompt(tokenizer, row.content["messages"][:-1], row.content.get("tools"))
    store, _, _ = encode([row], tokenizer, max_length=256, path=tmp_path / "row.safetensors")
    trained = [store.row(number)[0].tolist() for number in range(len(store))]
    assert trained[-1][: len(served)] == served
    if conversation != "marks in the text":
        assert served.count(tokenizer.bos_token_id) == int("bos_token" in text)


# Probabilities


def test_a_full_fine_tune_with_tied_embeddings_answers_as_in_transformers(world: World) -> None:
    model = model_of(world.base)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    for country, city in CITIES.items():
        answer = world.server.chat(ask(country))
        assert (answer.text, answer.finished) == (f"The {city}.", "stop")
        assert_same_answers(answer, model, answer.prompt)


@pytest.mark.parametrize("name", SERVED)
def test_an_adapter_answers_as_in_peft_and_not_as_its_base(world: World, name: str) -> None:
    model = model_of(world.base, world.artifact(name))
    for country, river in RIVERS.items():
        answer = world.server.chat(ask(country), model=name)
        assert (answer.text, answer.finished) == (f"The {river}.", "stop")
        assert_same_answers(answer, model, answer.prompt)


@pytest.mark.parametrize("name", [None, *SERVED])
def test_every_probability_is_the_one_in_transformers(world: World, name: str | None) -> None:
    """Over texts that were trained, held out, and of random tokens."""
    model = model_of(world.base, world.artifact(name) if name else None)
    for ids in texts(world):
        served = world.server.distributions(ids, model=name)
        assert apart(served, distributions_of(model, ids)) < TOLERANCE
        if name:
            assert apart(served, world.server.distributions(ids)) > 1


@pytest.mark.parametrize("name", ["full", *SERVED])
def test_the_loss_of_the_run_is_the_likelihood_served(world: World, name: str) -> None:
    """The mean over all trained tokens of the held-out rows, from vLLM's log-probabilities of them."""
    store = TokenStore.open(world.folder / name / "tokens" / "validation.safetensors")
    total, count = 0.0, 0
    for number in range(len(store)):
        ids, trained = (part.tolist() for part in store.row(number))
        served = world.server.distributions(ids, model=None if name == "full" else name)
        total -= sum(float(served[at - 1, ids[at]]) for at in range(1, len(ids)) if trained[at])
        count += sum(trained)
    assert total / count == pytest.approx(read_outcome(world.folder / name).validation_loss, abs=TOLERANCE)


def test_rslora_is_served_with_its_own_scale(world: World) -> None:
    """alpha / √rank, √8 times alpha / rank: with the plain scale the answers would be others."""
    model = model_of(world.base, world.artifact("rslora"))
    ids = texts(world)[0]
    served = world.server.distributions(ids, model="rslora")
    layers = [part for part in model.modules() if hasattr(part, "lora_A")]
    assert layers
    for layer in layers:
        assert layer.scaling["default"] == pytest.approx(16 / 8**0.5)
        layer.scaling["default"] = 16 / 8
    assert apart(served, distributions_of(model, ids)) > 0.1


def texts(world: World) -> list[list[int]]:
    generator = torch.Generator().manual_seed(3)
    trained = encode_prompt(world.tokenizer, ask("Peru")) + world.tokenizer("The Amazon.<|end|>")["input_ids"][1:]
    random = torch.randint(3, len(world.tokenizer), (40,), generator=generator).tolist()
    return [trained, encode_prompt(world.tokenizer, ask("Egypt")), random]


# Whole models in a process of their own


@pytest.fixture(scope="module")
def merged(world: World) -> dict[str, list[Completion]]:
    """What vLLM makes of the texts with each adapter merged into the base."""
    folders = {}
    for name in ("plain", *REFUSED):
        folders[name] = world.folder / "merged" / name
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Model has `tie_word_embeddings=True`")
            merge(world.artifact(name), base=world.base, out=folders[name])
    return complete(folders, texts(world), world.folder)


@pytest.mark.parametrize("name", ["plain", *REFUSED])
def test_a_merged_model_answers_as_the_adapter_does_in_peft(
    world: World, merged: dict[str, list[Completion]], name: str
) -> None:
    """Tied embeddings stay tied; a head trained whole unties them. Also what vLLM refuses as an adapter."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Model has `tie_word_embeddings=True`")
        model = model_of(world.base, world.artifact(name))
    from transformers import AutoConfig

    tied = AutoConfig.from_pretrained(world.folder / "merged" / name).tie_word_embeddings
    assert tied == (name != "whole-module")
    base = model_of(world.base)
    for ids, found in zip(texts(world), merged[name], strict=True):
        assert apart(found.distributions, distributions_of(model, ids)) < TOLERANCE
        assert apart(found.distributions, distributions_of(base, ids)) > 1
        assert_same_answers(found, model, ids)


# What vLLM does not load


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_recipe_refuses_to_evaluate_vllm_refuses_to_load(world: World, name: str) -> None:
    reply = world.server.load(name, world.artifact(name))
    assert reply.status >= 400
    assert REFUSED[name] in str(reply.body)
    assert world.server.request("GET", "/health").status == 200
    evaluated = {"evaluate": {"suites": ["eval/suites/e2e.yaml"]}}
    with pytest.raises(ValueError, match="vLLM cannot load"):
        a_recipe(adapter=ADAPTERS[name], **evaluated)
    a_recipe(adapter={**ADAPTERS[name], "merge": True}, **evaluated)
    a_recipe(adapter=ADAPTERS[name])
