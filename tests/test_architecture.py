"""Imports point downward, stages never import each other, and the help path stays light."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "llmops"

LAYER = {
    "cli": 5,
    "lifecycle": 4,
    **dict.fromkeys(("finetune", "eval", "quantize", "serve", "feedback", "monitor"), 3),
    **dict.fromkeys(("data", "registry", "rubric"), 2),
    **dict.fromkeys(
        ("config", "explain", "catalog", "client", "events", "files", "hardware", "licences", "processes"), 1
    ),
    **dict.fromkeys(("confidence", "libraries", "listening", "markup", "plots", "public_web"), 1),
    **dict.fromkeys(("stats", "agreement", "prediction_powered", "votes", "reliability", "consensus"), 1),
    **dict.fromkeys(("davidson", "paired_ranking", "rater_report"), 1),
    **dict.fromkeys(("workspace", "database", "migrations", "builtin"), 1),
    **dict.fromkeys(("records", "errors"), 0),
}
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py")


def part_of(path: Path) -> str:
    relative = path.relative_to(PACKAGE)
    return relative.parts[0].removesuffix(".py")


def imported(path: Path) -> Iterator[str]:
    """Dotted names of ours that a module imports anywhere, functions included."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("llmops"))
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            if node.module and node.module.startswith("llmops"):
                yield node.module


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_only_its_own_part_a_layer_below_or_a_neighbour_at_the_bottom(path: Path) -> None:
    part = part_of(path)
    assert part in LAYER, f"{part} has no layer; say in this test where it belongs"
    for name in imported(path):
        other = name.split(".")[1] if "." in name else ""
        assert other, f"{path}: import from the module that defines the name, not from the package"
        below = LAYER[other] < LAYER[part] or LAYER[other] == LAYER[part] == 1
        assert other == part or below, f"{part} (layer {LAYER[part]}) imports {name}"


def test_packages_export_nothing() -> None:
    filled = [path for path in PACKAGE.rglob("__init__.py") if path.read_text().strip()]
    assert not filled


def test_services_import_no_model_library_and_the_trainer_no_web_server() -> None:
    forbidden = {
        "serve": {"torch", "vllm"},
        "feedback": {"torch", "vllm"},
        "finetune": {"fastapi", "starlette", "uvicorn", "aiohttp"},
    }
    for path in MODULES:
        names = forbidden.get(part_of(path), set())
        for node in ast.walk(ast.parse(path.read_text())):
            roots = set()
            if isinstance(node, ast.Import):
                roots = {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                roots = {node.module.split(".")[0]}
            assert not roots & names, f"{path} imports {roots & names}"


@pytest.mark.parametrize(
    "arguments", [["--help"], ["finetune", "--help"], ["plan", "--help"], ["explain", "recipe"]], ids=" ".join
)
def test_help_and_explain_import_nothing_heavy(arguments: list[str]) -> None:
    heavy = {"torch", "transformers", "mlflow", "pandas", "vllm", "datasets", "pyarrow", "matplotlib"}
    script = (
        "import sys\nfrom llmops.cli.main import app\n"
        f"try:\n    app({arguments!r})\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        f"print('HEAVY', sorted({heavy!r} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert "HEAVY []" in done.stdout, done.stdout[-500:] + done.stderr[-2000:]
