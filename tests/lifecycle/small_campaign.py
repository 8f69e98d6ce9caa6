"""A finished campaign of a few items, from its file."""

from __future__ import annotations

import json
from pathlib import Path


def small(tmp_path: Path, *, rows: int = 6) -> Path:
    """A finished campaign of a few items, of which two raters prefer the first answer and one does not."""
    lines = [
        {"q": f"question {n}", "a": f"good {n}", "b": f"bad {n}", "ann": "A", "bob": "A", "cid": "B"}
        for n in range(rows)
    ]
    data = tmp_path / "rows.jsonl"
    data.write_text("\n".join(json.dumps(line) for line in lines) + "\n")
    file = tmp_path / "small.yaml"
    file.write_text(
        "name: small\nkind: pairwise\nrubric: feedback/rubrics/helpfulness.yaml\noverlap: 3\n"
        f"items: {{from: rows, rows: {{source: {data}}}, prompt: '{{q}}', responses: ['{{a}}', '{{b}}'], "
        "ratings: [ann, bob, cid]}\n"
    )
    return file
