"""Requests arrive by chance at the rate asked for, or as a trace says, and ask what was stated."""

from __future__ import annotations

import json
import math
import random
import statistics
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

from llmops.errors import InputError
from llmops.serve.arrivals import Lengths, Shot, Work, lengths, poisson, prompts_in, traced

WORK = Work("m", (), Lengths("fixed", 3), Lengths("fixed", 4))


def waits(shots: list[Shot], service: float) -> list[float]:
    """In the queue of one server, by Lindley's recursion."""
    found, free = [], 0.0
    for shot in shots:
        free = max(free, shot.at)
        found.append(free - shot.at)
        free += service
    return found


def test_times_between_arrivals_are_exponential_and_the_same_for_the_same_seed() -> None:
    shots = poisson(WORK, 40.0, 100.0, 1)
    assert [shot.at for shot in shots] == [shot.at for shot in poisson(WORK, 40.0, 100.0, 1)]
    assert [shot.at for shot in shots[:5]] != [shot.at for shot in poisson(WORK, 40.0, 100.0, 2)[:5]]
    between = [later.at - one.at for one, later in pairwise(shots)]
    assert stats.kstest(between, stats.expon(scale=1 / 40).cdf).pvalue > 0.01
    assert abs(len(shots) - 4000) < 4 * math.sqrt(4000)
    assert max(shot.at for shot in shots) < 100.0


@pytest.mark.parametrize("load", [0.3, 0.6])
def test_a_queue_they_are_put_into_waits_as_pollaczek_and_khinchine_say(load: float) -> None:
    """M/D/1: the mean wait is ρD / (2 (1 − ρ))."""
    service = 0.01
    shots = poisson(WORK, load / service, 600.0, 3)
    wanted = load * service / (2 * (1 - load))
    assert statistics.fmean(waits(shots, service)) == pytest.approx(wanted, rel=0.06)


@pytest.mark.parametrize(
    ("text", "mean", "deviation"),
    [
        ("128", 128, 0),
        ("uniform:50:200", 125, math.sqrt((151**2 - 1) / 12)),
        ("normal:100:20", 100, 20),
        ("lognormal:100:0.5", 100 * math.exp(0.125), 100 * math.exp(0.125) * math.sqrt(math.exp(0.25) - 1)),
    ],
)
def test_lengths_have_the_distribution_they_are_said_to_have(text: str, mean: float, deviation: float) -> None:
    chance = random.Random(5)
    drawn = [lengths(text).draw(chance) for _ in range(20_000)]
    assert statistics.fmean(drawn) == pytest.approx(mean, rel=0.015)
    assert statistics.pstdev(drawn) == pytest.approx(deviation, rel=0.03)
    assert min(drawn) >= 1


@pytest.mark.parametrize("text", ["", "0", "x", "uniform:9:3", "uniform:5", "normal:nan:1", "zipf:1:2", "1:2"])
def test_what_is_no_length_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(InputError, match="uniform:50:200"):
        lengths(text)


def test_made_up_prompts_have_their_words_and_share_no_more_than_asked() -> None:
    work = Work("m", (), Lengths("fixed", 30), Lengths("fixed", 9), shared=5, more={"temperature": 0})
    said = [shot.body["messages"][0]["content"].split() for shot in poisson(work, 10, 5, 1)]
    assert {len(words) for words in said} == {35}
    assert len({tuple(words[:5]) for words in said}) == 1
    assert len({tuple(words[5:]) for words in said}) == len(said)
    body = poisson(work, 10, 5, 1)[0].body
    assert (body["max_tokens"], body["temperature"], body["stream"]) == (9, 0, True)
    assert body["stream_options"] == {"include_usage": True}


TRACES: dict[str, Any] = {
    "t.jsonl": '{"at": 12.5}\n{"at": 10, "input": 4, "output": 2}\n{"at": 11}\n',
    "t.csv": (
        "TIMESTAMP,ContextTokens,GeneratedTokens\n2024-05-10 00:00:02.5000000,3,4\n2024-05-10 00:00:00,4,2\n"
        "2024-05-10 00:00:01,3,4\n"
    ),
}


@pytest.mark.parametrize("name", TRACES)
def test_a_trace_says_when_and_how_long_from_its_first_request_on(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(TRACES[name])
    shots = traced(WORK, tmp_path / name, 1)
    assert [shot.at for shot in shots] == pytest.approx([0.0, 1.0, 2.5])
    assert [len(shot.body["messages"][0]["content"].split()) for shot in shots] == [4, 3, 3]
    assert [shot.body["max_tokens"] for shot in shots] == [2, 4, 4]


@pytest.mark.parametrize(
    "text", ['{"when": 1}', '{"at": "soon"}', '{"at": 1, "input": 0}', '{"at": 1, "input": "x"}', ""]
)
def test_a_trace_that_does_not_say_so_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "t.jsonl").write_text(text)
    with pytest.raises(InputError):
        traced(WORK, tmp_path / "t.jsonl", 1)


def test_prompts_come_from_lines_or_columns(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "b"}]
    (tmp_path / "p.txt").write_text("a\n\nb\n")
    (tmp_path / "p.jsonl").write_text(json.dumps({"prompt": "a"}) + "\n" + json.dumps({"messages": turns}))
    wanted = [[{"role": "user", "content": "a"}], turns]
    assert prompts_in(tmp_path / "p.txt") == prompts_in(tmp_path / "p.jsonl") == wanted
    work = Work("m", wanted, Lengths("fixed", 3), Lengths("fixed", 4))
    assert {shot.body["messages"][0]["content"] for shot in poisson(work, 20, 2, 1)} == {"a", "b"}
    (tmp_path / "q.jsonl").write_text('{"text": "a"}')
    with pytest.raises(InputError, match="line 1"):
        prompts_in(tmp_path / "q.jsonl")
