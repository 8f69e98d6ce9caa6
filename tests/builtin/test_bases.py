"""An embedded base is made once, whole or not at all, and the same bytes each time."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from llmops.builtin.bases import base, make, shape
from llmops.builtin.definition import Definition
from llmops.errors import EnvironmentFault, InputError
from llmops.files import folder_digest


@pytest.fixture(scope="module")
def made(short: Definition, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(short, cache=tmp_path_factory.mktemp("cache"))


def test_transformers_loads_it_and_its_answer_can_end(made: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = AutoModelForCausalLM.from_pretrained(made), AutoTokenizer.from_pretrained(made)
    assert model.generation_config.eos_token_id == model.config.eos_token_id == tokenizer.eos_token_id
    assert model.generation_config.pad_token_id == tokenizer.pad_token_id != tokenizer.eos_token_id
    assert model.get_input_embeddings().num_embeddings == len(tokenizer)
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Repeat: cat dog"}], add_generation_prompt=True, return_tensors="pt"
    )["input_ids"]
    assert model.generate(ids, max_new_tokens=3).shape[1] > ids.shape[1]


def test_its_config_is_the_one_foretold(made: Path, short: Definition) -> None:
    written = json.loads((made / "config.json").read_text())
    assert {key: written[key] for key in short.config()} == short.config()


def test_making_it_again_gives_the_same_bytes(made: Path, short: Definition, tmp_path: Path) -> None:
    assert folder_digest(make(short, cache=tmp_path)) == folder_digest(made)


def test_another_seed_gives_another_model(made: Path, short: Definition, tmp_path: Path) -> None:
    other = make(replace(short, seed=short.seed + 1), cache=tmp_path)
    assert other.name != made.name
    assert folder_digest(other, suffixes=(".safetensors",)) != folder_digest(made, suffixes=(".safetensors",))


def test_the_callers_random_numbers_go_on_undisturbed(short: Definition, tmp_path: Path) -> None:
    import torch

    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    make(short, cache=tmp_path)
    assert torch.equal(torch.rand(3), expected)


def test_a_second_call_makes_nothing(made: Path, short: Definition) -> None:
    heard: list[int] = []
    again = make(short, cache=made.parents[1], on_progress=lambda done, total, what: heard.append(done))
    assert again == made
    assert not heard


def test_progress_counts_to_the_last_step_and_says_what_is_made(short: Definition, tmp_path: Path) -> None:
    heard: list[tuple[int, int, str]] = []
    make(short, cache=tmp_path, on_progress=lambda *said: heard.append(said))
    assert [(done, total) for done, total, _ in heard] == [(done, short.steps) for done in range(short.steps + 1)]
    assert {what for *_, what in heard} == {"pre-training builtin:tiny"}


class Stop(Exception):
    """Raised by a progress callback, as an interrupt would be."""


def test_interrupted_it_leaves_nothing_and_can_be_made_afterwards(
    made: Path, short: Definition, tmp_path: Path
) -> None:
    def stop(done: int, total: int, what: str) -> None:
        if done == 1:
            raise Stop

    with pytest.raises(Stop):
        make(short, cache=tmp_path, on_progress=stop)
    assert not [path for path in (tmp_path / "builtin").iterdir() if path.suffix != ".lock"]
    assert folder_digest(make(short, cache=tmp_path)) == folder_digest(made)


def test_what_a_killed_process_left_is_removed(short: Definition, tmp_path: Path) -> None:
    wanted = f"{short.name}-{short.digest()[:16]}"
    abandoned = tmp_path / "builtin" / f".{wanted}.new.abc"
    abandoned.mkdir(parents=True)
    (abandoned / "model.safetensors").write_bytes(b"half")
    folder = make(short, cache=tmp_path)
    assert not abandoned.exists()
    assert (folder / "model.safetensors").stat().st_size > 4


CALLER = """
import json, sys
from pathlib import Path
from llmops.builtin.bases import make
from llmops.builtin.definition import Definition

make(Definition(**json.loads(sys.argv[1])), cache=Path(sys.argv[2]), on_progress=lambda done, *_: print(done))
"""


def test_callers_at_the_same_time_make_it_once(short: Definition, tmp_path: Path) -> None:
    command = [sys.executable, "-c", CALLER, json.dumps(asdict(short)), str(tmp_path)]
    callers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [caller.communicate(timeout=200)[0] for caller in callers]
    assert [caller.returncode for caller in callers] == [0, 0]
    assert sorted(said) == ["", "".join(f"{done}\n" for done in range(short.steps + 1))]
    assert len(list((tmp_path / "builtin").glob("tiny-*"))) == 1


def test_an_unknown_name_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="builtin:tiny, builtin:small"):
        base("large", cache=tmp_path)
    assert not list(tmp_path.iterdir())
    with pytest.raises(InputError):
        shape("large")


def test_what_the_making_process_met_is_told_and_nothing_is_left(short: Definition, tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFault, match=r"pre-training builtin:tiny ended with status 1: .*heads"):
        make(replace(short, hidden=100, heads=3), cache=tmp_path)
    assert not [path for path in (tmp_path / "builtin").iterdir() if path.suffix != ".lock"]


def test_the_callers_memory_does_not_grow_by_pre_training(short: Definition, tmp_path: Path) -> None:
    script = (
        "import resource; before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        + CALLER
        + "\nprint((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)"
    )
    command = [sys.executable, "-c", script, json.dumps(asdict(short)), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout.splitlines()[-1]) < 50, "MiB"
