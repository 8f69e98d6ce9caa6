"""A gateway's file: what it may say, and that every fault in it is told at once, where it stands."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmops.config import load
from llmops.errors import FileFaults
from llmops.serve.settings import BySize, Direct, Gateway, LocalEngine, RemoteEngine

ROOT = Path(__file__).parents[2]


def gateway(tmp_path: Path, text: str) -> Gateway:
    file = tmp_path / "gateway.yaml"
    file.write_text(text)
    return load(file, Gateway, what="gateway")


def faults(tmp_path: Path, text: str) -> str:
    with pytest.raises(FileFaults) as caught:
        gateway(tmp_path, text)
    return str(caught.value)


def test_the_shipped_one_routes_two_sizes() -> None:
    shipped = load(ROOT / "configs" / "gateway.yaml", Gateway, what="gateway")
    assert isinstance(shipped.routes["auto"], BySize)
    assert isinstance(shipped.routes["e2e-nlg"], Direct)
    assert shipped.loopback
    assert (shipped.host, shipped.port) == ("127.0.0.1", 8000)


def test_an_engine_with_an_address_is_somebody_elses(tmp_path: Path) -> None:
    found = gateway(
        tmp_path,
        "engines: {mine: {model: ./m}, theirs: {url: 'http://gpu7:8000/v1', model: big}}\n"
        "routes: {r: {policy: direct, engine: mine, fallback: [theirs]}}",
    )
    assert isinstance(found.engines["mine"], LocalEngine)
    assert isinstance(found.engines["theirs"], RemoteEngine)


def test_every_engine_a_route_names_must_be_there(tmp_path: Path) -> None:
    said = faults(
        tmp_path,
        "engines: {small: {model: ./m}}\n"
        "routes:\n"
        "  r.1: {policy: direct, engine: smal, fallback: [other], shadow: {to: third, share: 0.1}}\n"
        "  r.2: {policy: size, small: small, large: lage}\n",
    )
    for line, key, name in (
        (3, "routes.r.1.engine", "smal"),
        (3, "routes.r.1.fallback[0]", "other"),
        (3, "routes.r.1.shadow.to", "third"),
        (4, "routes.r.2.large", "lage"),
    ):
        assert f"line {line}: {key}: there is no engine '{name}'" in said
    assert "did you mean `small`?" in said


def test_without_keys_it_listens_to_this_machine_alone(tmp_path: Path) -> None:
    rest = "engines: {a: {model: ./m}}\nroutes: {r: {policy: direct, engine: a}}\n"
    for open_to_others in ("0.0.0.0:80", "gpu7:80", "'[::]:80'", "127.0.0.1.example.org:80"):
        assert "others could reach it" in faults(tmp_path, f"listen: {open_to_others}\n{rest}")
        assert gateway(tmp_path, f"listen: {open_to_others}\nkeys: {{file: keys.json}}\n{rest}")
    for own in ("127.0.0.1:80", "127.1.2.3:80", "localhost:80", "'[::1]:0'"):
        assert gateway(tmp_path, f"listen: {own}\n{rest}").loopback


def test_a_rollout_moves_traffic_the_route_has(tmp_path: Path) -> None:
    engines = "engines: {a: {model: ./m}, b: {model: ./n}, c: {model: ./o}}\n"
    route = "routes: {{r: {{policy: direct, engine: a, rollout: {{engine: {}, to: b, share: 0.1}}}}}}"
    assert "asks nothing of 'c'" in faults(tmp_path, engines + route.format("c"))
    assert gateway(tmp_path, engines + route.format("a")).routes["r"].rollout
