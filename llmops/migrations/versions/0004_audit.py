"""The chain of what was done around ratings, and memberships found by their rater."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

_OF_LEASES = ("extended", "released")


def upgrade() -> None:
    op.create_table(
        "event_links",
        sa.Column("sequence", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("event", sa.Text, nullable=False, unique=True),
        sa.Column("previous", sa.Text, nullable=False),
        sa.Column("digest", sa.Text, nullable=False),
    )
    op.create_table("events_to_link", sa.Column("event", sa.Text, primary_key=True))
    events = sa.table("rating_events", sa.column("id"), sa.column("kind"))
    waiting = sa.table("events_to_link", sa.column("event"))
    chosen = sa.select(events.c.id).where(events.c.kind.not_in(_OF_LEASES))
    op.execute(sa.insert(waiting).from_select(["event"], chosen))
    op.create_index("memberships_rater", "memberships", ["rater"])
    if op.get_bind().dialect.name == "postgresql":
        op.execute(
            "CREATE TRIGGER event_links_added_only BEFORE UPDATE OR DELETE ON event_links "
            "FOR EACH ROW EXECUTE FUNCTION llmops_added_only()"
        )
        op.execute(
            "CREATE TRIGGER event_links_not_emptied BEFORE TRUNCATE ON event_links "
            "FOR EACH STATEMENT EXECUTE FUNCTION llmops_added_only()"
        )
        return
    for change in ("UPDATE", "DELETE"):
        op.execute(
            f"CREATE TRIGGER event_links_no_{change.lower()} BEFORE {change} ON event_links "
            "BEGIN SELECT RAISE(ABORT, 'rows of event_links can only be added'); END"
        )
