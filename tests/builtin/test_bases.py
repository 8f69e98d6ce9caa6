"""An embedded base is made once, whole or not at all, and the same bytes each time."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pytest

from llmops.builtin.bases import base, make, shape
from llmops.builtin.definition import Definition
from llmops.errors import EnvironmentFault, InputError
from llmops.files import folder_digest

# Making one takes seconds: what one making shows is looked at from several sides, all in one worker.
pytestmark = pytest.mark.xdist_group("bases")


@dataclass(frozen=True)
class Making:
    """A base that was made where a killed process had left its half, and what its caller saw."""

    folder: Path
    said: list[tuple[int, int, str]]
    drawn: tuple[list[float], list[float]]
    """Random numbers of a caller that makes no base meanwhile, and of the one that did."""
    abandoned: Path


@pytest.fixture(scope="module")
def making(short: Definition, tmp_path_factory: pytest.TempPathFactory) -> Making:
    import torch

    cache = tmp_path_factory.mktemp("cache")
    abandoned = cache / "builtin" / f".{short.name}-{short.digest()[:16]}.new.abc"
    abandoned.mkdir(parents=True)
    (abandoned / "model.safetensors").write_bytes(b"half")
    said: list[tuple[int, int, str]] = []
    torch.manual_seed(1)
    expected = torch.rand(3).tolist()
    torch.manual_seed(1)
    folder = make(short, cache=cache, on_progress=lambda *one: said.append(one))
    return Making(folder, said, (expected, torch.rand(3).tolist()), abandoned)


@pytest.fixture(scope="module")
def made(making: Making) -> Path:
    return making.folder


class Stop(Exception):
    """Raised by a progress callback, as an interrupt would be."""


@dataclass(frozen=True)
class Together:
    """What two callers printed who asked for the same base at the same time, in another cache.

    Attributes:
        left: by a making there that was interrupted before, but for locks.
    """

    cache: Path
    left: list[Path]
    said: list[list[str]]


@pytest.fixture(scope="module")
def together(short: Definition, tmp_path_factory: pytest.TempPathFactory) -> Together:
    cache = tmp_path_factory.mktemp("together")

    def stop(done: int, total: int, what: str) -> None:
        if done == 1:
            raise Stop

    with pytest.raises(Stop):
        make(short, cache=cache, on_progress=stop)
    left = [path for path in (cache / "builtin").iterdir() if path.suffix != ".lock"]
    command = [sys.executable, "-c", CALLER, json.dumps(asdict(short)), str(cache)]
    callers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [caller.communicate()[0].splitlines() for caller in callers]
    assert [caller.returncode for caller in callers] == [0, 0]
    return Together(cache, left, said)


CALLER = """
import resource; before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
import json, sys
from pathlib import Path
from llmops.builtin.bases import make
from llmops.builtin.definition import Definition

made = make(Definition(**json.loads(sys.argv[1])), cache=Path(sys.argv[2]), on_progress=lambda done, *_: print(done))
print(made)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


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


def test_making_it_again_gives_the_same_bytes(made: Path, together: Together) -> None:
    again = Path(together.said[0][-2])
    assert again.is_relative_to(together.cache)
    assert folder_digest(again) == folder_digest(made)


def test_another_seed_gives_another_model(made: Path, short: Definition, tmp_path: Path) -> None:
    other = make(replace(short, seed=short.seed + 1), cache=tmp_path)
    assert other.name != made.name
    assert folder_digest(other, suffixes=(".safetensors",)) != folder_digest(made, suffixes=(".safetensors",))


def test_the_callers_random_numbers_go_on_undisturbed(making: Making) -> None:
    expected, found = making.drawn
    assert found == expected


def test_a_second_call_makes_nothing(made: Path, short: Definition) -> None:
    heard: list[int] = []
    again = make(short, cache=made.parents[1], on_progress=lambda done, total, what: heard.append(done))
    assert again == made
    assert not heard


def test_progress_counts_to_the_last_step_and_says_what_is_made(making: Making, short: Definition) -> None:
    assert [(done, total) for done, total, _ in making.said] == [(done, short.steps) for done in range(short.steps + 1)]
    assert {what for *_, what in making.said} == {"pre-training builtin:tiny"}


def test_interrupted_it_leaves_nothing_and_can_be_made_afterwards(together: Together) -> None:
    assert together.left == []
    assert (Path(together.said[0][-2]) / "model.safetensors").is_file()


def test_what_a_killed_process_left_is_removed(making: Making) -> None:
    assert not making.abandoned.exists()
    assert (making.folder / "model.safetensors").stat().st_size > 4


def test_callers_at_the_same_time_make_it_once(together: Together, short: Definition) -> None:
    counted = sorted(said[:-2] for said in together.said)
    assert counted == [[], [str(done) for done in range(short.steps + 1)]]
    assert len(list((together.cache / "builtin").glob("tiny-*"))) == 1


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


def test_the_callers_memory_does_not_grow_by_pre_training(together: Together) -> None:
    assert all(int(said[-1]) < 50 for said in together.said), "MiB"
