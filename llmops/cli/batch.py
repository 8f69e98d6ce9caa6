"""Commands that answer many requests at once: batch."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmops.errors import InputError

if TYPE_CHECKING:
    from llmops.events import Listener
    from llmops.lifecycle.batch import Asker


def batch(
    model: Annotated[
        str,
        typer.Argument(help="A folder or models:/name@alias for vLLM here; the server's name for it with --endpoint."),
    ],
    source: Annotated[
        Path, typer.Argument(metavar="IN", help="jsonl, csv or parquet: OpenAI's batch format, or rows of columns.")
    ],
    output: Annotated[Path, typer.Argument(metavar="OUT", help="jsonl, csv or parquet.")],
    endpoint: Annotated[
        str | None, typer.Option(help="Ask this gateway or OpenAI-compatible server, such as http://host:8000/v1.")
    ] = None,
    api_key_env: Annotated[str | None, typer.Option(help="Variable that holds the key of --endpoint.")] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="Requests at --endpoint at one time.")] = 16,
    attempts: Annotated[int, typer.Option(min=1, help="How often a request is tried at --endpoint.")] = 6,
    timeout_s: Annotated[float, typer.Option(min=0.001, help="Seconds for one whole answer of --endpoint.")] = 600.0,
    prompt: Annotated[
        str | None, typer.Option(help="Column with the prompt, or text with {column} in it; else `messages` is taken.")
    ] = None,
    system: Annotated[str | None, typer.Option(help="System message for rows of columns.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Of an answer, for rows of columns.")] = None,
    temperature: Annotated[float | None, typer.Option(min=0.0, help="For rows of columns.")] = None,
    answer: Annotated[str, typer.Option(help="Column that answers get; others begin with its name.")] = "answer",
    max_length: Annotated[
        int | None, typer.Option(min=2, help="Tokens of prompt and answer together that vLLM here makes room for.")
    ] = None,
    usd_per_hour: Annotated[
        float | None, typer.Option(min=0.0, help="Price of what answers, to tell the cost.")
    ] = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Ask again what failed for good before.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The result as JSON.")] = False,
) -> None:
    """Answer every row of IN into OUT, in order, with MODEL. Interrupted, the same command goes on where it was.

    Exit code 2 where a request failed for good; its line in OUT is an error.
    """
    from llmops.cli.progress import duration, watching
    from llmops.lifecycle.batch import batch as run
    from llmops.lifecycle.batch_input import Form

    if api_key_env is not None and endpoint is None:
        raise InputError("--api-key-env is for an --endpoint, and there is none", fix="give both, or none")
    if max_length is not None and endpoint is not None:
        raise InputError("--max-length is for vLLM here; a server has its own", fix="leave it or --endpoint out")
    form = Form(model, prompt, system, max_tokens, temperature)
    with watching(quiet=as_json) as listener:
        if endpoint is not None:
            ask = _server(endpoint, model, api_key_env, concurrency, attempts, timeout_s)
        else:
            ask = _here(model, max_length, listener)
        done = run(
            source,
            output,
            form,
            ask,
            listener=listener,
            answer=answer,
            usd_per_hour=usd_per_hour,
            retry_failed=retry_failed,
        )
    if as_json:
        typer.echo(json.dumps({**asdict(done), "output": str(done.output)}, indent=2))
    else:
        cost = "" if done.usd is None else f", {done.usd:.4f} USD"
        pace = done.rows / done.seconds if done.seconds else 0.0
        typer.echo(
            f"{done.rows - done.failed:,} of {done.rows:,} answered in {duration(done.seconds)} ({pace:,.1f}/s), "
            f"{done.prompt_tokens:,} tokens read and {done.completion_tokens:,} written{cost} → {done.output}"
        )
    if done.failed:
        raise InputError(
            f"{done.failed:,} of {done.rows:,} requests failed; their lines in {done.output} say why",
            fix="mend what they name, or run the same command with --retry-failed",
        )


def _server(endpoint: str, model: str, key: str | None, concurrency: int, attempts: int, timeout_s: float) -> Asker:
    from llmops.client import Patience, key_in
    from llmops.eval.engines.endpoint import endpoint as known
    from llmops.lifecycle.batch_endpoint import Through

    patience = Patience(timeout_s=timeout_s, attempts=attempts)
    found = known(endpoint, model, key=key_in(key) if key else None, concurrency=concurrency, patience=patience)
    return Through(found.server)


def _here(model: str, max_length: int | None, listener: Listener) -> Asker:
    from llmops.lifecycle.batch_vllm import Here
    from llmops.lifecycle.measure import located
    from llmops.workspace import Workspace

    source, base = located(model, Workspace.current(), listener)
    return Here(source, base, max_length)


def register(app: typer.Typer) -> None:
    app.command("batch")(batch)
