"""With real vLLM: adapters share a base, are swapped under load, and neither a crash nor a kill leaves anything."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from llmops.data.chat import encode_prompt
from tests.eval.lively_models import small_adapter, small_llama
from tests.real_vllm import WITH_VLLM
from tests.serve.real_fleet import PROMPT, TOKENS
from tests.serve.test_guard import alive, all_end

pytestmark = WITH_VLLM

ROOT = Path(__file__).parents[2]


def adapters(base: Path, folder: Path) -> list[Path]:
    """Three that say different things: their matrices are multiples of each other's."""
    from safetensors.torch import load_file, save_file

    found = []
    for number, factor in enumerate((1.0, -1.0, 0.5)):
        one = small_adapter(base, folder / f"adapter{number}")
        file = one / "adapter_model.safetensors"
        scaled = {name: tensor * (factor if "lora_B" in name else 1) for name, tensor in load_file(file).items()}
        save_file(scaled, file)
        found.append(one)
    return found


def likeliest(base: Path, adapter: Path) -> list[int]:
    """The prompt as in training, and what transformers and peft write after it, token by token."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), str(adapter))
    ids = encode_prompt(tokenizer, [{"role": "user", "content": PROMPT}])
    assert ids.count(tokenizer.bos_token_id) == 1
    written = model.generate(input_ids=torch.tensor([ids]), max_new_tokens=TOKENS, eos_token_id=-1, do_sample=False)
    found: list[int] = written[0].tolist()
    return found


def test_two_adapters_on_one_base_through_a_swap_a_crash_and_a_kill(tmp_path: Path) -> None:
    base = small_llama(tmp_path / "base")
    first, second, other = adapters(base, tmp_path)
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "tests.serve.real_fleet", str(tmp_path / "home"), first, second, other],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    ) as fleet:
        assert fleet.stdout is not None

        def next_fact() -> dict[str, Any]:
            assert fleet.stdout is not None
            fact: dict[str, Any] = json.loads(fleet.stdout.readline())
            return fact

        try:
            start = next_fact()
            assert start["ready"], start["said"]
            assert start["shared"]
            assert any("weights loaded in" in line for line in start["said"])
            said = next_fact()
            for engine, adapter in (("x", first), ("y", other)):
                assert_same(said[engine], likeliest(base, adapter))

            swap = next_fact()
            assert (swap["failed"], swap["mixed"], swap["starts"]) == ([], [], 1)
            assert set(swap["models"]) == set(swap["names"].values())
            assert len(set(swap["names"].values())) == 3
            assert_same(swap["x"], likeliest(base, second))

            crash = next_fact()
            assert (crash["left"], crash["starts"]) == ([], 2)
            assert crash["x"]["ids"] == swap["x"]["ids"]

            processes = next_fact()["processes"]
            assert len(processes) >= 3  # guard, server and engine core
            assert all(map(alive, processes))
        finally:
            fleet.kill()
    assert all_end(processes)


def assert_same(said: dict[str, Any], wanted: list[int]) -> None:
    """The tokens of training in, one BOS among them, and the same out; two implementations of the same sums in 32
    bits may part late, where two tokens are nearly as likely."""
    asked = len(said["prompt"])
    assert said["prompt"] == wanted[:asked]
    assert said["ids"][:8] == wanted[asked : asked + 8]
    assert len(said["ids"]) == TOKENS
