"""A model that may be served, with all an engine must know of it before it loads.

Asked of a process of its own: the registry's libraries and the reading of whole models stay out of the gateway.
"""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from llmops.errors import EnvironmentFault, InputError, LlmopsError
from llmops.files import digest_of
from llmops.serve.gpus import Footprint
from llmops.serve.settings import LocalEngine
from llmops.workspace import Workspace

RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""Of adapters that vLLM makes room for."""


@dataclass(frozen=True, slots=True)
class Served:
    """What an engine serves.

    Attributes:
        version: what the ledger calls it: `models:/name/3`, or the folder.
        original: the version it stands for, of which a quantized one was made; else as `version`.
        digest: of the artifact; an adapter's own, without its base.
        base: folder of the whole model: the artifact itself, or an adapter's base.
        base_digest: of `base`.
        tokenizer: folder with the tokenizer and the chat template it was trained with.
        tokenizer_digest: of what they do, not of how their files are written.
        rank: an adapter's, rounded up to one that vLLM makes room for; None for a whole model.
        said: what users must hear before it is served.
    """

    version: str
    original: str
    digest: str
    folder: Path
    base: Path
    base_digest: str
    tokenizer: Path
    tokenizer_digest: str
    rank: int | None
    footprint: Footprint
    said: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """What its server calls it: bytes have one name, so what is cached under it is always theirs."""
        return self.digest[:16]

    @property
    def base_name(self) -> str:
        """What its server calls the base; a whole model is its own."""
        return self.base_digest[:16]


async def served(engine: LocalEngine, *, workspace: Workspace) -> Served:
    """What `engine` serves, once it may; takes a second or two, and as long as its bytes take to read.

    Raises:
        LlmopsError: as `llmops.registry.admission.admit`; or vLLM does not load this kind of adapter.
    """
    answer = await _ask(engine, workspace, read=True)
    paths = {key: Path(answer.pop(key)) for key in ("folder", "base", "tokenizer")}
    return Served(**(answer | paths | {"footprint": Footprint(**answer["footprint"]), "said": tuple(answer["said"])}))


async def original(engine: LocalEngine, *, workspace: Workspace) -> str:
    """`Served.original` of what `engine` would serve, without reading bytes.

    Raises:
        LlmopsError: it may not be served, or is gone.
    """
    return str((await _ask(engine, workspace, read=False))["original"])


async def _ask(engine: LocalEngine, workspace: Workspace, *, read: bool) -> dict[str, Any]:
    asked = engine.model_dump(mode="json", include={"model", "quantization", "require", "vllm"}) | {"read": read}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "llmops.serve.served", json.dumps(asked), str(workspace.home)),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        out, problems = await process.communicate()
    except asyncio.CancelledError:
        process.kill()
        await process.wait()
        raise
    try:
        answer = json.loads(out.splitlines()[-1])
    except (IndexError, ValueError):
        last = (problems.decode(errors="replace").strip().splitlines() or [f"status {process.returncode}"])[-1]
        raise EnvironmentFault(
            f"{engine.model} cannot be looked up: {last}", fix="run `llmops doctor`, which says what is missing"
        ) from None
    if "problem" in answer:
        kind = InputError if answer["input"] else EnvironmentFault
        raise kind(answer["problem"], fix=answer["fix"])
    found: dict[str, Any] = answer
    return found


def describe(asked: dict[str, Any], workspace: Workspace) -> Served:
    """What `served` answers, found in this process."""
    from llmops.registry.admission import admit
    from llmops.registry.folder import cached_digest
    from llmops.serve.gpus import footprint

    found = admit(asked["model"], quantization=asked["quantization"], require=asked["require"], workspace=workspace)
    base = found.base or found.folder
    own = (found.folder / "tokenizer_config.json").is_file()
    tokenizer = found.folder if own else base
    _check_template(found.folder, tokenizer)
    return Served(
        version=found.version,
        original=found.original or found.version,
        digest=found.digest,
        folder=found.folder,
        base=base,
        base_digest=found.base_digest or cached_digest(base, workspace.cache),
        tokenizer=tokenizer,
        tokenizer_digest=tokenizer_digest(tokenizer),
        rank=lora_rank(found.folder) if found.base is not None else None,
        footprint=footprint(base, wide=asked["vllm"].get("dtype") in ("float32", "float")),
        said=found.said,
    )


def tokenizer_digest(folder: Path) -> str:
    """sha256 over the tokenizer, the tokens it puts around texts and the chat template."""
    known = _json(folder / "tokenizer_config.json")
    template = folder / "chat_template.jinja"
    text = template.read_text(encoding="utf-8") if template.is_file() else known.get("chat_template")
    keys = ("bos_token", "eos_token", "add_bos_token", "add_eos_token")
    others = {path.name: path.read_bytes().hex() for path in sorted(folder.glob("*.model"))}
    return digest_of(
        {
            "tokenizer": _json(folder / "tokenizer.json"),
            "template": text,
            "around": {key: known.get(key) for key in keys},
            "others": others,
        }
    )


def lora_rank(folder: Path) -> int:
    """The rank vLLM must make room for.

    Raises:
        InputError: vLLM does not load this kind of adapter.
    """
    adapter = _json(folder / "adapter_config.json")
    refused = "DoRA" if adapter.get("use_dora") else "modules_to_save" if adapter.get("modules_to_save") else None
    largest = max([adapter.get("r", 0), *(adapter.get("rank_pattern") or {}).values()])
    rank = next((one for one in RANKS if one >= largest), None)
    if refused or rank is None:
        raise InputError(
            f"vLLM cannot load the adapter in {folder}: {refused or f'its rank {largest} is above {RANKS[-1]}'}",
            fix="merge it with `llmops merge` and serve the result",
        )
    return rank


def _check_template(folder: Path, tokenizer: Path) -> None:
    """Raises EnvironmentFault where the chat template is not the one that the run's manifest names."""
    trained = (_json(folder / "manifest.json").get("lineage") or {}).get("template")
    if trained is None:
        return
    from transformers import AutoTokenizer

    from llmops.data.chat import template_digest

    found = template_digest(AutoTokenizer.from_pretrained(str(tokenizer), local_files_only=True))
    if trained != found:
        raise EnvironmentFault(
            f"the chat template in {tokenizer} is not the one {folder} was trained with "
            f"({found[:12]}, its manifest says {trained[:12]})",
            fix="put the tokenizer files of its run back, or train it again with this template",
        )


def _json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return content


def main() -> None:
    asked, workspace = json.loads(sys.argv[1]), Workspace(Path(sys.argv[2]))
    try:
        if asked["read"]:
            answer = asdict(describe(asked, workspace))
        else:
            from llmops.registry.admission import may_serve

            answer = {
                "original": may_serve(
                    asked["model"], quantization=asked["quantization"], require=asked["require"], workspace=workspace
                )
            }
    except LlmopsError as error:
        answer = {"problem": error.problem, "fix": error.fix, "input": isinstance(error, InputError)}
    print("\n" + json.dumps(answer, default=str))


if __name__ == "__main__":
    main()
