"""A fleet with real vLLM in a process that can be killed: says what it saw as JSON lines, then waits.

Arguments: the workspace, and the folders of three adapters on one base.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import aiohttp

from llmops.serve.fleet import Fleet
from llmops.serve.settings import Gateway
from llmops.serve.targets import Target, Targets
from llmops.workspace import Workspace
from tests.listener import Heard

PROMPT = "hello world"
TOKENS = 40


def say(**facts: Any) -> None:
    print(json.dumps(facts), flush=True)


def settings(x: str, y: str) -> Gateway:
    shared = {"max_length": 128, "vllm": {"dtype": "float32", "max_num_seqs": 16}, "restart": {"first_wait_s": 0.1}}
    engines = {"x": {"model": x, **shared}, "y": {"model": y, **shared}}
    return Gateway.model_validate({"engines": engines, "routes": {"x": {"policy": "direct", "engine": "x"}}})


async def ask(target: Target, session: aiohttp.ClientSession) -> dict[str, Any]:
    """A stream; what it wrote, and every model's name that is in it."""
    target.use.in_flight += 1
    target.replica.in_flight += 1
    body = {"model": target.model, "messages": [{"role": "user", "content": PROMPT}], "stream": True}
    body |= {"max_tokens": TOKENS, "temperature": 0, "ignore_eos": True, "return_token_ids": True}
    models: set[str] = set()
    ids: list[int] = []
    prompt, done = None, False
    try:
        headers = {"Authorization": f"Bearer {target.replica.key}"}
        async with session.post(f"{target.replica.url}/v1/chat/completions", json=body, headers=headers) as answer:
            if answer.status != 200:
                return {"status": answer.status, "text": await answer.text()}
            async for line in answer.content:
                if line.strip() == b"data: [DONE]":
                    done = True
                elif line.startswith(b"data: "):
                    chunk = json.loads(line[6:])
                    models.add(chunk["model"])
                    prompt = chunk.get("prompt_token_ids") or prompt
                    for choice in chunk["choices"]:
                        ids += choice.get("token_ids") or []
    finally:
        target.use.in_flight -= 1
        target.replica.in_flight -= 1
    return {"status": answer.status, "models": sorted(models), "ids": ids, "prompt": prompt, "done": done}


def below(parent: int) -> list[int]:
    """Every process below one."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    found = [parent]
    for one in found:
        found += [process for process, above in parents.items() if above == one]
    return found[1:]


async def main(home: Path, first: str, second: str, other: str) -> None:
    heard = Heard()
    targets = Targets()
    began = time.monotonic()
    async with (
        Fleet(settings(first, other), targets, Workspace(home), heard) as fleet,
        aiohttp.ClientSession() as session,
    ):
        ready = await fleet.ready()
        base = fleet.wanted["x"].base_name
        (x,), (y,) = targets.of("x"), targets.of("y")
        say(ready=ready, seconds=time.monotonic() - began, shared=x.replica is y.replica, said=heard.lines)
        say(x=await ask(x, session), y=await ask(y, session))

        answers: list[tuple[str, dict[str, Any]]] = []
        over = asyncio.Event()

        async def client(engine: str) -> None:
            while not over.is_set():
                (target,) = targets.ready(engine)
                answers.append((target.model, await ask(target, session)))

        clients = [asyncio.create_task(client(engine)) for engine in ("x", "x", "x", "y")]
        await asyncio.sleep(1)
        await fleet.reload(settings(second, other))
        while targets.of("x")[0] is x:
            await asyncio.sleep(0.01)
        new = targets.of("x")[0]
        while not any(asked == new.model for asked, _ in answers):
            await asyncio.sleep(0.01)
        over.set()
        await asyncio.gather(*clients)
        while fleet.servers[0].keepers[0].loaded != {new.model, y.model, base}:
            await asyncio.sleep(0.05)
        say(
            swap=True,
            asked=len(answers),
            failed=[answer for _, answer in answers if answer["status"] != 200 or not answer["done"]],
            mixed=[answer for asked, answer in answers if answer.get("models") != [asked]],
            models=sorted({asked for asked, _ in answers}),
            names={"old": x.model, "new": new.model, "y": y.model},
            starts=fleet.servers[0].keepers[0].starts,
            x=await ask(new, session),
        )

        guard = fleet.servers[0].keepers[0].pid
        assert guard is not None
        before = below(guard)
        os.kill(before[0], signal.SIGKILL)
        for ready in (False, True):
            while (new.replica.state == "ready") is not ready:
                await asyncio.sleep(0.01)
        left = [process for process in before if Path(f"/proc/{process}").exists()]
        say(killed=True, left=left, x=await ask(new, session), starts=fleet.servers[0].keepers[0].starts)
        say(processes=below(os.getpid()))
        await asyncio.sleep(600)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), *sys.argv[2:]))
