"""What is on record of the models whose served answers are rated: digests of their bytes and of their chat template."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path

from llmops.errors import LlmopsError
from llmops.feedback.items import NewItem
from llmops.registry.reference import registry_name
from llmops.registry.run_records import manifest_of
from llmops.registry.store import find
from llmops.workspace import Workspace


def with_records(items: Iterable[NewItem], workspace: Workspace) -> Iterator[NewItem]:
    """The items; each response of a registered version says its `digest` and `template`, as far as they are known."""
    known = cache(lambda reference: on_record(reference, workspace))
    for item in items:
        responses = [
            one if one.model is None else replace(one, detail={**known(one.model), **one.detail})
            for one in item.responses
        ]
        yield replace(item, responses=responses)


def on_record(reference: str, workspace: Workspace) -> Mapping[str, str]:
    """The digests of a registered version; empty for what the registry does not know, or cannot be asked about now."""
    named, uri = registry_name(reference), workspace.tracking_uri
    if named is None or (uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).exists()):
        return {}
    try:
        version = find(*named, workspace=workspace)
    except LlmopsError:
        return {}
    manifest = manifest_of(version, workspace=workspace)
    digests = {"digest": version.digest, "template": manifest.lineage.get("template") if manifest else None}
    return {name: digest for name, digest in digests.items() if digest}
