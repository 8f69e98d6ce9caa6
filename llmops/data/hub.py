"""A hub of data sets: which commit a name means, and the rows of one split, streamed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol

from llmops.errors import EnvironmentFault, InputError

_COMMIT = re.compile(r"^[0-9a-f]{40}$")


class Hub(Protocol):
    """What is asked of a hub of data sets."""

    def commit(self, name: str, revision: str | None) -> str:
        """The commit a revision names; the newest for None."""

    def rows(self, name: str, *, config: str | None, split: str, commit: str) -> Iterable[Mapping[str, Any]]:
        """The rows of one split, streamed."""


class HuggingFace:
    """The Hugging Face hub, through `datasets` in streaming mode."""

    def commit(self, name: str, revision: str | None) -> str:
        if revision is not None and _COMMIT.match(revision):
            return revision
        from huggingface_hub import HfApi
        from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

        try:
            found = HfApi().dataset_info(name, revision=revision, timeout=10).sha
        except RevisionNotFoundError as error:
            raise InputError(
                f"hub:{name} has no revision {revision!r}", fix="give a commit, a branch or a tag of the data set"
            ) from error
        except RepositoryNotFoundError as error:
            raise InputError(
                f"the hub has no data set {name!r} that this machine may read",
                fix="check the name; for a private or gated one set HF_TOKEN",
            ) from error
        except Exception as error:  # offline, name resolution, proxies: each library level has its own
            raise _unreachable(name, error) from error
        return str(found)

    def rows(self, name: str, *, config: str | None, split: str, commit: str) -> Iterator[Mapping[str, Any]]:
        import datasets

        try:
            rows = datasets.load_dataset(name, config, split=split, revision=commit, streaming=True)
        except ValueError as error:
            raise InputError(
                f"hub:{name}: {str(error).splitlines()[0]}",
                fix="set `split:`; where the data set has several configurations, write hub:org/name/configuration",
            ) from error
        except Exception as error:
            raise _unreachable(name, error) from error
        try:
            yield from rows
        except OSError as error:  # the network went away between two rows
            raise _unreachable(name, error) from error


def _unreachable(name: str, error: Exception) -> EnvironmentFault:
    return EnvironmentFault(
        f"hub:{name} cannot be reached ({type(error).__name__})",
        fix="connect to the network, or download it elsewhere and give its folder as `source:`",
    )
