"""The tables of the rating service. Rows are only added; what changes in time is an event, or a new row that names the
old one. Two exceptions, each for a reason: `people`, `raters` and what hangs on them can be erased; `openings`,
`leases`, `campaign_totals` and `rater_totals` are no records but indexes of what is free, what is out and how much
there is, which `llmops.feedback.rebuilding` makes anew from the others at any time; nor is `events_to_link`.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlalchemy import MetaData, Table


@cache
def metadata() -> MetaData:
    """All of them, as `migrations/versions/` 0003 and 0004 make them."""
    from sqlalchemy import BigInteger, Boolean, Column, Double, Index, Integer, MetaData, Table, Text, text

    gold, free = text("kind = 'gold'"), text("free > 0")

    known = MetaData()
    Table(
        "campaigns",
        known,
        Column("name", Text, primary_key=True),
        Column("at", Double, nullable=False),
        Column("settings", Text, nullable=False),  # JSON of `Campaign`
    )
    Table(
        "campaign_rubrics",  # each version people were shown, the newest last
        known,
        Column("campaign", Text, primary_key=True),
        Column("place", Integer, primary_key=True),
        Column("at", Double, nullable=False),
        Column("digest", Text, nullable=False),
        Column("content", Text, nullable=False),  # JSON of `Rubric`
    )
    Table(
        "rated_items",
        known,
        Column("id", Text, primary_key=True),  # random: says nothing of where it came from
        Column("campaign", Text, nullable=False),
        Column("place", BigInteger, nullable=False),  # in the order they came in, from 0
        Column("kind", Text, nullable=False),  # normal, gold
        Column("prompt", Text, nullable=False),  # JSON list of messages
        Column("prompt_digest", Text, nullable=False),
        Column("cluster", Text, nullable=False),  # digest that near-duplicate prompts share
        Column("source", Text, nullable=False),  # JSON: request, or report and item, or file and line; policy
        Column("probability", Double, nullable=False),  # with which it was drawn
        Column("overlap", Integer, nullable=False),
        Column("priority", Integer, nullable=False),  # higher first
        Column("language", Text),
        Column("tags", Text, nullable=False),  # JSON list
        Column("expected", Text),  # JSON of a verdict, gold alone; positions are the responses' places
        Index("rated_items_campaign", "campaign", "place", unique=True),
        Index("rated_items_cluster", "campaign", "cluster"),
        Index("rated_items_gold", "campaign", "place", sqlite_where=gold, postgresql_where=gold),
    )
    Table(
        "rated_responses",
        known,
        Column("item", Text, primary_key=True),
        Column("place", Integer, primary_key=True),  # from 0; raters see them in the assignment's order
        Column("text", Text, nullable=False),
        Column("model", Text),  # models:/name/3, or however the source calls it
        Column("detail", Text, nullable=False),  # JSON: decoding, template digest, finish reason, tokens, route, side
    )
    Table(
        "assignments",
        known,
        Column("id", Text, primary_key=True),  # random
        Column("campaign", Text, nullable=False),
        Column("item", Text, nullable=False),
        Column("rater", Text, nullable=False),
        Column("round", Integer, nullable=False),  # 0; from 1 on where the rater is asked the same again
        Column("kind", Text, nullable=False),  # normal, gold, repeat, training
        Column("at", Double, nullable=False),
        Column("until", Double, nullable=False),  # of the lease, when it was given; extensions are events
        Column("shown", Text, nullable=False),  # JSON: places of the responses as shown
        Column("policy", Text, nullable=False),  # which version of the rules gave it
        Index("assignments_once", "item", "rater", "round", unique=True),
        Index("assignments_rater", "campaign", "rater", "at"),
    )
    Table(
        "ratings",
        known,
        Column("id", Text, primary_key=True),  # the page's UUID
        Column("assignment", Text, nullable=False),
        Column("campaign", Text, nullable=False),
        Column("item", Text, nullable=False),
        Column("rater", Text, nullable=False),
        Column("at", Double, nullable=False),  # when it arrived
        Column("rubric", Text, nullable=False),  # digest
        Column("said", Text, nullable=False),  # verdict, skip
        Column("content", Text, nullable=False),  # JSON of `Given.content()`
        Column("supersedes", Text, unique=True),
        Column("surplus", Boolean, nullable=False),  # came after its lease, when others had filled the overlap
        Index("ratings_item", "item"),
        Index("ratings_campaign", "campaign", "at"),
        Index("ratings_assignment", "assignment"),
        Index("ratings_rater", "rater", "campaign", "at"),
    )
    Table(
        "rating_events",
        known,
        Column("id", Text, primary_key=True),
        Column("campaign", Text),
        Column("at", Double, nullable=False),
        Column("kind", Text, nullable=False),  # extended, released, paused, resumed, reopened, invited, erased, …
        Column("subject", Text, nullable=False),  # id of an assignment, item, rater or export
        Column("actor", Text, nullable=False),  # pseudonym, or `service`
        Column("detail", Text, nullable=False),  # JSON
        Index("rating_events_subject", "subject"),
        Index("rating_events_campaign", "campaign", "kind", "at"),
    )
    Table(
        "event_links",  # the chain over those events, leases left out; see `audit`
        known,
        Column("sequence", BigInteger, primary_key=True, autoincrement=False),
        Column("event", Text, nullable=False, unique=True),
        Column("previous", Text, nullable=False),
        Column("digest", Text, nullable=False),
    )
    Table(
        "events_to_link",
        known,
        Column("event", Text, primary_key=True),
    )
    Table(
        "raters",
        known,
        Column("id", Text, primary_key=True),  # the pseudonym that ratings and exports carry
        Column("at", Double, nullable=False),
        Column("languages", Text, nullable=False),  # JSON list
        Column("qualifications", Text, nullable=False),  # JSON list
        Column("consent", Text, nullable=False),  # which version of the terms was agreed to; "" none
    )
    Table(
        "openings",  # one row per normal item: what is free of its overlap
        known,
        Column("item", Text, primary_key=True),
        Column("campaign", Text, nullable=False),
        Column("free", Integer, nullable=False),
        Column("rank", Integer, nullable=False),  # its priority, negated, so that rank and place ascend together
        Column("place", BigInteger, nullable=False),
        Column("language", Text, nullable=False),  # "" for none
        Column("since", Double, nullable=False),  # when something of it last became free
        # Of the indexes, the used-up items are no part: a million of them cost the next task nothing.
        Index("openings_next", "campaign", "language", "rank", "place", sqlite_where=free, postgresql_where=free),
        Index("openings_since", "campaign", "since", sqlite_where=free, postgresql_where=free),
    )
    Table(
        "leases",  # one row per assignment that is out: when it ends; also rebuilt from the others
        known,
        Column("assignment", Text, primary_key=True),
        Column("campaign", Text, nullable=False),
        Column("item", Text, nullable=False),
        Column("rater", Text, nullable=False),
        Column("until", Double, nullable=False),
        Index("leases_until", "campaign", "until"),
        Index("leases_rater", "campaign", "rater"),
    )
    Table(
        "campaign_totals",
        known,
        Column("campaign", Text, primary_key=True),
        Column("size", BigInteger, nullable=False),  # of any kind; also the next one's place
        Column("gold", Integer, nullable=False),
        Column("wanted", BigInteger, nullable=False),  # ratings: normal items times overlap, and what was re-opened
        Column("languages", Text, nullable=False),  # JSON list of those its normal items have, "" among them
    )
    Table(
        "rater_totals",  # one row per rater and campaign, so that two raters never wait for one another's count
        known,
        Column("campaign", Text, primary_key=True),
        Column("rater", Text, primary_key=True),
        Column("normal", Integer, nullable=False),  # assignments of each kind
        Column("gold", Integer, nullable=False),
        Column("repeat", Integer, nullable=False),
        Column("training", Integer, nullable=False),
        Column("rated", Integer, nullable=False),  # assignments whose newest rating is a verdict
        Column("counted", Integer, nullable=False),  # of those, the ones that fill an overlap
        Column("gold_right", Integer, nullable=False),
        Column("gold_of", Integer, nullable=False),
        Column("judged_from", Text, nullable=False),  # JSON [right, of] when last resumed: what is forgiven
        Column("paused", Boolean, nullable=False),
    )
    Table(
        "people",
        known,
        Column("rater", Text, primary_key=True),
        Column("login", Text, nullable=False, unique=True),
        Column("name", Text, nullable=False),
        Column("role", Text, nullable=False),  # admin, owner, rater
        Column("password", Text),  # argon2's own text; null where an OpenID provider vouches
        Column("subject", Text, unique=True),  # issuer and subject of that provider
        Column("at", Double, nullable=False),
        Column("ended", Double),  # when the account was closed
    )
    Table(
        "people_sessions",
        known,
        Column("digest", Text, primary_key=True),  # sha256 of the cookie
        Column("rater", Text, nullable=False),
        Column("csrf", Text, nullable=False),
        Column("at", Double, nullable=False),
        Column("seen", Double, nullable=False),
        Column("until", Double, nullable=False),
        Index("people_sessions_rater", "rater"),
    )
    Table(
        "invitations",
        known,
        Column("digest", Text, primary_key=True),  # sha256 of the link's secret
        Column("role", Text, nullable=False),
        Column("campaigns", Text, nullable=False),  # JSON list; owners and raters see these alone, [] all
        Column("languages", Text, nullable=False),
        Column("qualifications", Text, nullable=False),
        Column("at", Double, nullable=False),
        Column("until", Double, nullable=False),
        Column("by", Text, nullable=False),
        Column("used", Double),
        Column("rater", Text),  # whose password the link sets anew; null where it makes an account
    )
    Table(
        "memberships",  # who may rate or own which campaign
        known,
        Column("campaign", Text, primary_key=True),
        Column("rater", Text, primary_key=True),
        Column("at", Double, nullable=False),
        Index("memberships_rater", "rater"),
    )
    return known


def table(name: str) -> Table:
    """One of them."""
    return metadata().tables[name]


def storable(text: str) -> str:
    """The text as it is kept: half a surrogate pair is in no encoding, and PostgreSQL takes no NUL; both become �."""
    if text.isascii() and "\0" not in text:
        return text
    return text.replace("\0", "\ufffd").encode("utf-16", "surrogatepass").decode("utf-16", "replace")
