"""A batch answers each row exactly once and in order, whatever interrupts it, and says what failed."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmops.errors import EnvironmentFault, FileFaults, InputError
from llmops.events import Listener, Silent
from llmops.lifecycle.batch import Batched, Outcome, batch
from llmops.lifecycle.batch_input import Form, Request, scan
from llmops.lifecycle.batch_journal import Journal

FORM = Form("m")


class Stopped(Exception):
    """Stands for whatever ends a process."""


class Echo:
    """Answers with the prompt, in another order, a few at a time; ends after `stop` results."""

    identity: Mapping[str, Any] = {"through": "echo"}

    def __init__(self, *, stop: int | None = None, fails: Callable[[str], bool] = lambda text: False) -> None:
        self.stop = stop
        self.fails = fails
        self.asked: list[str] = []

    def allowed(self, request: Request) -> str | None:
        return "too cold" if request.body.get("temperature") == -1 else None

    def __call__(self, requests: Iterator[Request], keep: Callable[[Outcome], None], listener: Listener) -> None:
        draw, held = random.Random(0), list[Request]()
        for request in requests:
            held.append(request)
            if len(held) == 4:
                self._answer(held.pop(draw.randrange(4)), keep)
        for request in held:
            self._answer(request, keep)

    def _answer(self, request: Request, keep: Callable[[Outcome], None]) -> None:
        if self.stop is not None and len(self.asked) >= self.stop:
            raise Stopped
        text = request.body["messages"][-1]["content"]
        self.asked.append(text)
        if self.fails(text):
            keep(Outcome(request, 400, {"error": {}}, {"code": "bad", "message": "no"}))
            return
        keep(Outcome(request, 200, completion(f"to {text}", prompt=len(text)), None, f"r-{request.row}"))


def completion(text: str, *, prompt: int = 3) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return {"choices": [choice], "usage": {"prompt_tokens": prompt, "completion_tokens": 2}}


def openai_row(name: str, text: str, **body: Any) -> dict[str, Any]:
    turns = [{"role": "user", "content": text}]
    return {
        "custom_id": name,
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {"model": "gpt", "messages": turns, **body},
    }


def written(file: Path, rows: list[dict[str, Any]]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def run(source: Path, output: Path, ask: Echo | None = None, form: Form = FORM, **options: Any) -> Batched:
    return batch(source, output, form, ask or Echo(), listener=Silent(), **options)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return written(tmp_path / "in.jsonl", [openai_row(f"id-{number}", f"q{number}") for number in range(25)])


# What comes out.


def test_openais_format_comes_out_in_openais_format_in_the_order_of_the_input(source: Path, tmp_path: Path) -> None:
    done = run(source, tmp_path / "out.jsonl")
    out = lines(tmp_path / "out.jsonl")
    assert [line["custom_id"] for line in out] == [f"id-{number}" for number in range(25)]
    assert {tuple(line) for line in out} == {("id", "custom_id", "response", "error")}
    assert len({line["id"] for line in out}) == 25
    third = out[3]["response"]
    assert (third["status_code"], third["request_id"], out[3]["error"]) == (200, "r-3", None)
    assert third["body"]["choices"][0]["message"]["content"] == "to q3"
    assert (done.rows, done.failed) == (25, 0)
    # 10 one-figure and 15 two-figure numbers after the q.
    assert (done.prompt_tokens, done.completion_tokens) == (10 * 2 + 15 * 3, 50)


def test_the_model_named_is_asked_whatever_a_row_says(source: Path) -> None:
    from llmops.lifecycle.batch_input import requests_in

    assert {request.body["model"] for request in requests_in(scan(source, FORM), FORM)} == {"m"}


ROWS: list[dict[str, Any]] = [{"n": 1, "q": 'one, "two"\nthree', "x": 0.5}, {"n": 2, "q": "é😀", "x": None}]


@pytest.mark.parametrize("into", ["out.jsonl", "out.csv", "out.parquet"])
@pytest.mark.parametrize("source", ["in.jsonl", "in.csv", "in.parquet"])
def test_rows_of_columns_keep_their_columns_and_get_those_of_the_answer(tmp_path: Path, source: str, into: str) -> None:
    import pandas as pd  # type: ignore[import-untyped]
    import pyarrow as pa
    import pyarrow.parquet as pq

    file, output = tmp_path / source, tmp_path / into
    if source == "in.jsonl":
        written(file, ROWS)
    elif source == "in.csv":
        pd.DataFrame(ROWS).to_csv(file, index=False)
    else:
        pq.write_table(pa.Table.from_pylist(ROWS), file)
    run(file, output, form=Form("m", prompt="Say {q}!"))
    if into == "out.jsonl":
        frame = pd.DataFrame(lines(output))
    else:
        frame = pd.read_csv(output) if into == "out.csv" else pq.read_table(output).to_pandas()
    assert list(frame.columns) == [
        *("n", "q", "x", "answer", "answer_finish_reason"),
        *("answer_prompt_tokens", "answer_completion_tokens", "answer_error"),
    ]
    assert list(frame["answer"]) == [f"to Say {row['q']}!" for row in ROWS]
    assert [int(value) for value in frame["n"]] == [1, 2]
    assert list(frame["q"]) == [row["q"] for row in ROWS]
    if source == into.replace("out", "in") == "in.parquet":
        assert pq.read_schema(output).field("x").type == pa.float64()


def test_a_column_of_messages_is_asked_as_it_stands(tmp_path: Path) -> None:
    turns = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    file = tmp_path / "in.csv"
    with file.open("w", newline="") as opened:
        csv.writer(opened).writerows([["messages"], [json.dumps(turns)]])
    run(file, tmp_path / "out.jsonl", form=Form("m", max_tokens=7, temperature=0.0))
    assert lines(tmp_path / "out.jsonl")[0]["answer"] == "to u"
    from llmops.lifecycle.batch_input import requests_in

    form = Form("m", max_tokens=7, temperature=0.0)
    (request,) = requests_in(scan(file, form), form)
    assert request.body == {"model": "m", "messages": turns, "max_tokens": 7, "temperature": 0.0}


def test_openais_format_can_be_kept_as_a_table(source: Path, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    run(source, tmp_path / "out.parquet")
    table = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert [row["custom_id"] for row in table] == [f"id-{number}" for number in range(25)]
    assert json.loads(table[4]["response"])["body"]["choices"][0]["message"]["content"] == "to q4"


def test_text_that_no_file_can_hold_does_not_end_a_batch(tmp_path: Path) -> None:
    source = written(tmp_path / "in.jsonl", [{"q": "half \ud800"}])
    for end in ("jsonl", "csv", "parquet"):
        run(source, tmp_path / f"out.{end}", form=Form("m", prompt="q"))
    assert lines(tmp_path / "out.jsonl")[0]["answer"] == "to half \ud800"


# What interrupts it.


@settings(max_examples=25, deadline=None)
@given(stops=st.lists(st.integers(0, 9), max_size=6), torn=st.integers(0, 40))
def test_after_any_interruption_each_row_has_one_line_and_nothing_was_asked_twice(
    tmp_path_factory: pytest.TempPathFactory, stops: list[int], torn: int
) -> None:
    folder = tmp_path_factory.mktemp("batch")
    source = written(folder / "in.jsonl", [openai_row(f"id-{number}", f"q{number}") for number in range(20)])
    asked: list[str] = []
    cut = 0
    for stop in stops:
        ask = Echo(stop=stop)
        with suppress(Stopped):
            run(source, folder / "out.jsonl", ask)
        asked += ask.asked
        journal = folder / "out.jsonl.journal"
        if torn and journal.exists():  # as a power cut would leave it: the last line in part
            content = journal.read_bytes()
            ends = content.rstrip(b"\n").rfind(b"\n") + 1
            cut += b'"row"' in content[ends:]
            journal.write_bytes(content[: min(len(content) - 1, ends + torn)])
    last = Echo()
    run(source, folder / "out.jsonl", last)
    assert [line["custom_id"] for line in lines(folder / "out.jsonl")] == [f"id-{number}" for number in range(20)]
    assert len(asked + last.asked) == 20 + cut
    assert not (folder / "out.jsonl.journal").exists()


def test_what_a_kill_left_is_removed_and_nothing_of_others(source: Path, tmp_path: Path) -> None:
    own, others = tmp_path / ".out[1]*.jsonl.abcdefgh", tmp_path / ".out1-2.jsonl.abcdefgh"
    own.touch()
    others.touch()
    run(source, tmp_path / "out[1]*.jsonl")
    assert (own.exists(), others.exists()) == (False, True)


def test_nothing_stands_at_the_output_before_all_is_answered(source: Path, tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        run(source, tmp_path / "out.jsonl", Echo(stop=24))
    assert not (tmp_path / "out.jsonl").exists()


def test_a_finished_batch_asks_nothing_when_called_again(source: Path, tmp_path: Path) -> None:
    first, again = run(source, tmp_path / "out.jsonl"), Echo()
    assert run(source, tmp_path / "out.jsonl", again) == first
    assert again.asked == []


@pytest.mark.parametrize("finished", [True, False])
def test_another_batch_with_the_same_output_is_refused_with_what_differs(
    source: Path, tmp_path: Path, finished: bool
) -> None:
    output = tmp_path / "out.jsonl"
    if finished:
        run(source, output)
    else:
        with pytest.raises(Stopped):
            run(source, output, Echo(stop=3))
    with pytest.raises(InputError, match=r"model \('m' then, 'other' now\)"):
        run(source, output, form=Form("other"))
    written(source, [openai_row("new", "q")])
    with pytest.raises(InputError, match="the input file"):
        run(source, output)


def test_a_file_that_no_batch_left_is_not_written_over(source: Path, tmp_path: Path) -> None:
    (tmp_path / "out.jsonl").write_text("mine")
    with pytest.raises(InputError, match="no batch left it"):
        run(source, tmp_path / "out.jsonl")
    assert (tmp_path / "out.jsonl").read_text() == "mine"


def test_two_processes_do_not_work_on_one_output(source: Path, tmp_path: Path) -> None:
    with Journal(tmp_path / "out.jsonl.journal", {}, 1), pytest.raises(EnvironmentFault, match="another process"):
        run(source, tmp_path / "out.jsonl")


def test_the_time_of_all_processes_is_what_it_cost(source: Path, tmp_path: Path) -> None:
    class Clock:
        now = 0.0

        def __call__(self) -> float:
            return self.now

    clock = Clock()

    class Slow(Echo):
        def _answer(self, request: Request, keep: Callable[[Outcome], None]) -> None:
            clock.now += 36.0
            super()._answer(request, keep)

    done = run(source, tmp_path / "out.jsonl", Slow(), usd_per_hour=2.0, clock=clock)
    assert done.seconds == 25 * 36.0
    assert done.usd == pytest.approx(25 * 36.0 / 3600 * 2.0)


# What fails.


def test_a_failure_is_an_error_line_that_can_be_asked_again(source: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    done = run(source, output, Echo(fails=lambda text: text in ("q3", "q7")))
    assert done.failed == 2
    out = lines(output)
    assert out[3] == {
        "id": out[3]["id"],
        "custom_id": "id-3",
        "response": {"status_code": 400, "request_id": out[3]["id"], "body": {"error": {}}},
        "error": {"code": "bad", "message": "no"},
    }
    same, again = Echo(), Echo()
    assert run(source, output, same).failed == 2
    assert same.asked == []
    assert run(source, output, again, retry_failed=True).failed == 0
    assert again.asked == ["q3", "q7"]
    assert [line["error"] for line in lines(output)] == [None] * 25


def test_a_row_of_columns_that_failed_says_why_in_its_column(tmp_path: Path) -> None:
    source = written(tmp_path / "in.jsonl", [{"q": "a"}, {"q": "b"}])
    run(source, tmp_path / "out.jsonl", Echo(fails=lambda text: text == "b"), form=Form("m", prompt="q"), answer="said")
    first, second = lines(tmp_path / "out.jsonl")
    assert (first["said"], first["said_error"]) == ("to a", None)
    assert (second["said"], second["said_error"]) == (None, "bad: no")


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        pytest.param([openai_row("a", "x"), openai_row("b", "x"), openai_row("a", "y")], "line 3: .*'a' stood there"),
        pytest.param([openai_row("a", "x"), {"custom_id": 5, "body": {}}], "line 2: custom_id"),
        pytest.param([openai_row("a", "x") | {"method": "GET"}], "method: 'GET'"),
        pytest.param([openai_row("a", "x") | {"url": "/v1/chat"}], "url: '/v1/chat'"),
        pytest.param([openai_row("a", "x", stream=True)], "stream"),
        pytest.param([openai_row("a", "x", temperature=-1)], "too cold"),
        pytest.param([openai_row("a", "x") | {"body": "{"}], "body"),
        pytest.param([{"messages": "hello"}], "messages"),
        pytest.param([{"text": "hello"}], "--prompt text"),
    ],
)
def test_a_file_at_fault_is_refused_with_its_lines_before_anything_is_asked(
    tmp_path: Path, rows: list[dict[str, Any]], problem: str
) -> None:
    ask = Echo()
    with pytest.raises(InputError, match=problem):
        run(written(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl", ask)
    assert ask.asked == []


def test_all_faults_are_told_at_once(tmp_path: Path) -> None:
    rows = [openai_row("a", "x", stream=True), openai_row("b", "x"), openai_row("", "x")]
    with pytest.raises(FileFaults) as found:
        run(written(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl")
    assert [fault.line for fault in found.value.faults] == [1, 3]


@pytest.mark.parametrize(
    ("output", "answer", "problem"),
    [("in.jsonl", "answer", "is the input"), ("out.txt", "answer", "ending"), ("out.csv", "q", "--answer")],
)
def test_an_output_that_could_not_be_written_is_refused_at_once(
    tmp_path: Path, output: str, answer: str, problem: str
) -> None:
    source = written(tmp_path / "in.jsonl", [{"q": "a"}])
    with pytest.raises(InputError, match=problem):
        run(source, tmp_path / output, form=Form("m", prompt="q"), answer=answer)


def test_a_disk_that_is_full_loses_no_result_and_leaves_no_half_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    real, left = os.write, [300]

    def fill(journal: Journal) -> None:
        for row in range(50):
            journal.add(row, {"n": row}, failed=False)

    def write(handle: int, content: bytes) -> int:
        if left[0] <= 0:
            raise OSError(28, "No space left on device")
        some = content[: left[0]]
        left[0] -= len(some)
        return real(handle, some)

    with Journal(tmp_path / "j", {"a": 1}, 50) as journal:
        monkeypatch.setattr(os, "write", write)
        with pytest.raises(OSError, match="No space"):
            fill(journal)
        monkeypatch.undo()
        kept = journal.done
    assert 0 < kept < 50
    assert (tmp_path / "j").read_bytes().endswith(b"}\n")
    with Journal(tmp_path / "j", {"a": 1}, 50) as journal:
        assert [row in journal for row in range(50)] == [row < kept for row in range(50)]
        journal.add(kept, {"n": kept}, failed=False)
        assert journal.done == kept + 1
