"""Places are handed out once, counted until they are given back, and refused with numbers where there are too few."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmops.errors import EnvironmentFault
from llmops.hardware import Gpu
from llmops.serve.command import arguments, environment
from llmops.serve.gpus import Footprint
from llmops.serve.layout import Server, could_take, servers
from llmops.serve.places import GIB, PROCESS_BYTES, Place, Places
from llmops.serve.served import Served
from llmops.serve.settings import LocalEngine

GPU = Gpu("NVIDIA L4", 24 * GIB, 24 * GIB, "8.9", "550")


def model(name: str = "m", *, rank: int | None = None, base: str = "b", weights: int = GIB) -> Served:
    return Served(
        version=name,
        original=name,
        digest=f"{base if rank is None else name:0<64}",
        folder=Path("/models") / name,
        base=Path("/models") / base,
        base_digest=f"{base:0<64}",
        tokenizer=Path("/models") / base,
        tokenizer_digest="t",
        rank=rank,
        footprint=Footprint(weights, 1000, 4096),
    )


def server(name: str = "a", **settings: object) -> Server:
    engine = LocalEngine.model_validate({"model": "m", **settings})
    (only,) = servers({name: engine}, {name: model()})
    return only


class TestCpu:
    def test_memory_is_taken_and_given_back(self) -> None:
        each = GIB + 8 * GIB + PROCESS_BYTES
        places = Places((), 3 * each)
        ((first,),) = places.find([server()])
        assert (first.bytes, first.cache_gib, first.gpus, first.alone) == (each, 8, (), True)
        places.take([first])
        ((second,),) = places.find([server()])
        assert not second.alone
        places.give_back([first])
        ((third,),) = places.find([server()])
        assert third.alone

    def test_less_memory_means_less_for_keys_and_values_down_to_one(self) -> None:
        assert Places((), 16 * GIB).find([server()])[0][0].cache_gib == 4
        assert Places((), 16 * GIB).find([server(replicas=2)])[0][0].cache_gib == 2
        least = GIB + GIB + PROCESS_BYTES
        assert Places((), least).find([server()])[0][0].cache_gib == 1
        with pytest.raises(EnvironmentFault, match=r"a would take 4\.5 GB of memory .*, 4\.5 GB are free"):
            Places((), least - 1).find([server()])

    def test_a_request_of_full_length_fits(self) -> None:
        (places,) = Places((), 100 * GIB).find([server(max_length=20 * GIB // 1000)])
        assert places[0].cache_gib == 20

    def test_what_the_user_set_stands(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "3")
        assert Places((), 100 * GIB).find([server()])[0][0].cache_gib == 3


class TestGpus:
    def test_what_will_be_free_counts_where_that_is_asked(self) -> None:
        places = Places([GPU], 0)
        (first,) = places.find([server()])
        places.take(first)
        with pytest.raises(EnvironmentFault, match="want 2 GPUs, there are 1"):
            places.find([server()])
        assert places.find([server()], without=first) == [first]

    def test_their_names_are_those_this_process_was_given(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
        names = Places([GPU, GPU], 0).names()
        made = environment(server(), Place((1,)), Path("/tmp/x"), key="k", visible=names)
        assert made["CUDA_VISIBLE_DEVICES"] == "6"
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
        assert Places([GPU, GPU], 0).names() == ("0", "1")


class TestLayout:
    def test_a_server_can_take_other_adapters_up_to_its_rank(self) -> None:
        engine = LocalEngine(model="m")
        small, large = (servers({"a": engine}, {"a": model(rank=rank)})[0] for rank in (8, 64))
        other = servers({"a": engine}, {"a": model("n", rank=8)})[0]
        whole = servers({"a": engine}, {"a": model()})[0]
        assert could_take(small, other)
        assert could_take(large, small)
        assert not could_take(small, large)
        assert not could_take(whole, small)
        assert could_take(small, whole)

    def test_models_of_two_bases_never_share(self) -> None:
        engines = {name: LocalEngine(model="m") for name in "ab"}
        found = servers(engines, {"a": model(base="b", rank=8), "b": model(base="c", rank=8)})
        assert [one.name for one in found] == ["a", "b"]

    def test_slots_count_adapters_and_one_on_its_way(self) -> None:
        engines = {name: LocalEngine(model="m") for name in "abc"}
        (found,) = servers(engines, {"a": model(), "b": model("n", rank=8), "c": model("o", rank=16)})
        assert (found.name, found.slots, found.rank) == ("a+b+c", 3, 16)


class TestCommand:
    def test_it_serves_the_base_by_a_name_that_is_its_bytes(self) -> None:
        command = arguments(server(max_length=512), Place(), ["--max-num-seqs=4"], port=1234)
        assert command[command.index("--model") + 1] == "/models/b"
        assert command[command.index("--served-model-name") + 1] == model().name
        assert command[command.index("--max-model-len") + 1] == "512"
        assert command[-1] == "--max-num-seqs=4"
        assert "--enforce-eager" in command
        assert "--enable-lora" not in command

    def test_a_base_has_the_same_name_whoever_asks_for_it(self) -> None:
        (only,) = servers({"a": LocalEngine(model="m")}, {"a": model(rank=8)})
        command = arguments(only, Place(), [], port=1)
        assert command[command.index("--served-model-name") + 1] == model().name != model(rank=8).name
        assert command[command.index("--max-loras") + 1] == "2"

    def test_on_gpus_it_is_split_and_its_share_said(self) -> None:
        command = arguments(server(gpus=2), Place((0, 1)), [], port=1)
        assert command[command.index("--tensor-parallel-size") + 1] == "2"
        assert command[command.index("--gpu-memory-utilization") + 1] == "0.9"
        assert "--enforce-eager" not in command
        stated = arguments(server(), Place((0,)), ["--gpu-memory-utilization=0.4"], port=1)
        assert "--gpu-memory-utilization" not in stated

    def test_what_users_say_of_compiling_stands(self) -> None:
        assert "--enforce-eager" not in arguments(server(), Place(), ["--no-enforce-eager"], port=1)

    def test_the_key_is_in_the_environment_and_not_on_the_command_line(self) -> None:
        made = environment(server(), Place(), Path("/tmp/x"), key="secret", visible=())
        assert made["VLLM_API_KEY"] == "secret"
        assert "secret" not in arguments(server(), Place(), [], port=1)

    def test_another_interpreter_is_not_given_our_import_path(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PYTHONPATH", "/ours")
        other = environment(server(python="/venv/bin/python"), Place(), Path("/tmp/x"), key="k", visible=())
        assert "PYTHONPATH" not in other
        assert environment(server(), Place(), Path("/tmp/x"), key="k", visible=())["PYTHONPATH"] == "/ours"
