"""A table of swappable parts by name: ours by decorator or from a list, others' by entry point."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import entry_points
from typing import Generic, TypeVar

from llmops.errors import InputError, nearest

Part = TypeVar("Part")


class Catalog(Generic[Part]):
    """Parts of one kind. Packages add theirs under the entry-point group `llmops.<kind>s`."""

    def __init__(self, kind: str, parts: Mapping[str, Part] | None = None) -> None:
        self.kind = kind
        self._parts = dict(parts or {})

    def add(self, name: str) -> Callable[[Part], Part]:
        """Decorator that files a part under `name`; a name is given once."""

        def file(part: Part) -> Part:
            if name in self._parts:
                raise ValueError(f"{self.kind} {name!r} is defined twice")
            self._parts[name] = part
            return part

        return file

    def __getitem__(self, name: str) -> Part:
        if name in self._parts:
            return self._parts[name]
        for entry in entry_points(group=f"llmops.{self.kind}s"):
            if entry.name == name:
                part: Part = entry.load()
                self._parts[name] = part
                return part
        known = sorted(self)
        raise InputError(
            f"no {self.kind} is called {name!r}{nearest(name, known)}", fix=f"use one of: {', '.join(known)}"
        )

    def __iter__(self) -> Iterator[str]:
        outside = (entry.name for entry in entry_points(group=f"llmops.{self.kind}s"))
        return iter(sorted({*self._parts, *outside}))
