"""Decisions on model versions: a chain per model in which every link holds the digest of the one before.

Rows can only be added (the database refuses anything else), and a row that was changed all the same breaks the chain
at its place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

from llmops.errors import EnvironmentFault, InputError
from llmops.files import digest_of

if TYPE_CHECKING:
    from sqlalchemy import Engine, Table

Kind = Literal["register", "approve", "reject", "promote", "rollback", "erase"]


@dataclass(frozen=True, slots=True)
class Decision:
    """One link of a model's chain.

    Attributes:
        sequence: from 1, without gaps.
        version: the one decided on; for `rollback` the one that becomes champion again.
        artifact: digest of that version's bytes.
        actor: who decided; for `register` who trained it.
        verdict: digest of the verdict an approval rests on; empty where there is none.
        override: an approval without a PASS, or despite unknown licences; `reason` then says why.
        previous: digest of the link before; empty for the first.
        digest: sha256 over all the rest.
    """

    model: str
    sequence: int
    kind: Kind
    version: int
    artifact: str
    actor: str
    time: str
    reason: str = ""
    verdict: str = ""
    override: bool = False
    previous: str = ""
    digest: str = ""


class Overtaken(InputError):
    """Somebody else decided on the same model in between."""


def chain(engine: Engine, model: str) -> list[Decision]:
    """All decisions on a model, the oldest first."""
    from sqlalchemy import select

    table = _table()
    with engine.connect() as connection:
        rows = connection.execute(select(table).where(table.c.model == model).order_by(table.c.sequence)).mappings()
        return [Decision(**{**row, "override": bool(row["override"])}) for row in rows]


def append(
    engine: Engine,
    known: Sequence[Decision],
    kind: Kind,
    *,
    model: str,
    version: int,
    artifact: str,
    actor: str,
    reason: str = "",
    verdict: str = "",
    override: bool = False,
) -> Decision:
    """The next link after `known`, written.

    Raises:
        Overtaken: the chain is longer than `known` by now.
    """
    from sqlalchemy import insert
    from sqlalchemy.exc import IntegrityError

    link = Decision(
        model=model,
        sequence=len(known) + 1,
        kind=kind,
        version=version,
        artifact=artifact,
        actor=actor,
        time=datetime.now(UTC).isoformat(timespec="seconds"),
        reason=reason,
        verdict=verdict,
        override=override,
        previous=known[-1].digest if known else "",
    )
    link = replace(link, digest=_digest(link))
    try:
        with engine.begin() as connection:
            connection.execute(insert(_table()).values(**asdict(link)))
    except IntegrityError as error:
        raise Overtaken(
            f"another decision on {model} was made at the same moment",
            fix=f"look at it with `llmops models history {model}`, and decide again",
        ) from error
    return link


def check_chain(links: Sequence[Decision]) -> None:
    """Raises EnvironmentFault at the first link that is not what was written."""
    before = ""
    for place, link in enumerate(links, 1):
        if link.sequence != place or link.previous != before or link.digest != _digest(link):
            raise EnvironmentFault(
                f"the decisions on {link.model} were tampered with: number {place} does not follow from those before",
                fix="restore the database from a backup made before; nothing is promoted until then",
            )
        before = link.digest


def sentence(link: Decision) -> str:
    """A decision as people read it."""
    reference = f"models:/{link.model}/{link.version}"
    said = {
        "register": f"{link.actor} trained {reference}",
        "approve": f"{link.actor} approved {reference}",
        "reject": f"{link.actor} rejected {reference}",
        "promote": f"{link.actor} made {reference} champion",
        "rollback": f"{link.actor} went back to {reference}",
        "erase": f"{link.actor} erased a rater whose ratings {reference} was trained on",
    }[link.kind]
    if link.verdict:
        said += f" on verdict {link.verdict[:12]}"
    if link.override:
        said += " BY OVERRIDE" if link.verdict else " WITHOUT A PASS"
    return said + (f": {link.reason}" if link.reason else "")


def _digest(link: Decision) -> str:
    return digest_of({key: value for key, value in asdict(link).items() if key != "digest"})


def _table() -> Table:
    from sqlalchemy import Boolean, Column, Integer, MetaData, Table, Text

    kinds: dict[str, Any] = {"sequence": Integer, "version": Integer, "override": Boolean}
    columns = (Column(name, kinds.get(name, Text)) for name in Decision.__dataclass_fields__)
    return Table("decisions", MetaData(), *columns)
