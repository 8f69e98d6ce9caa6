"""What people rate: campaigns, items, assignments, ratings; the raters, and the people behind them."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

_ADDED_ONLY = ("campaign_rubrics", "rated_items", "rated_responses", "assignments", "ratings", "rating_events")
_GOLD = sa.text("kind = 'gold'")
_FREE = sa.text("free > 0")


def upgrade() -> None:
    op.create_table(
        "campaigns",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("settings", sa.Text, nullable=False),
    )
    op.create_table(
        "campaign_rubrics",
        sa.Column("campaign", sa.Text, primary_key=True),
        sa.Column("place", sa.Integer, primary_key=True),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("content", sa.Text, nullable=False),
    )
    op.create_table(
        "rated_items",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("campaign", sa.Text, nullable=False),
        sa.Column("place", sa.BigInteger, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("prompt", sa.Text, nullable=False),
        sa.Column("prompt_digest", sa.Text, nullable=False),
        sa.Column("cluster", sa.Text, nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("probability", sa.Double, nullable=False),
        sa.Column("overlap", sa.Integer, nullable=False),
        sa.Column("priority", sa.Integer, nullable=False),
        sa.Column("language", sa.Text),
        sa.Column("tags", sa.Text, nullable=False),
        sa.Column("expected", sa.Text),
    )
    op.create_index("rated_items_campaign", "rated_items", ["campaign", "place"], unique=True)
    op.create_index("rated_items_cluster", "rated_items", ["campaign", "cluster"])
    op.create_index(
        "rated_items_gold", "rated_items", ["campaign", "place"], sqlite_where=_GOLD, postgresql_where=_GOLD
    )
    op.create_table(
        "rated_responses",
        sa.Column("item", sa.Text, primary_key=True),
        sa.Column("place", sa.Integer, primary_key=True),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("model", sa.Text),
        sa.Column("detail", sa.Text, nullable=False),
    )
    op.create_table(
        "assignments",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("campaign", sa.Text, nullable=False),
        sa.Column("item", sa.Text, nullable=False),
        sa.Column("rater", sa.Text, nullable=False),
        sa.Column("round", sa.Integer, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("until", sa.Double, nullable=False),
        sa.Column("shown", sa.Text, nullable=False),
        sa.Column("policy", sa.Text, nullable=False),
    )
    op.create_index("assignments_once", "assignments", ["item", "rater", "round"], unique=True)
    op.create_index("assignments_rater", "assignments", ["campaign", "rater", "at"])
    op.create_table(
        "ratings",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("assignment", sa.Text, nullable=False),
        sa.Column("campaign", sa.Text, nullable=False),
        sa.Column("item", sa.Text, nullable=False),
        sa.Column("rater", sa.Text, nullable=False),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("rubric", sa.Text, nullable=False),
        sa.Column("said", sa.Text, nullable=False),
        sa.Column("content", sa.Text, nullable=False),
        sa.Column("supersedes", sa.Text, unique=True),
        sa.Column("surplus", sa.Boolean, nullable=False),
    )
    op.create_index("ratings_item", "ratings", ["item"])
    op.create_index("ratings_campaign", "ratings", ["campaign", "at"])
    op.create_index("ratings_assignment", "ratings", ["assignment"])
    op.create_index("ratings_rater", "ratings", ["rater", "campaign", "at"])
    op.create_table(
        "rating_events",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("campaign", sa.Text),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("detail", sa.Text, nullable=False),
    )
    op.create_index("rating_events_subject", "rating_events", ["subject"])
    op.create_index("rating_events_campaign", "rating_events", ["campaign", "kind", "at"])
    op.create_table(
        "raters",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("languages", sa.Text, nullable=False),
        sa.Column("qualifications", sa.Text, nullable=False),
        sa.Column("consent", sa.Text, nullable=False),
    )
    op.create_table(
        "openings",
        sa.Column("item", sa.Text, primary_key=True),
        sa.Column("campaign", sa.Text, nullable=False),
        sa.Column("free", sa.Integer, nullable=False),
        sa.Column("rank", sa.Integer, nullable=False),
        sa.Column("place", sa.BigInteger, nullable=False),
        sa.Column("language", sa.Text, nullable=False),
        sa.Column("since", sa.Double, nullable=False),
    )
    op.create_index(
        "openings_next",
        "openings",
        ["campaign", "language", "rank", "place"],
        sqlite_where=_FREE,
        postgresql_where=_FREE,
    )
    op.create_index("openings_since", "openings", ["campaign", "since"], sqlite_where=_FREE, postgresql_where=_FREE)
    op.create_table(
        "leases",
        sa.Column("assignment", sa.Text, primary_key=True),
        sa.Column("campaign", sa.Text, nullable=False),
        sa.Column("item", sa.Text, nullable=False),
        sa.Column("rater", sa.Text, nullable=False),
        sa.Column("until", sa.Double, nullable=False),
    )
    op.create_index("leases_until", "leases", ["campaign", "until"])
    op.create_index("leases_rater", "leases", ["campaign", "rater"])
    op.create_table(
        "campaign_totals",
        sa.Column("campaign", sa.Text, primary_key=True),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("gold", sa.Integer, nullable=False),
        sa.Column("wanted", sa.BigInteger, nullable=False),
        sa.Column("languages", sa.Text, nullable=False),
    )
    op.create_table(
        "rater_totals",
        sa.Column("campaign", sa.Text, primary_key=True),
        sa.Column("rater", sa.Text, primary_key=True),
        sa.Column("normal", sa.Integer, nullable=False),
        sa.Column("gold", sa.Integer, nullable=False),
        sa.Column("repeat", sa.Integer, nullable=False),
        sa.Column("training", sa.Integer, nullable=False),
        sa.Column("rated", sa.Integer, nullable=False),
        sa.Column("counted", sa.Integer, nullable=False),
        sa.Column("gold_right", sa.Integer, nullable=False),
        sa.Column("gold_of", sa.Integer, nullable=False),
        sa.Column("judged_from", sa.Text, nullable=False),
        sa.Column("paused", sa.Boolean, nullable=False),
    )
    op.create_table(
        "people",
        sa.Column("rater", sa.Text, primary_key=True),
        sa.Column("login", sa.Text, nullable=False, unique=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("role", sa.Text, nullable=False),
        sa.Column("password", sa.Text),
        sa.Column("subject", sa.Text, unique=True),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("ended", sa.Double),
    )
    op.create_table(
        "people_sessions",
        sa.Column("digest", sa.Text, primary_key=True),
        sa.Column("rater", sa.Text, nullable=False),
        sa.Column("csrf", sa.Text, nullable=False),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("seen", sa.Double, nullable=False),
        sa.Column("until", sa.Double, nullable=False),
    )
    op.create_index("people_sessions_rater", "people_sessions", ["rater"])
    op.create_table(
        "invitations",
        sa.Column("digest", sa.Text, primary_key=True),
        sa.Column("role", sa.Text, nullable=False),
        sa.Column("campaigns", sa.Text, nullable=False),
        sa.Column("languages", sa.Text, nullable=False),
        sa.Column("qualifications", sa.Text, nullable=False),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("until", sa.Double, nullable=False),
        sa.Column("by", sa.Text, nullable=False),
        sa.Column("used", sa.Double),
        sa.Column("rater", sa.Text),
    )
    op.create_table(
        "memberships",
        sa.Column("campaign", sa.Text, primary_key=True),
        sa.Column("rater", sa.Text, primary_key=True),
        sa.Column("at", sa.Double, nullable=False),
    )
    if op.get_bind().dialect.name == "postgresql":
        for table in _ADDED_ONLY:
            op.execute(
                f"CREATE TRIGGER {table}_added_only BEFORE UPDATE OR DELETE ON {table} "
                "FOR EACH ROW EXECUTE FUNCTION llmops_added_only()"
            )
            op.execute(
                f"CREATE TRIGGER {table}_not_emptied BEFORE TRUNCATE ON {table} "
                "FOR EACH STATEMENT EXECUTE FUNCTION llmops_added_only()"
            )
        return
    for table in _ADDED_ONLY:
        for change in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER {table}_no_{change.lower()} BEFORE {change} ON {table} "
                f"BEGIN SELECT RAISE(ABORT, 'rows of {table} can only be added'); END"
            )
