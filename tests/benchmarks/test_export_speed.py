"""50,000 ratings become rows to train on within ten seconds, and in memory that does not grow with their texts."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from llmops.database import open_database
from llmops.feedback.campaign import Campaign
from llmops.feedback.drawing import item_of
from llmops.feedback.finished import import_finished
from llmops.feedback.items import Response
from llmops.feedback.store import add_items, create_campaign
from llmops.lifecycle.exports import export
from llmops.rubric import Rubric
from llmops.workspace import Workspace

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(900)]

RATINGS, OVERLAP = 50_000, 3
WORDS = ("model", "wrote", "long", "careful", "answer", "about", "the", "weather", "in", "town", "near", "river")


def text(draw: random.Random, length: int) -> str:
    return " ".join(draw.choices(WORDS, k=length))


@pytest.mark.parametrize("file_format", ["jsonl", "parquet"])
def test_fifty_thousand_ratings_are_exported_in_ten_seconds(tmp_path: Path, file_format: str) -> None:
    draw = random.Random(1)
    workspace = Workspace(tmp_path / "home")
    engine = open_database(workspace)
    items = {"from": "rows", "rows": {"source": "x.jsonl"}, "prompt": "{p}", "responses": ["{a}", "{b}"]}
    campaign = Campaign(name="many", kind="pairwise", rubric="r.yaml", items=items, overlap=OVERLAP)
    rubric = Rubric(name="helpful", version=1, question="Which helps more?", scale={"kind": "pairwise"})
    create_campaign(engine, campaign, rubric)
    number = RATINGS // OVERLAP + 1
    add_items(
        engine,
        "many",
        (
            item_of(
                [{"role": "user", "content": f"{n} {text(draw, 40)}"}],
                [Response(text(draw, 80), "a"), Response(text(draw, 80), "b")],
                {"row": f"x:{n}"},
            )
            for n in range(number)
        ),
    )
    steps = [3, 2, 1, 0, -1, -2, -3]
    said = [
        {
            f"r{draw.randrange(17) * 3 + seat}": {"kind": "pairwise", "step": draw.choice(steps), "both_bad": False}
            for seat in range(OVERLAP)
        }
        for _ in range(number)
    ]
    stored = import_finished(engine, "many", said, rubric)
    begun = time.perf_counter()
    about = export("many", "dpo", tmp_path / "out", workspace=workspace, file_format=file_format, validation=0.05)  # type: ignore[arg-type]
    took = time.perf_counter() - begun
    print(f"\n{stored:,} ratings → {sum(about['rows'].values()):,} rows as {file_format} in {took:.1f} s")
    assert stored >= RATINGS
    assert took <= 10
