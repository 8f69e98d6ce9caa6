"""Quantized versions by what they were made of: the tags they are registered with, and how they are found again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from llmops.registry import store
from llmops.registry.connection import connect, mlflow_faults
from llmops.registry.store import ModelVersion, pages
from llmops.workspace import Workspace

SCHEME_TAG = "llmops.scheme"
"""Of a quantized version: the scheme, such as w4a16."""
FROM_TAG = "llmops.quantized_from"
"""Of a quantized version: the digest of the artifact it stands for (an adapter that was merged, a whole model)."""
VERSION_TAG = "llmops.quantized_version"
"""Of a quantized version: that artifact as a reference, such as models:/quickstart/3, where it had one."""


def beside_tag(adapter: str) -> str:
    """Of a quantized base: the tag that says an adapter of this digest is served on it; its value is the scheme.

    One base serves many adapters, and each that was judged on it has a tag of its own.
    """
    return f"llmops.quantized_beside.{adapter}"


def made_from(digest: str, scheme: str, *, workspace: Workspace) -> ModelVersion | None:
    """The newest version that says by itself what the artifact `digest` says, quantized by `scheme`; None without one.

    A quantized base that an adapter stands beside is found by the base's digest here, by the adapter's with
    `made_beside`.
    """
    return _newest({FROM_TAG: digest, SCHEME_TAG: scheme}, workspace)


def made_beside(adapter: str, scheme: str, *, workspace: Workspace) -> ModelVersion | None:
    """The newest base quantized by `scheme` for the adapter of this digest to be served on; None without one."""
    return _newest({beside_tag(adapter): scheme}, workspace)


def _newest(tags: Mapping[str, str], workspace: Workspace) -> ModelVersion | None:
    uri = workspace.tracking_uri
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).exists():
        return None
    client = connect(uri)
    wanted = " AND ".join(f"tag.`{tag}` = '{value}'" for tag, value in tags.items())
    with mlflow_faults(uri):
        found = list(pages(client.search_model_versions, filter_string=wanted))
    if not found:
        return None
    newest = max(found, key=lambda one: (one.creation_timestamp, int(one.version)))
    return store.find(newest.name, str(newest.version), workspace=workspace)
