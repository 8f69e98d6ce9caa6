"""Served requests as items to be rated: those the gateway kept, drawn by chance with the probability written down."""

from __future__ import annotations

import json
import random
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from difflib import SequenceMatcher
from typing import TYPE_CHECKING, Any

from llmops.errors import InputError, nearest
from llmops.feedback.campaign import FromLedger, Kind
from llmops.feedback.drawing import drawn, item_of, with_probability
from llmops.feedback.items import NewItem, Response
from llmops.serve import ledger_tables

if TYPE_CHECKING:
    from sqlalchemy import Engine
    from sqlalchemy.engine import RowMapping

_GAP = re.compile(r"learned: gap (-?\d+\.\d+), (?:from|below) (-?\d+\.\d+)")
_DAY_S = 86_400.0
_LEAST = 0.05
"""Weight of what nothing speaks for, beside 1 for what all speaks for: nothing is never drawn."""
_DECODING = ("temperature", "top_p", "top_k", "seed", "max_tokens", "max_completion_tokens", "stop")
_COMPARED = 2_000
"""Characters of two answers that are compared."""


def ledger_items(engine: Engine, wanted: FromLedger, kind: Kind, draw: random.Random) -> tuple[list[NewItem], int]:
    """The items, and how many kept requests could not become one (no text, an error, no second answer).

    A pairwise campaign compares the answer with that of the request's shadow copy; other kinds take the answer alone.

    Raises:
        InputError: nothing was kept that could be rated.
    """
    found: list[NewItem] = []
    weights: list[float] = []
    unusable = 0
    pairs = kind in ("pairwise", "ranking")
    for group in _kept(engine, wanted):
        item = _item(group, wanted, pairs=pairs)
        if item is None:
            unusable += 1
            continue
        found.append(item)
        weights.append(_weight(wanted, group[0], item))
    if not found:
        raise InputError(_nothing(engine, wanted, unusable, pairs=pairs), fix=_advice(pairs=pairs))
    chosen = drawn(weights, wanted.sample, draw)
    return [with_probability(found[place], chance) for place, chance in chosen], unusable


def _kept(engine: Engine, wanted: FromLedger) -> Iterator[list[RowMapping]]:
    """Requests that were kept, each with its shadow copies behind it, the oldest first."""
    from sqlalchemy import func, select

    requests, captured = ledger_tables.requests(), ledger_tables.captured()
    whole = func.coalesce(requests.c.shadow_of, requests.c.id)
    query = (
        select(requests, captured.c.probability, captured.c.request.label("asked"), captured.c.answer)
        .join(captured, captured.c.id == requests.c.id)
        .where(requests.c.status == 200)
        .order_by(whole, requests.c.shadow_of.is_not(None), requests.c.id)
    )
    if wanted.route is not None:
        query = query.where(requests.c.route == wanted.route)
    if wanted.days is not None:
        query = query.where(requests.c.at >= time.time() - wanted.days * _DAY_S)
    group: list[RowMapping] = []
    with engine.connect() as connection:
        for row in connection.execution_options(yield_per=500).execute(query).mappings():
            if group and (row["shadow_of"] or row["id"]) != group[0]["id"]:
                yield group
                group = []
            if group or row["shadow_of"] is None:  # a copy whose original was not kept says nothing
                group.append(row)
    if group:
        yield group


def _item(group: Sequence[RowMapping], wanted: FromLedger, *, pairs: bool) -> NewItem | None:
    first = group[0]
    prompt = prompt_of(json.loads(first["asked"]))
    answers = [one for row in (group if pairs else group[:1]) if (one := _response(row)) is not None]
    if prompt is None or len(answers) < (2 if pairs else 1):
        return None
    if pairs and answers[0].text.strip() == answers[1].text.strip():
        return None
    source = {"request": first["id"], "route": first["route"], "at": first["at"], "policy": wanted.by}
    return item_of(prompt, answers[: 2 if pairs else 1], source, probability=first["probability"])


def prompt_of(request: Any) -> tuple[Mapping[str, Any], ...] | None:
    """The turns of a request that was kept; None where it holds other things than text."""
    if not isinstance(request, dict):
        return None
    if isinstance(request.get("prompt"), str):
        return ({"role": "user", "content": request["prompt"]},)
    turns = request.get("messages")
    if not isinstance(turns, list) or not turns or request.get("tools"):
        return None
    found = [{"role": turn.get("role"), "content": _text(turn.get("content"))} for turn in turns]
    return None if any(turn["content"] is None for turn in found) else tuple(found)


def answer_of(answer: Any) -> tuple[str, str | None] | None:
    """Text and finish reason of an answer that was kept; None where it is no text, or was cut short by a fault."""
    try:
        choice = answer["choices"][0]
        text = choice["message"]["content"] if "message" in choice else choice["text"]
    except (KeyError, IndexError, TypeError):
        return None
    if not isinstance(text, str) or not text.strip() or choice.get("finish_reason") is None:
        return None
    return text, choice["finish_reason"]


def _text(content: Any) -> str | None:
    if isinstance(content, str):
        return content
    if isinstance(content, list) and all(isinstance(one, dict) and one.get("type") == "text" for one in content):
        return "\n".join(str(one.get("text", "")) for one in content)
    return None


def _response(row: RowMapping) -> Response | None:
    found = answer_of(json.loads(row["answer"]))
    if found is None:
        return None
    asked = json.loads(row["asked"])
    detail = {
        "request": row["id"],
        "engine": row["engine"],
        "reason": row["reason"],
        "side": row["side"],
        "finish": found[1],
        "tokens": row["completion_tokens"],
        "decoding": {name: asked[name] for name in _DECODING if name in asked},
    }
    return Response(found[0], row["version"], {name: value for name, value in detail.items() if value is not None})


def _weight(wanted: FromLedger, row: RowMapping, item: NewItem) -> float:
    match wanted.by:
        case "uniform":
            return 1.0
        case "uncertainty":
            gap = _GAP.match(row["reason"] or "")
            doubt = 0.0 if gap is None else max(0.0, 1.0 - abs(float(gap[1]) - float(gap[2])))
            return max(_LEAST, doubt**4)  # the fourth power: gaps within a tenth of the threshold stand out
        case "disagreement":
            texts = [one.text[:_COMPARED] for one in item.responses]
            alike = SequenceMatcher(None, texts[0], texts[1]).ratio() if len(texts) == 2 else 1.0
            return max(_LEAST, 1.0 - alike)


def _nothing(engine: Engine, wanted: FromLedger, unusable: int, *, pairs: bool) -> str:
    from sqlalchemy import select

    requests = ledger_tables.requests()
    with engine.connect() as connection:
        known = [one for one in connection.execute(select(requests.c.route).distinct()).scalars() if one]
    if wanted.route is not None and wanted.route not in known:
        return f"the ledger has no requests of a route {wanted.route!r}{nearest(wanted.route, known)}"
    what = "two different answers" if pairs else "an answer"
    return f"none of the requests in the ledger was kept with {what} ({unusable} cannot be rated)"


def _advice(*, pairs: bool) -> str:
    both = " and `shadow: {to: ENGINE, share: 0.1}`, which asks a second model" if pairs else ""
    return f"give the route `capture: {{share: 0.1}}`{both} in gateway.yaml, and wait for requests"


def thumbs_given(engine: Engine, route: str | None) -> Iterator[tuple[NewItem, Mapping[str, Any]]]:
    """What clients said through `/v1/feedback` of requests that were kept: the item, and the row they left."""
    from sqlalchemy import select

    table = ledger_tables.feedback()
    with engine.connect() as connection:
        rows = connection.execute(select(table).order_by(table.c.request, table.c.at)).mappings().all()
    by_request: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        by_request.setdefault(row["request"], []).append(dict(row))
    wanted = FromLedger(**{"from": "ledger"}, route=route)
    for group in _kept(engine, wanted):
        given = by_request.get(group[0]["id"])
        item = _item(group, wanted, pairs=False) if given else None
        if item is not None:
            for said in given or ():
                yield item, said
