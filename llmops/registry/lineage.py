"""From a version back to all it was made of, and forward to all that was made of it: trees over plain records."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmops.records import RunManifest
from llmops.registry.reference import registry_name
from llmops.registry.store import ModelVersion

_RELATION = {"merged": "merged from", "quantized": "quantized from"}


@dataclass(frozen=True, slots=True)
class Ancestor:
    """A version with the run it is from, and the version that run started from.

    Attributes:
        manifest: None where the record of the run is gone; the version's tags say what is known then.
        base: the registered version whose bytes the run started from; None where the base is no version.
        seen: the base is a version named further down in this line, so the line ends here.
    """

    version: ModelVersion
    manifest: RunManifest | None
    base: Ancestor | None
    seen: str | None = None

    @property
    def base_reference(self) -> str | None:
        """The base as the recipe names it."""
        return _lineage(self.manifest, "base") or self.version.tags.get("llmops.base")

    @property
    def base_revision(self) -> str | None:
        return _lineage(self.manifest, "base_revision") or self.version.tags.get("llmops.base_revision")

    @property
    def base_digest(self) -> str | None:
        return _lineage(self.manifest, "base_digest") or self.version.tags.get("llmops.base_digest")

    @property
    def dataset(self) -> str | None:
        """The digest of the dataset version."""
        return _lineage(self.manifest, "dataset") or self.version.tags.get("llmops.data")

    def line(self) -> Iterator[Ancestor]:
        """This version, then what it was made from, and so on."""
        here: Ancestor | None = self
        while here is not None:
            yield here
            here = here.base


@dataclass(frozen=True, slots=True)
class Descendant:
    """A version made from another one; `relation` says how: trained, merged or quantized from it."""

    version: ModelVersion
    relation: str
    made: tuple[Descendant, ...]

    def every(self) -> Iterator[Descendant]:
        """This one and all that was made from it in turn."""
        yield self
        for one in self.made:
            yield from one.every()


def ancestry(
    version: ModelVersion,
    versions: Sequence[ModelVersion],
    manifest_of: Callable[[ModelVersion], RunManifest | None],
    merged: Mapping[str, str] | None = None,
) -> Ancestor:
    """What a version was made from, as far back as versions are registered.

    Args:
        versions: all of the registry. Where several have the base's bytes, the one the recipe names counts, else
            the oldest.
        merged: by the digest of each merged folder, that of the adapter in it, which stands for a base that is none
            of the versions.
    """
    return _ancestor(version, versions, manifest_of, merged or {}, {})


def _ancestor(
    version: ModelVersion,
    versions: Sequence[ModelVersion],
    manifest_of: Callable[[ModelVersion], RunManifest | None],
    merged: Mapping[str, str],
    before: Mapping[str, str],
) -> Ancestor:
    alone = Ancestor(version, manifest_of(version), None)
    digest = alone.base_digest
    if digest is None:
        return alone
    known = {**before, version.digest or version.reference: version.reference}
    bases = _with_digest(digest, versions) or _with_digest(merged.get(digest, ""), versions)
    if not bases:
        return alone
    named = next((one for one in bases if _is_named(one, alone)), bases[0])
    if named.digest in known:
        return Ancestor(version, alone.manifest, None, seen=known[named.digest])
    return Ancestor(version, alone.manifest, _ancestor(named, versions, manifest_of, merged, known))


def _with_digest(digest: str, versions: Sequence[ModelVersion]) -> list[ModelVersion]:
    """The versions with these bytes, the oldest first."""
    return sorted((one for one in versions if digest and one.digest == digest), key=lambda one: one.created)


def _is_named(version: ModelVersion, user: Ancestor) -> bool:
    """Whether it is the version that the recipe of `user` named as its base."""
    parts = registry_name(user.base_reference or "")
    return parts is not None and parts[0] == version.name and user.base_revision in (None, str(version.version))


def descendants(
    digests: Collection[str], versions: Sequence[ModelVersion], seen: Collection[str] = ()
) -> tuple[Descendant, ...]:
    """What was trained, merged or quantized from artifacts with these digests, and from those in turn; each once."""
    found: list[Descendant] = []
    known = {*seen, *digests}
    for version in sorted(versions, key=lambda one: (one.created, one.name, one.version)):
        if version.tags.get("llmops.base_digest") not in digests or version.digest in known or version.digest is None:
            continue
        same = [one for one in versions if one.digest == version.digest]
        known.add(version.digest)
        made = descendants({version.digest}, versions, known)
        known |= {one.version.digest or "" for child in made for one in child.every()}
        relation = _RELATION.get(version.kind or "", "trained from")
        found += [Descendant(one, relation, made if one is same[0] else ()) for one in same]
    return tuple(found)


def _lineage(manifest: RunManifest | None, key: str) -> Any:
    return None if manifest is None else manifest.lineage.get(key)
