"""Models of the Hugging Face hub: from the local cache where they are there, else downloaded; safetensors only."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NoReturn

from llmops.errors import EnvironmentFault, InputError
from llmops.registry.connection import first_line, within
from llmops.registry.folder import check_model_folder

PATIENCE_S = 4.0
"""How long the hub may take to answer before it counts as not reachable."""

_LICENCE = ("README.md", "LICENSE*", "LICENCE*")
_WANTED = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.tiktoken", "vocab.txt", "merges.txt", *_LICENCE)
# Folders hold the same model for other programs; `consolidated` is the same weights once more.
_UNWANTED = ("*/*", "consolidated*.safetensors")


def snapshot(repo: str, revision: str | None, *, say: Callable[[str], None]) -> tuple[Path, str]:
    """The folder of a hub model on this machine, and its commit.

    A commit that is in the cache needs no network; a branch or none asks the hub which
    commit it is now, and falls back to the cached one when the hub does not answer.

    Raises:
        EnvironmentFault: it is not here and the hub cannot be asked, refuses, or the disk is too small.
        InputError: the hub has no such model or revision, or only pickled weights of it.
    """
    held = _held(repo, revision)
    if held is not None and revision is not None and re.fullmatch(r"[0-9a-f]{40}", revision):
        return held, held.name
    if _offline():
        if held is not None:
            return held, held.name
        _not_here(repo, revision, "HF_HUB_OFFLINE forbids asking the hub", or_else="unset HF_HUB_OFFLINE")
    info = _ask(repo, revision)
    if isinstance(info, str):
        if held is not None:
            say(f"{repo}: the hub does not answer ({info}); using commit {held.name[:12]}, which is here")
            return held, held.name
        _not_here(repo, revision, f"the hub does not answer ({info})", or_else="check the network or HF_ENDPOINT")
    if held is not None and held.name == info.sha:
        return held, held.name
    folder = _download(repo, revision, info, say)
    return folder, folder.name


def _cache() -> Path:
    """Where the hub's own library keeps its files; read at each call, that library reads it once."""
    if named := os.environ.get("HF_HUB_CACHE"):
        return Path(named).expanduser()
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    return Path(home).expanduser() / "hub"


def _offline() -> bool:
    from huggingface_hub import constants

    set_to = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    return set_to.upper() in {"1", "ON", "YES", "TRUE"} or bool(constants.is_offline_mode())


def _held(repo: str, revision: str | None) -> Path | None:
    """The cached snapshot, if all of it is there."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        folder = Path(
            snapshot_download(
                repo,
                revision=revision,
                cache_dir=_cache(),
                local_files_only=True,
                allow_patterns=list(_WANTED),
                ignore_patterns=list(_UNWANTED),
            )
        )
        check_model_folder(folder, named=repo)
    except HFValidationError as error:
        raise InputError(f"{repo!r} cannot be a model of the hub: {first_line(error)}", fix="write org/name") from error
    except (LocalEntryNotFoundError, InputError):
        return None
    return folder


def _endpoint() -> str | None:
    return os.environ.get("HF_ENDPOINT") or None


def _ask(repo: str, revision: str | None) -> Any:
    """What the hub says of the model, or as a string why it does not answer."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    patience_s = float(os.environ.get("HF_HUB_ETAG_TIMEOUT") or PATIENCE_S)
    api = HfApi(endpoint=_endpoint())
    try:
        return within(
            patience_s, lambda: api.model_info(repo, revision=revision, timeout=patience_s, files_metadata=True)
        )
    except HfHubHTTPError as error:
        if error.response.status_code >= 500:
            return f"status {error.response.status_code}"
        _refused(repo, revision, error)
    except Exception as error:  # the library's HTTP client changes between versions, and its errors with it
        return first_line(error)


def _refused(repo: str, revision: str | None, error: Any) -> NoReturn:
    """What a refusal of the hub means and what to do about it."""
    from huggingface_hub.errors import GatedRepoError, RevisionNotFoundError

    status = error.response.status_code
    if isinstance(error, GatedRepoError):
        raise EnvironmentFault(
            f"{repo} is gated: the hub gives it only to accounts that accepted its terms (status {status})",
            fix=f"accept them at https://huggingface.co/{repo}, then run `hf auth login` or set HF_TOKEN",
        ) from error
    if isinstance(error, RevisionNotFoundError):
        raise InputError(
            f"{repo} has no revision {revision!r}", fix=f"take one listed at https://huggingface.co/{repo}/commits/main"
        ) from error
    if status in {401, 403, 404}:
        raise InputError(
            f"the hub has no model {repo}, or does not show it to you (status {status})",
            fix="check the name; for a private model run `hf auth login` or set HF_TOKEN",
        ) from error
    raise EnvironmentFault(f"the hub refuses {repo}: {first_line(error)}", fix="try again later") from error


def _download(repo: str, revision: str | None, info: Any, say: Callable[[str], None]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    names = [one.rfilename for one in info.siblings or ()]
    wanted = [one for one in info.siblings or () if _wanted(one.rfilename)]
    if not any(one.rfilename.endswith(".safetensors") for one in wanted):
        pickled = [name for name in names if name.endswith((".bin", ".pt", ".pth"))]
        what = f"only pickled weights ({pickled[0]})" if pickled else "no weights in safetensors"
        raise InputError(
            f"{repo} has {what}; a pickle can run any code when loaded",
            fix="take a revision or a copy of the model that has .safetensors, as in org/name@refs/pr/1",
        )
    size = sum(one.size or 0 for one in wanted)
    cache = _cache()
    cache.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(cache).free
    full = EnvironmentFault(
        f"{repo} takes {size / 1e9:.1f} GB and {cache} has {free / 1e9:.1f} GB free",
        fix="free some space there, or set HF_HOME to a larger disk",
    )
    if size > free:
        raise full
    say(f"downloading {repo} at {info.sha[:12]}: {len(wanted)} files, {size / 1e9:.2f} GB")
    try:
        folder = Path(
            snapshot_download(
                repo,
                revision=revision,  # not the commit: the cache then also knows what the branch stands for
                cache_dir=cache,
                endpoint=_endpoint(),
                allow_patterns=list(_WANTED),
                ignore_patterns=list(_UNWANTED),
            )
        )
    except HfHubHTTPError as error:
        _refused(repo, revision, error)
    except Exception as error:  # see `_ask`
        if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise full from error
        raise EnvironmentFault(
            f"the download of {repo} broke off: {first_line(error)}",
            fix="run the same command again; it goes on where it stopped",
        ) from error
    check_model_folder(folder, named=repo)
    return folder


def _wanted(name: str) -> bool:
    return any(fnmatch(name, one) for one in _WANTED) and not any(fnmatch(name, one) for one in _UNWANTED)


def _not_here(repo: str, revision: str | None, why: str, *, or_else: str) -> NoReturn:
    folder = _cache() / f"models--{repo.replace('/', '--')}"
    command = f"hf download {repo}" + (f" --revision {revision}" if revision else "")
    raise EnvironmentFault(
        f"{repo} is not on this machine, and {why}",
        fix=f"{or_else}; or run `{command}` on a machine with a network and copy what it made to {folder}",
    )
