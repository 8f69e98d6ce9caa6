"""What the desk asks of the database, as statements made once: making one costs as much as running it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmops.feedback.tables import table

if TYPE_CHECKING:
    from sqlalchemy import BindParameter, Engine


class Statements:
    """All take their values as bound parameters, named as the columns are."""

    def __init__(self, engine: Engine) -> None:
        from sqlalchemy import and_, bindparam, func, literal_column, or_, select, update
        from sqlalchemy.dialects import postgresql, sqlite

        insert = sqlite.insert if engine.dialect.name == "sqlite" else postgresql.insert
        assignments, leases, ratings = table("assignments"), table("leases"), table("ratings")
        items, responses, rubrics = table("rated_items"), table("rated_responses"), table("campaign_rubrics")
        campaign_totals, rater_totals, raters = table("campaign_totals"), table("rater_totals"), table("raters")
        campaign: BindParameter[str] = bindparam("campaign")
        rater: BindParameter[str] = bindparam("rater")

        # Assignments and leases
        self.assignment = select(assignments).where(assignments.c.id == bindparam("id"))
        self.out = (
            select(assignments)
            .join(leases, assignments.c.id == leases.c.assignment)
            .where(leases.c.campaign == campaign, leases.c.rater == rater, leases.c.until > bindparam("now"))
            .order_by(assignments.c.at, leases.c.assignment)
        )
        self.lease = select(leases.c.until).where(leases.c.assignment == bindparam("assignment"))
        self.add_assignment = assignments.insert()
        self.add_lease = leases.insert()
        self.move_lease = update(leases).where(leases.c.assignment == bindparam("of")).values(until=bindparam("to"))
        self.previous = (
            select(assignments)
            .where(
                assignments.c.campaign == campaign,
                assignments.c.rater == rater,
                assignments.c.at <= bindparam("at"),
                or_(assignments.c.at < bindparam("at"), assignments.c.id < bindparam("name")),
                select(ratings.c.id).where(ratings.c.assignment == assignments.c.id).exists(),
            )
            .order_by(assignments.c.at.desc(), assignments.c.id.desc())
            .limit(1)
        )

        # Items
        self.expected = select(items.c.expected).where(items.c.id == bindparam("item"))
        self.material = (
            select(items.c.prompt, responses.c.text)
            .join(responses, responses.c.item == items.c.id)
            .where(items.c.id == bindparam("item"))
            .order_by(responses.c.place)
        )
        self.golds = (
            select(items.c.id, items.c.place, items.c.language, assignments.c.kind.label("given"))
            .outerjoin(assignments, and_(assignments.c.item == items.c.id, assignments.c.rater == rater))
            # Word for word as the index says it, or SQLite does not use it.
            .where(items.c.campaign == campaign, literal_column("rated_items.kind = 'gold'"))
            .order_by(items.c.place)
        )
        times = select(assignments.c.at).where(assignments.c.campaign == campaign, assignments.c.rater == rater)
        self.first_at = times.order_by(assignments.c.at).limit(1)
        self.nth_last_at = times.order_by(assignments.c.at.desc()).limit(1).offset(bindparam("gap"))
        again = assignments.alias("again")
        self.repeatable = (
            select(assignments.c.item)
            .where(
                assignments.c.campaign == campaign,
                assignments.c.rater == rater,
                assignments.c.at >= bindparam("start"),
                assignments.c.at <= bindparam("end"),
                assignments.c.kind == "normal",
                select(ratings.c.id)
                .where(ratings.c.assignment == assignments.c.id, ratings.c.said == "verdict")
                .exists(),
                ~select(again.c.id)
                .where(again.c.item == assignments.c.item, again.c.rater == rater, again.c.round > 0)
                .exists(),
            )
            .order_by(assignments.c.at)
            .limit(1)
        )

        # Ratings
        self.said = select(ratings).where(
            or_(ratings.c.id == bindparam("id"), ratings.c.assignment == bindparam("assignment"))
        )
        self.ratings = select(ratings).where(ratings.c.assignment == bindparam("assignment"))
        self.add_rating = insert(ratings).on_conflict_do_nothing(index_elements=["id"]).returning(ratings.c.id)
        self.pace = (
            select(ratings.c.content)
            .where(ratings.c.rater == rater, ratings.c.campaign == campaign, ratings.c.said == "verdict")
            .order_by(ratings.c.at.desc())
            .limit(bindparam("pace"))
        )

        self.gold_said = (
            select(ratings.c.assignment, ratings.c.content, assignments.c.shown, items.c.expected)
            .join(assignments, assignments.c.id == ratings.c.assignment)
            .join(items, items.c.id == ratings.c.item)
            .where(
                ratings.c.rater == rater,
                ratings.c.campaign == campaign,
                ratings.c.said == "verdict",
                assignments.c.kind == "gold",
            )
            .order_by(ratings.c.at, ratings.c.id)
        )

        # Wording and totals
        self.rubric = (
            select(rubrics.c.digest).where(rubrics.c.campaign == campaign).order_by(rubrics.c.place.desc()).limit(1)
        )
        self.rubric_of = (
            select(rubrics.c.content)
            .where(rubrics.c.campaign == campaign, rubrics.c.digest == bindparam("digest"))
            .limit(1)
        )
        self.standing = (
            select(
                raters,
                rater_totals,
                campaign_totals.c.languages.label("has"),
                self.rubric.scalar_subquery().label("digest"),
            )
            .outerjoin(rater_totals, and_(rater_totals.c.rater == raters.c.id, rater_totals.c.campaign == campaign))
            .outerjoin(campaign_totals, campaign_totals.c.campaign == campaign)
            .where(raters.c.id == rater)
        )
        self.wanted = select(campaign_totals.c.wanted).where(campaign_totals.c.campaign == campaign)
        self.done = select(func.sum(rater_totals.c.counted)).where(rater_totals.c.campaign == campaign)
        added = insert(rater_totals)
        counts = ("normal", "gold", "repeat", "training", "rated", "counted", "gold_right", "gold_of")
        self.count = added.on_conflict_do_update(
            index_elements=["campaign", "rater"],
            set_={name: rater_totals.c[name] + added.excluded[name] for name in counts},
        )
        self.totals = select(rater_totals).where(rater_totals.c.campaign == campaign, rater_totals.c.rater == rater)
