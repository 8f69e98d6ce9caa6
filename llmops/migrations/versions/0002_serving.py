"""What was served: one row per request, the prompts and answers that are kept, and what people said of answers."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "requests",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("key", sa.Text),
        sa.Column("endpoint", sa.Text, nullable=False),
        sa.Column("route", sa.Text),
        sa.Column("engine", sa.Text),
        sa.Column("version", sa.Text),
        sa.Column("reason", sa.Text),
        sa.Column("prompt_tokens", sa.BigInteger),
        sa.Column("completion_tokens", sa.BigInteger),
        sa.Column("cached_tokens", sa.BigInteger),
        sa.Column("first_token", sa.Double),
        sa.Column("total", sa.Double),
        sa.Column("status", sa.Integer, nullable=False),
        sa.Column("error", sa.Text),
        sa.Column("usd", sa.Double),
        sa.Column("retries", sa.Integer, nullable=False),
        sa.Column("fallback", sa.Boolean, nullable=False),
        sa.Column("from_cache", sa.Boolean, nullable=False),
        sa.Column("side", sa.Text),
        sa.Column("shadow_of", sa.Text),
        sa.Column("escalated", sa.Boolean, nullable=False),
        sa.Column("session", sa.Text),
        sa.Column("stream", sa.Boolean, nullable=False),
        sa.Column("tags", sa.Text, nullable=False),  # a JSON list
        sa.Column("trace", sa.Text),
    )
    op.create_index("requests_at", "requests", ["at"])
    op.create_index("requests_key_at", "requests", ["key", "at"])
    op.create_index("requests_route_at", "requests", ["route", "at"])
    op.create_table(
        "captured",
        sa.Column("id", sa.Text, primary_key=True),  # the request's
        sa.Column("probability", sa.Double, nullable=False),
        sa.Column("request", sa.Text, nullable=False),  # JSON
        sa.Column("answer", sa.Text, nullable=False),  # JSON
        sa.Column("until", sa.Double, nullable=False),
    )
    op.create_index("captured_until", "captured", ["until"])
    op.create_table(
        "feedback",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("request", sa.Text, nullable=False),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("key", sa.Text),
        sa.Column("thumb", sa.Text),
        sa.Column("score", sa.Double),
        sa.Column("comment", sa.Text),
        sa.Column("correction", sa.Text),
    )
    op.create_index("feedback_request", "feedback", ["request"])
    op.create_index("feedback_at", "feedback", ["at"])
