"""`llmops doctor`: what this machine has, what is missing, which recipes fit it, and the command for the rest."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from llmops.hardware import Device, Extra, Machine

_RECIPES = Path("recipes")


@dataclass(frozen=True, slots=True)
class RecipeFit:
    """Whether a shipped recipe fits this machine; `needs` bytes on each of `gpus` devices, None where it is unknown."""

    recipe: str
    fits: bool
    gpus: int
    needs: int | None
    answer: str


def doctor(as_json: Annotated[bool, typer.Option("--json", help="The findings as JSON.")] = False) -> None:
    """Look at this machine: CPU, GPUs, memory, disk, packages, and which recipes fit."""
    from dataclasses import asdict

    from llmops.errors import EnvironmentFault
    from llmops.hardware import device_of, machine
    from llmops.workspace import Workspace

    home = Workspace.current().home
    found = machine(disk=home)
    device = device_of(found)
    fits = [recipe_fit(path, found, device) for path in sorted(_RECIPES.glob("*.yaml"))]
    actions = missing(found)
    if as_json:
        record = asdict(found)
        record.pop("cpu_flags")
        record |= {"workspace": str(home), "recipes": [asdict(fit) for fit in fits], "missing": actions}
        typer.echo(json.dumps(record, indent=2, ensure_ascii=False))
    else:
        _print(found, home, fits, actions)
    if not _writable(home):
        raise EnvironmentFault(
            f"the workspace folder {home} cannot be written, so nothing can be trained or recorded",
            fix="set LLMOPS_HOME to a folder you may write",
        )


def recipe_fit(path: Path, machine: Machine, device: Device) -> RecipeFit:
    """Whether the recipe at `path` fits this machine, with rows as long as it allows; all GPUs are used if it can."""
    from llmops.config import load
    from llmops.errors import InputError, LlmopsError
    from llmops.finetune.plan import gib
    from llmops.finetune.preview import fullest
    from llmops.finetune.recipe import Recipe

    try:
        recipe = load(path, Recipe, what="recipe")
        world = max(1, len(machine.gpus))
        try:
            recipe.batch.passes(world)
        except InputError:
            world = 1
        plan = fullest(recipe, world=world, device=device)
    except LlmopsError as error:
        return RecipeFit(str(path), False, 0, None, f"{error.problem.splitlines()[0]} → {error.fix}")
    where = f"each of {world} GPUs" if world > 1 else "one GPU" if machine.gpus else "this CPU"
    if plan.fits_device:
        slow = "" if machine.gpus or plan.weights < 10**9 else "; without a GPU it would take very long"
        return RecipeFit(str(path), True, world, plan.needed_bytes, f"{gib(plan.needed_bytes)} on {where}{slow}")
    enough = [f"{fit.gpus} × {fit.gpu}" for fit in reversed(plan.fits) if fit.gpus]
    elsewhere = f"fits on {', '.join(enough[:3])}" if enough else "fits on no GPU known here"
    needed, usable = gib(plan.needed_bytes), gib(device.usable_bytes)
    return RecipeFit(str(path), False, world, plan.needed_bytes, f"needs {needed} on {where} ({usable}); {elsewhere}")


def missing(machine: Machine) -> list[dict[str, str]]:
    """What this machine lacks and the command that brings it; parts for other machines are left out."""
    from importlib.metadata import PackageNotFoundError, version

    found = []
    for extra in machine.extras:
        if not extra.complete and _meant_for(extra, machine):
            found.append(
                {"what": f"{extra.name}: {', '.join(extra.missing)}", "command": extra.command, "part": extra.name}
            )
    try:
        torch = version("torch")
    except PackageNotFoundError:
        torch = ""
    if machine.gpus and torch.endswith("+cpu"):
        command = "pip install --no-deps -r requirements/cuda.txt"
        found.append({"what": f"a torch for CUDA (torch {torch} is here)", "command": command, "part": "torch"})
    return found


def _meant_for(extra: Extra, machine: Machine) -> bool:
    """CUDA's kernels and its vLLM are for machines with a GPU, vLLM's CPU build for those without."""
    if extra.name in ("cuda", "serve"):
        return bool(machine.gpus)
    return not machine.gpus if extra.name == "serve-cpu" else True


def _writable(home: Path) -> bool:
    import os

    place = home
    while not place.exists():
        place = place.parent
    return place.is_dir() and os.access(place, os.W_OK | os.X_OK)


def _print(machine: Machine, home: Path, fits: list[RecipeFit], actions: list[dict[str, str]]) -> None:
    from rich.console import Console
    from rich.table import Table

    from llmops.finetune.plan import gib

    console = Console()
    facts = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    facts.add_row("cpu", f"{machine.cpu}, {machine.cores} cores, {machine.threads} threads")
    for number, gpu in enumerate(machine.gpus):
        facts.add_row(
            f"gpu {number}",
            f"{gpu.name}, {gib(gpu.free_bytes)} of {gib(gpu.memory_bytes)} free, compute capability "
            f"{gpu.compute_capability}, driver {gpu.driver}",
        )
    if not machine.gpus:
        facts.add_row("gpu", "none: nvidia-smi does not answer")
    facts.add_row("memory", f"{gib(machine.free_memory_bytes)} of {gib(machine.memory_bytes)} free")
    facts.add_row("disk", f"{gib(machine.free_disk_bytes)} free at {home}")
    facts.add_row("python", machine.python)
    for extra in machine.extras:
        state = "complete" if extra.complete else f"lacks {', '.join(extra.missing)}"
        reason = "" if extra.complete or _meant_for(extra, machine) else " (not for this machine)"
        facts.add_row(f"llmops\\[{extra.name}]", state + reason)
    console.print(facts, soft_wrap=True)
    _print_recipes(console, fits)
    for action in actions:
        console.print(f"missing {action['what']}", highlight=False, markup=False, soft_wrap=True)
        console.print(f"  → {action['command']}", highlight=False, markup=False, soft_wrap=True)
    first = next((fit.recipe for fit in fits if fit.fits and "quickstart" in fit.recipe), None)
    first = first or next((fit.recipe for fit in fits if fit.fits), None)
    typer.echo(f"next: llmops finetune {first}" if first else "next: llmops explain recipe")


def _print_recipes(console: Console, fits: list[RecipeFit]) -> None:
    from rich.table import Table

    if not fits:
        console.print("no recipes/ in this folder", highlight=False)
        return
    table = Table(title="recipes", title_justify="left", box=None, show_header=False, padding=(0, 2, 0, 0))
    for fit in fits:
        table.add_row("fits" if fit.fits else "no", fit.recipe, fit.answer)
    console.print(table)


def register(app: typer.Typer) -> None:
    app.command()(doctor)
