"""`llmops plan`: updates, tokens, memory, time and cost of a recipe before anything is loaded."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from llmops.finetune.plan import Plan
    from llmops.finetune.preview import Preview
    from llmops.finetune.recipe import Recipe
    from llmops.finetune.shape import ModelShape


def plan(
    recipe: Annotated[Path, typer.Argument(help="A file of recipes/.")],
    gpus: Annotated[int, typer.Option(min=1, help="Processes, one a GPU.")] = 1,
    gpu: Annotated[
        str | None, typer.Option(help="A kind of GPU, as h100-sxm; by default this machine's, else its CPU.")
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="key=value over the recipe's own, as often as needed.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The plan as JSON.")] = False,
) -> None:
    """Say what RECIPE will take: memory by part, updates, tokens, operations, time and cost, and where it fits."""
    from llmops.config import load
    from llmops.finetune.recipe import Recipe

    wanted = load(recipe, Recipe, what="recipe", overrides=overrides or ())
    print_plan(wanted, gpus=gpus, gpu=gpu, as_json=as_json)
    if not as_json:
        several = f" --gpus {gpus}" if gpus > 1 else ""
        typer.echo(f"next: llmops finetune {recipe}{several}")


def print_plan(recipe: Recipe, *, gpus: int, gpu: str | None, as_json: bool) -> None:
    """Make and print the plan of a recipe.

    Raises:
        LlmopsError: as `preview`.
    """
    from llmops.finetune.method import Grpo
    from llmops.finetune.preview import preview
    from llmops.finetune.prices import read_prices
    from llmops.hardware import device_of, gpu_named, machine
    from llmops.workspace import Workspace

    reward_models: list[ModelShape] = []
    unknown: list[str] = []
    if isinstance(recipe.method, Grpo):
        from llmops.lifecycle.rewards import check_rewards, reward_shapes

        check_rewards(recipe.method)
        reward_models, unknown = reward_shapes(recipe.method)
    device = gpu_named(gpu) if gpu is not None else device_of(machine())
    # A folder for state is not made just to look whether a tokenizer lies in it.
    cache = Workspace.current().home / "cache"
    found = preview(
        recipe,
        world=gpus,
        device=device,
        prices=read_prices(),
        cache=cache if cache.is_dir() else None,
        reward_models=reward_models,
    )
    found = replace(found, notes=(*found.notes, *unknown))
    if as_json:
        typer.echo(json.dumps(as_plain(found), indent=2, ensure_ascii=False))
    else:
        _print(recipe, found)


def as_plain(found: Preview) -> dict[str, Any]:
    """The plan as JSON holds it."""
    from dataclasses import asdict

    record = asdict(found.plan)
    record["memory"]["total"] = found.plan.memory.total
    record["device"]["usable_bytes"] = found.plan.device.usable_bytes
    record["fits_device"] = found.plan.fits_device
    record["notes"] = list(found.notes)
    parameters = found.base.shape.parameters
    record["base"] = {"origin": found.base.origin, "parameters": asdict(parameters) | {"total": parameters.total}}
    lengths = found.lengths
    record["lengths"] = {
        "rows": lengths.rows,
        "longest": lengths.longest,
        "median": lengths.percentile(0.5),
        "p95": lengths.percentile(0.95),
        "trained_share": lengths.trained_share,
        "exact": lengths.exact,
    }
    return record


def _print(recipe: Recipe, found: Preview) -> None:
    from rich.console import Console

    from llmops.finetune.plan import way_out

    console = Console()
    console.print(_facts(recipe, found))
    console.print(_memory(found.plan))
    console.print(_fits(found.plan))
    for note in found.notes:
        console.print(f"· {note}", highlight=False, markup=False, soft_wrap=True)
    if not found.plan.fits_device:
        line = f"too large for {found.plan.device.name}: {way_out(found.plan)}"
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _facts(recipe: Recipe, found: Preview) -> Table:
    from rich.table import Table

    from llmops.cli.progress import duration

    plan, lengths = found.plan, found.lengths
    together = len(recipe.method.item.trained)
    each = f" of {together} sequences ({' and '.join(recipe.method.item.trained)})" if together > 1 else ""
    filled = "rows" if together > 1 else "sequences"
    count = "process" if plan.device.kind == "cpu" else "GPU"
    where = f"{plan.world} × {plan.device.name}" if plan.world > 1 else plan.device.name
    cost = "no price for this device in configs/prices.yaml" if plan.cost is None else f"{plan.cost:,.2f} USD"
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    rows = {
        "base": f"{recipe.base}, {_count(plan.weights)} parameters, {_count(plan.trained_weights)} trained "
        f"({plan.trained_weights / plan.weights:.2%}); shape from {found.base.origin}",
        "device": f"{where}, attention {plan.attention}, {recipe.precision}",
        "rows": f"{lengths.rows / together:,.0f} an epoch{each}, {lengths.percentile(0.5):,} tokens in the middle, "
        f"{lengths.percentile(0.95):,} at 95 %, {lengths.longest:,} at most",
        "updates": f"{plan.updates:,} of {recipe.batch.sequences} {filled}, {plan.updates_per_epoch:,} an epoch; "
        f"{plan.passes} {'pass' if plan.passes == 1 else 'passes'} each per {count}",
        "tokens": f"{plan.tokens.used:,.0f}, {plan.tokens.trained:,.0f} of them trained; "
        f"{plan.utilisation:.0%} of what is computed is no padding",
        "operations": f"{plan.flops.model:.2e} ({plan.flops.formula})",
        "time": f"about {duration(plan.seconds)} at {plan.tokens_per_s:,.0f} tokens/s",
        "cost": cost,
    }
    for name, value in rows.items():
        table.add_row(name, value)
    return table


def _memory(plan: Plan) -> Table:
    from rich.table import Table

    from llmops.finetune.plan import gib

    where = "a GPU" if plan.device.kind == "cuda" else "a process"
    title = f"memory of {where} at its fullest"
    table = Table(title=title, title_justify="left", box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column()
    table.add_column(justify="right")
    memory = plan.memory
    parts = {
        "weights": memory.weights,
        "gradients": memory.gradients,
        "optimizer": memory.optimizer,
        "activations": memory.activations,
        "logits": memory.logits,
        "fragmentation": memory.fragmentation,
        "rollouts": memory.rollouts,
        "rewards": memory.rewards,
        "program": memory.process,
    }
    beside = {"rollouts", "rewards"}
    for name, amount in parts.items():
        # The program is a part on a CPU only, rollouts and rewards where the model learns from its own answers;
        # another part may be absent at the fullest moment, which is worth seeing.
        if amount or name not in ("program", *beside):
            said = "estimated, never compared with a run" if name in beside else ""
            table.add_row(name, gib(amount), said if amount else "not held at the fullest moment")
    table.add_row("total", gib(memory.total), f"of {gib(plan.device.usable_bytes)}")
    return table


def _fits(plan: Plan) -> Table:
    from rich.table import Table

    from llmops.finetune.plan import gib

    groups: dict[str, list[str]] = {}
    for fit in plan.fits:
        several = f"{fit.gpus} GPUs, " if fit.gpus > 1 else ""
        answer = f"{several}{gib(fit.bytes)} each" if fit.gpus else f"no: {fit.why_not}"
        groups.setdefault(answer, []).append(fit.gpu)
    table = Table(title="fits on", title_justify="left", box=None, show_header=False, padding=(0, 2, 0, 0))
    for answer, names in groups.items():
        table.add_row(answer, ", ".join(names))
    return table


def _count(number: int) -> str:
    for size, name in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if number >= size:
            return f"{number / size:.3g} {name}"
    return str(number)


def register(app: typer.Typer) -> None:
    app.command()(plan)
