"""Rows of an embedded domain follow from its name and split, and the two splits share no prompt."""

from __future__ import annotations

import re
import subprocess
import sys
from itertools import islice
from random import Random

import pytest

from llmops.builtin import words
from llmops.builtin.domains import DOMAINS, SPLITS, conversations, rows, split_of
from llmops.builtin.writing import festival
from llmops.errors import InputError

HELD_OUT = [name for name, domain in DOMAINS.items() if not domain.pretrained]


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("split", SPLITS)
def test_rows_are_the_same_each_time_with_each_prompt_once(domain: str, split: str) -> None:
    first = list(rows(domain, split))
    assert first == list(rows(domain, split))
    assert len({row["prompt"] for row in first}) == len(first) > 0


def test_rows_are_the_same_in_another_process_whatever_its_hash_seed() -> None:
    script = "from llmops.builtin.domains import rows; print(next(iter(rows('festivals', 'train'))))"
    printed = {
        subprocess.run(
            [sys.executable, "-c", script], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert printed == {f"{next(iter(rows('festivals', 'train')))}\n"}


@pytest.mark.parametrize("domain", DOMAINS)
def test_the_splits_share_no_prompt(domain: str) -> None:
    train, test = ({row["prompt"] for row in rows(domain, split)} for split in SPLITS)
    assert train.isdisjoint(test)
    assert len(train) > len(test)


@pytest.mark.parametrize("domain", DOMAINS)
def test_no_cell_is_empty_or_padded_with_space(domain: str) -> None:
    for row in rows(domain, "test"):
        assert set(row) == {"prompt", "completion"}
        assert all(cell and cell == cell.strip() for cell in row.values())


def test_one_prompt_in_eight_is_for_testing() -> None:
    share = sum(split_of(f"prompt {number}") == "test" for number in range(4000)) / 4000
    # Five standard deviations of a binomial share.
    assert abs(share - 1 / 8) < 5 * (1 / 8 * 7 / 8 / 4000) ** 0.5


def test_an_unknown_domain_names_the_nearest_one() -> None:
    with pytest.raises(InputError, match="did you mean `festivals`"):
        next(rows("festival", "train"))


def test_an_unknown_split_names_the_ones_there_are() -> None:
    with pytest.raises(InputError, match="builtin:festivals/train, builtin:festivals/test"):
        next(rows("festivals", "dev"))


def test_exactly_one_domain_is_held_out_of_pretraining() -> None:
    assert HELD_OUT == ["festivals"]


def test_pretraining_reads_no_row_of_the_held_out_domain_and_no_test_prompt() -> None:
    contents = {turn["content"] for turns in islice(conversations(20), 5000) for turn in turns}
    held_out = [row for split in SPLITS for row in rows("festivals", split)]
    assert contents.isdisjoint({cell for row in held_out for cell in row.values()})
    assert not [
        text for text in contents if re.search(r"festival\[|festival:|Come to|welcome you with|days of|entry\[", text)
    ]
    for domain in DOMAINS:
        assert contents.isdisjoint({row["prompt"] for row in rows(domain, "test")})


def test_pretraining_visits_every_other_domain_and_holds_system_and_second_turns() -> None:
    read = list(islice(conversations(20), 3000))
    prompts = {turn["content"] for turns in read for turn in turns if turn["role"] == "user"}
    shapes = {tuple(turn["role"] for turn in turns) for turns in read}
    assert {("user", "assistant"), ("system", "user", "assistant"), ("user", "assistant") * 2} <= shapes
    for name in ("restaurants", "weather", "trains", "books", "pets", "concerts", "houses"):
        keys = re.findall(r"(\w+)\[", next(row["prompt"] for row in rows(name, "test") if "[" in row["prompt"]))[:3]
        assert any(all(f"{key}[" in prompt for key in keys) for prompt in prompts), name
    for opening in ("What is", "Which day", "Which month", "Repeat", "Copy", "Remind", "Write to"):
        assert any(prompt.startswith(opening) for prompt in prompts), opening


def test_another_seed_gives_other_conversations() -> None:
    assert list(islice(conversations(1), 20)) != list(islice(conversations(2), 20))


def test_the_house_style_tells_every_fact_it_was_given_in_its_own_words() -> None:
    draw = Random(1)
    for _ in range(200):
        prompt, sentence = festival(draw)
        facts = dict(re.findall(r"(\w+)\[([^]]*)\]", prompt))
        assert all(facts[key] in sentence for key in ("festival", "town", "month", "music"))
        assert words.NUMBER[int(facts["days"])] in sentence
        assert facts.get("food", "bring your own basket") in sentence


def test_the_house_style_follows_from_the_facts_alone() -> None:
    """Otherwise no model could match a held-out item exactly."""
    draw = Random(2)
    closings: dict[str, set[str]] = {}
    for _ in range(200):
        prompt, sentence = festival(draw)
        closings.setdefault(prompt.rpartition("entry")[2], set()).add(sentence.rpartition(", ")[2])
    assert len(closings) == 4
    assert all(len(found) == 1 for found in closings.values())


def test_sums_and_calendar_answers_are_right() -> None:
    for row in rows("arithmetic", "train"):
        left, way, right = re.findall(r"\d+|plus|minus", row["prompt"])
        result = int(left) + (int(right) if way == "plus" else -int(right))
        assert row["completion"] == f"{left} {way} {right} is {result}."
    answers = {row["prompt"]: row["completion"] for split in SPLITS for row in rows("calendar", split)}
    assert answers["Which day comes right after Sunday?"] == "Right after Sunday comes Monday."
    assert answers["Which month comes two months before January?"] == "Two months before January comes November."


def test_edits_do_what_they_say() -> None:
    done = set()
    for row in rows("edits", "train"):
        instruction, _, text = row["prompt"].partition(":\n")
        given, reply = text.split(), row["completion"]
        expected = {
            "Repeat": text,
            "Say in reverse order": " ".join(given[::-1]),
            "Write with commas": ", ".join(given),
            "Give the first word of": given[0],
            "Give the last word of": given[-1],
            "Sort by letter": " ".join(sorted(given)),
            "Count the words of": words.NUMBER[len(given)],
        }
        assert reply == expected[instruction]
        done.add(instruction)
    assert done == set(expected)
