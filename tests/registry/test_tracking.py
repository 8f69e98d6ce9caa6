"""A tracker records a run in MLflow; a server that is down, slow or picky never stops, slows or fails training."""

from __future__ import annotations

import json
import math
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from llmops.registry.connection import connect
from llmops.registry.tracking import Tracker, Unsent
from llmops.workspace import Workspace
from tests.local_server import free_port
from tests.patience import HANG_S, once_in_three, wait_until

# MLflow's own use of SQLAlchemy.

PARAMS = {"seed": 17, "optimizer": {"learning_rate": 2e-3}, "data": {"train": [{"source": "a.csv"}], "tags": [1, 2]}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "run"


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


@pytest.fixture
def closed_port() -> int:
    return free_port()


def client_of(workspace: Workspace) -> Any:
    return connect(workspace.tracking_uri)


def tracked(workspace: Workspace, folder: Path, work: Callable[[Tracker], None] = lambda tracker: None) -> Unsent:
    tracker = Tracker(workspace, folder, every_s=0.05)
    tracker.start("first", "quickstart", PARAMS)
    work(tracker)
    return tracker.finish(deadline_s=HANG_S)


def test_everything_arrives_and_nothing_is_left(workspace: Workspace, folder: Path, tmp_path: Path) -> None:
    plot = tmp_path / "loss.png"
    plot.write_bytes(b"png")

    def work(tracker: Tracker) -> None:
        for step in range(1, 1201):  # more than one batch
            tracker.metrics(step, {"loss": 1 / step, "validation_loss": None})
        tracker.tags({"kind": "adapter"})
        tracker.document("reports/mask.json", {"rows": 3})
        tracker.artifact(plot, under="plots")

    unsent = tracked(workspace, folder, work)

    assert not unsent
    assert unsent.lines() == []
    client = client_of(workspace)
    run = client.get_run(unsent.run_id)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "first"
    assert run.data.params == {
        "seed": "17",
        "optimizer.learning_rate": "0.002",
        "data.train.0.source": "a.csv",
        "data.tags": "[1, 2]",
    }
    history = client.get_metric_history(unsent.run_id, "loss")
    assert {point.step: point.value for point in history} == {step: 1 / step for step in range(1, 1201)}
    assert "validation_loss" not in run.data.metrics
    assert run.data.tags["kind"] == "adapter"
    kept = Path(run.info.artifact_uri.removeprefix("file://"))
    assert json.loads((kept / "reports/mask.json").read_text()) == {"rows": 3}
    assert (kept / "plots/loss.png").read_bytes() == b"png"
    assert (workspace.home / "artifacts") in kept.parents


def test_nan_and_infinity_are_kept_and_do_no_harm(workspace: Workspace, folder: Path) -> None:
    unsent = tracked(workspace, folder, lambda tracker: tracker.metrics(1, {"a": math.nan, "b": math.inf, "c": 1.0}))
    assert not unsent
    metrics = client_of(workspace).get_run(unsent.run_id).data.metrics
    assert math.isnan(metrics["a"])
    assert metrics["b"] > 1e308
    assert metrics["c"] == 1.0


def test_a_long_parameter_is_cut_and_kept_whole_in_an_artifact(workspace: Workspace, folder: Path) -> None:
    tracker = Tracker(workspace, folder)
    tracker.start("first", "quickstart", {"text": "x" * 9000})
    unsent = tracker.finish()
    assert not unsent
    run = client_of(workspace).get_run(unsent.run_id)
    assert len(run.data.params["text"]) == 6000
    artifact = Path(run.info.artifact_uri.removeprefix("file://")) / "params.json"
    assert json.loads(artifact.read_text()) == {"text": "x" * 9000}


def test_credentials_in_addresses_are_not_recorded(workspace: Workspace, folder: Path) -> None:
    tracker = Tracker(workspace, folder)
    tracker.start("first", "quickstart", {"source": "s3://key:secret@host/rows.csv"})
    run = client_of(workspace).get_run(tracker.finish().run_id)
    assert run.data.params["source"] == "s3://host/rows.csv"


def test_a_resumed_run_goes_on_under_its_id(workspace: Workspace, folder: Path) -> None:
    first = Tracker(workspace, folder)
    first.start("first", "quickstart", PARAMS)
    first.metrics(1, {"loss": 3.0})
    killed = first.finish("KILLED")
    assert client_of(workspace).get_run(killed.run_id).info.status == "KILLED"

    resumed = tracked(workspace, folder, lambda tracker: tracker.metrics(2, {"loss": 2.0}))
    assert not resumed
    assert resumed.run_id == killed.run_id
    client = client_of(workspace)
    assert [point.value for point in client.get_metric_history(resumed.run_id, "loss")] == [3.0, 2.0]
    assert client.get_run(resumed.run_id).info.status == "FINISHED"


def test_the_id_can_be_waited_for_and_is_none_where_no_server_gives_one(
    workspace: Workspace, folder: Path, closed_port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker = Tracker(workspace, folder)
    assert tracker.wait_for_id() is None, "not begun"
    tracker.start("first", "quickstart", {})
    run_id = tracker.wait_for_id(within_s=60)
    assert run_id is not None
    assert tracker.finish().run_id == run_id

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{closed_port}")
    away = Tracker(workspace, tmp_path / "other")
    away.start("first", "quickstart", {})
    assert away.wait_for_id(within_s=60) is None
    assert away.finish()


def test_a_run_deleted_on_the_server_is_begun_anew(workspace: Workspace, folder: Path) -> None:
    first = tracked(workspace, folder)
    client_of(workspace).delete_run(first.run_id)
    second = tracked(workspace, folder)
    assert not second
    assert second.run_id not in (None, first.run_id)


def test_a_server_that_is_down_costs_nothing_and_what_is_unsent_is_named(
    workspace: Workspace, folder: Path, closed_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{closed_port}")

    def work(tracker: Tracker) -> None:
        for step in range(50):
            tracker.metrics(step, {"loss": 1.0})

    unsent = tracked(workspace, folder, work)
    assert unsent.run_id is None
    assert unsent.kept == {"start": 1, "params": 1, "metrics": 50, "finish": 1}
    assert unsent.file == folder / "unsent.jsonl"
    (line,) = unsent.lines()
    assert "50 metrics" in line
    assert "does not answer" in line
    assert str(folder) in line


def test_what_could_not_be_sent_is_sent_on_the_next_run(
    workspace: Workspace, folder: Path, closed_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as down:
        down.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{closed_port}")
        assert tracked(workspace, folder, lambda tracker: tracker.metrics(1, {"loss": 3.0}))
    with (folder / "unsent.jsonl").open("a") as file:
        file.write('{"kind": "metr')  # a kill while the file was written

    unsent = tracked(workspace, folder, lambda tracker: tracker.metrics(2, {"loss": 2.0}))

    assert not unsent
    assert not (folder / "unsent.jsonl").exists()
    history = client_of(workspace).get_metric_history(unsent.run_id, "loss")
    assert [point.value for point in history] == [3.0, 2.0]


def test_a_server_that_comes_back_during_the_run_gets_everything(
    workspace: Workspace, folder: Path, mlflow_stub: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = mlflow_stub()
    # Bound but not yet serving: the first attempts meet silence.
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    tracker = Tracker(workspace, folder, every_s=0.05, patience_s=1.0)
    tracker.start("first", "quickstart", PARAMS)
    tracker.metrics(1, {"loss": 3.0})
    wait_until((folder / "unsent.jsonl").exists)  # the first attempt has failed
    with server.running():
        tracker.metrics(2, {"loss": 2.0})
        unsent = tracker.finish()
    assert not unsent
    assert [value for _, value, _ in server.metrics] == [3.0, 2.0]
    assert server.runs_made == 1
    assert server.status == "FINISHED"


def test_a_server_that_never_answers_holds_up_neither_metrics_nor_the_end(
    workspace: Workspace, folder: Path, silent_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{silent_port}")
    folders = (folder.with_name(f"run{number}") for number in range(3))

    @once_in_three
    def never_held_up() -> None:
        folder = next(folders)
        tracker = Tracker(workspace, folder, every_s=0.01)
        tracker.start("first", "quickstart", PARAMS)
        took_s = []
        for step in range(200):
            begun = time.thread_time()
            tracker.metrics(step, {"loss": 1.0, "learning_rate": 1e-4})
            took_s.append(time.thread_time() - begun)
        begun = time.monotonic()
        unsent = tracker.finish(deadline_s=0.5)
        assert time.monotonic() - begun < 2.0
        assert sorted(took_s)[100] < 1e-3
        assert unsent.kept["metrics"] == 200
        assert len((folder / "unsent.jsonl").read_text().splitlines()) == sum(unsent.kept.values())
        assert "no answer" in unsent.lines()[0]

    never_held_up()


def test_one_refused_value_is_named_and_all_others_arrive(
    workspace: Workspace, folder: Path, mlflow_stub: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with mlflow_stub(refused="optimizer.learning_rate").running() as server:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
        unsent = tracked(workspace, folder, lambda tracker: tracker.metrics(1, {"loss": 3.0}))
    assert unsent.rejected == (
        "param optimizer.learning_rate: INVALID_PARAMETER_VALUE: bad value of optimizer.learning_rate",
    )
    assert not unsent.kept
    assert set(server.params) == {"seed", "data.train.0.source", "data.tags"}
    assert server.metrics == [("loss", 3.0, 1)]
    assert server.status == "FINISHED"


def test_an_older_server_gets_a_long_value_at_the_length_it_takes(
    workspace: Workspace, folder: Path, mlflow_stub: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with mlflow_stub(longest=500).running() as server:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
        tracker = Tracker(workspace, folder)
        tracker.start("first", "quickstart", {"text": "x" * 900})
        unsent = tracker.finish()
    assert len(server.params["text"]) == 500
    assert not unsent.rejected
    assert unsent.kept == {"document": 1}, "this server has no artifact store, and says so at the end only"


def test_many_metrics_travel_in_few_requests(
    workspace: Workspace, folder: Path, mlflow_stub: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with mlflow_stub().running() as server:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
        tracker = Tracker(workspace, folder)  # sends every two seconds
        tracker.start("first", "quickstart", {})
        for step in range(900):
            tracker.metrics(step, {"loss": 1.0})
        assert not tracker.finish()
    assert len(server.metrics) == 900
    assert server.batches <= 5


def test_something_that_is_no_number_is_named(workspace: Workspace, folder: Path) -> None:
    unsent = tracked(workspace, folder, lambda tracker: tracker.metrics(4, {"loss": object(), "ok": 1.0}))  # type: ignore[dict-item]
    assert not unsent.kept
    (one,) = unsent.rejected
    assert one.startswith("metric loss at step 4: ")


def test_a_file_that_is_gone_is_named(workspace: Workspace, folder: Path, tmp_path: Path) -> None:
    unsent = tracked(workspace, folder, lambda tracker: tracker.artifact(tmp_path / "gone.png"))
    assert unsent.rejected == (f"artifact {tmp_path / 'gone.png'}: the file is not there any more",)


def test_events_beyond_the_room_in_memory_are_counted(workspace: Workspace, folder: Path) -> None:
    tracker = Tracker(workspace, folder, room=10)
    for step in range(25):
        tracker.metrics(step, {"loss": 1.0})
    tracker.start("first", "quickstart", {})
    unsent = tracker.finish()
    assert unsent.lost >= 15
    assert f"{unsent.lost} events left out" in unsent.lines()[-1]


def test_finishing_what_was_never_started_is_nothing(workspace: Workspace, folder: Path) -> None:
    assert not Tracker(workspace, folder).finish()
