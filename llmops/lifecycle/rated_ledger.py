"""Served requests as items to be rated: those the gateway kept, drawn by chance with the probability written down."""

from __future__ import annotations

import json
import random
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from difflib import SequenceMatcher
from typing import TYPE_CHECKING, Any

from llmops.errors import InputError, nearest
from llmops.feedback.campaign import ByJudges, FromLedger, Kind
from llmops.feedback.drawing import item_of
from llmops.feedback.items import NewItem, Response
from llmops.lifecycle.disagreement import drawn_by, policy_of
from llmops.serve import ledger_tables

if TYPE_CHECKING:
    from sqlalchemy import Engine
    from sqlalchemy.engine import RowMapping

_GAP = re.compile(r"learned: gap (-?\d+\.\d+), (?:from|below) (-?\d+\.\d+)")
_DAY_S = 86_400.0
_SMALL_CHOSEN = re.compile(r"learned: gap \S+, below|routine:|cascade:")
"""Reasons of a router that took the small model to be enough."""
_DECODING = ("temperature", "top_p", "top_k", "seed", "max_tokens", "max_completion_tokens", "stop")
_COMPARED = 2_000
"""Characters of two answers that are compared."""


Ask = Callable[[ByJudges, Sequence[NewItem]], list[float]]
"""How far judges disagree on each of some items."""


def ledger_items(
    engine: Engine,
    wanted: FromLedger,
    kind: Kind,
    draw: random.Random,
    *,
    at: float | None = None,
    ask: Ask | None = None,
) -> tuple[list[NewItem], int]:
    """The items, and how many kept requests could not become one (no text, an error, no second answer).

    A pairwise campaign compares the answer with that of the request's shadow copy; other kinds take the answer alone.
    The probability of an item is the product of those of each step that it went through: the gateway kept it, it was
    among those judges were asked about, and it was drawn of them. Weighting by its inverse makes sums unbiased
    (Särndal, Swensson and Wretman 1992, section 9.3, the π* estimator of sampling in two phases).

    Args:
        at: requests until then are drawn from, in seconds since the epoch, and `wanted.days` counts back from it; None:
            all of them, and from now.
        ask: asks the judges; needed where it is drawn by them.

    Raises:
        InputError: nothing was kept that could be rated, or that tells how likely each is to be drawn.
    """
    found: list[NewItem] = []
    rows: list[RowMapping] = []
    unusable = 0
    pairs = kind in ("pairwise", "ranking")
    for group in _kept(engine, wanted, at):
        item = _item(group, wanted, pairs=pairs)
        if item is None:
            unusable += 1
            continue
        found.append(item)
        rows.append(group[0])
    if not found:
        raise InputError(_nothing(engine, wanted, unusable, pairs=pairs), fix=_advice(pairs=pairs))
    if isinstance(wanted.by, ByJudges):
        if ask is None:
            raise ValueError("judges are to be asked, and nobody says how")
        found = drawn_by([1.0] * len(found), found, wanted.by.asked, draw)
        disagreement = ask(wanted.by, found)
    else:
        disagreement = _told(engine, wanted.by, rows, found)
    return drawn_by(disagreement, found, wanted.sample, draw), unusable


def _kept(engine: Engine, wanted: FromLedger, until: float | None = None) -> Iterator[list[RowMapping]]:
    """Requests that were kept until then, each with its shadow copies behind it, the oldest first."""
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
        query = query.where(requests.c.at >= (time.time() if until is None else until) - wanted.days * _DAY_S)
    if until is not None:
        query = query.where(requests.c.at <= until)
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
    source = {"request": first["id"], "route": first["route"], "at": first["at"], "policy": policy_of(wanted.by)}
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


def _told(engine: Engine, by: str, rows: Sequence[RowMapping], items: Sequence[NewItem]) -> list[float]:
    """What speaks for drawing each request, 0 to 1.

    uncertainty: (1 − |gap − threshold|)⁴ of the learned router, 0 where it did not decide; the fourth power lets gaps
    within a tenth of the threshold stand out. disagreement: 1 − the share of characters that the two answers have in
    common. router: where it took the small model to be enough, 1 if the cascade went on to the large one, else the
    share of the callers who said something of the answer that last gave a thumb down or a correction; 0 elsewhere,
    since of an answer of the large model nothing tells that the small one's was as good.

    Raises:
        InputError: no request tells it.
    """
    match by:
        case "uncertainty":
            gaps = [_GAP.match(row["reason"] or "") for row in rows]
            if not any(gaps):
                raise InputError(
                    f"none of {len(rows)} requests that were kept was routed by a learned router, so its doubt is not "
                    "known",
                    fix="give the route `router: FILE` as `llmops route calibrate` writes it, and wait for requests; "
                    "or draw by something else",
                )
            return [0.0 if one is None else max(0.0, 1.0 - abs(float(one[1]) - float(one[2]))) ** 4 for one in gaps]
        case "disagreement":
            if any(len(item.responses) < 2 for item in items):
                raise InputError(
                    "two answers are needed to disagree, and this campaign shows one",
                    fix="make it a pairwise campaign, of a route with `shadow`, or draw by something else",
                )
            return [_unlike(*(one.text[:_COMPARED] for one in item.responses)) for item in items]
        case "router":
            return _against_router(engine, rows)
        case _:
            return [1.0] * len(items)


def _unlike(first: str, second: str) -> float:
    return 1.0 - SequenceMatcher(None, first, second).ratio()


def _against_router(engine: Engine, rows: Sequence[RowMapping]) -> list[float]:
    said = _content(engine)
    told: list[float | None] = []
    for row in rows:
        reason = row["reason"] or ""
        if row["escalated"]:
            told.append(1.0)
        elif not _SMALL_CHOSEN.match(reason):
            told.append(None)
        elif row["id"] in said:
            told.append(1.0 - sum(said[row["id"]]) / len(said[row["id"]]))
        else:
            told.append(0.0 if reason.startswith("cascade:") else None)
    if all(one is None for one in told):
        raise InputError(
            f"none of {len(rows)} requests that were kept tells whether its router chose well: none went through a "
            "cascade, and no client said anything of an answer of the small model",
            fix="give the route `policy: cascade`, have clients send /v1/feedback, or have judges compare the answer "
            "with the shadow's: by: {judges: […], against: router}",
        )
    return [one or 0.0 for one in told]


def _content(engine: Engine) -> dict[str, list[bool]]:
    """By request, of each caller whether they were content with the answer in the last thing they said of it."""
    from sqlalchemy import select

    table = ledger_tables.feedback()
    last: dict[str, dict[str | None, bool]] = {}
    with engine.connect() as connection:
        for row in connection.execute(select(table).order_by(table.c.at)).mappings():
            if row["thumb"] is not None or row["correction"]:
                last.setdefault(row["request"], {})[row["key"]] = row["thumb"] != "down" and not row["correction"]
    return {request: list(callers.values()) for request, callers in last.items()}


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
