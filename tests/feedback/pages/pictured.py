"""The campaigns that the README's pictures show: the answers are written by hand, the ratings drawn at random.

Everything in them is fixed: people, ratings, times and the order of the answers.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from random import Random
from typing import Any
from unittest.mock import patch
from uuid import UUID

from sqlalchemy import Engine

from llmops.feedback.desk import Desk
from llmops.feedback.items import NewItem, Response
from llmops.feedback.tasks import Task
from llmops.feedback.verdicts import Given
from tests.feedback.accounts.service import Service, served
from tests.feedback.small_campaigns import start

PAIRS, ORDER = "everyday-answers", "short-explanations"
"""Names of the two campaigns: pairs, and four answers to be put in order."""
PLACE = 12
"""Where the item stands that is seen, which everybody gets after so many others."""
ITEMS = 60
OTHERS = (48, 43)
"""Items that each of the other raters rated."""
STRENGTHS = {"models:/assistant/1": 0.0, "models:/assistant/2": 0.2, "models:/assistant/3": 1.5}
"""Log-odds of being preferred."""

ASKED = (
    {"role": "system", "content": "Answer briefly. Show code where it helps."},
    {"role": "user", "content": "I put 1,000 into an account at 3 % a year. How much is it after n years?"},
)
RIGHT = """\
Interest is paid on interest, so each year multiplies the sum by **1.03**:

$$K_n = K_0 \\left(1 + \\frac{p}{100}\\right)^n$$

```python
def saved(start, percent, years):
    return start * (1 + percent / 100) ** years

saved(1000, 3, 10)  # 1343.92
```

| years | saved | gain |
|---|---|---|
| 1 | 1,030.00 | 30.00 |
| 10 | 1,343.92 | 343.92 |
| 20 | 1,806.11 | 806.11 |

It doubles after about $\\frac{\\ln 2}{\\ln 1.03} \\approx 23.4$ years.
"""
WRONG = """\
You get **3 %** of what you put in, every year:

$$K_n = K_0 + n \\cdot \\frac{p}{100} K_0$$

1. The first year brings 30.
2. So does *every* year after it.
3. Ten years bring 300.

```python
def saved(start, percent, years):
    return start + years * start * percent / 100

saved(1000, 3, 10)  # 1300.0
```

> Some banks pay interest on interest. Ask yours.
"""
EXPLAINED = (
    {"role": "user", "content": "Why is the sky blue? Explain it to a child in two sentences."},
)  # fmt: skip
EXPLANATIONS = (
    "Sunlight is made of **all colours**, and air bounces the blue part around much more than the red part. "
    "So blue light comes to your eyes from everywhere in the sky.",
    "The sky is blue because it mirrors the *sea*. Where there is no sea, it is grey.",
    "Rayleigh scattering goes with $1/\\lambda^4$; hence short wavelengths dominate.",
    "Air scatters blue light more than red light. That is why the sky looks blue, and why sunsets look red.",
)


@dataclass(frozen=True, slots=True)
class Pictured:
    """A running service with both campaigns in it, and a session for a rater and for the owner."""

    address: str
    rater: dict[str, str]
    owner: dict[str, str]


@contextmanager
def pictured(engine: Engine) -> Iterator[Pictured]:
    """The service over an empty database, with the campaigns in it."""
    with served(engine) as (address, house):
        with patch("llmops.feedback.raters.secrets.token_hex", side_effect=_names()):
            rater = house.person("rater", PAIRS, ORDER, login="dee")
            owner = house.person("owner", PAIRS, ORDER, login="owner")
            others = [house.person("rater", PAIRS, login=login) for login in ("ann", "bob")]
        _rate_pairs(engine, house, rater, others)
        start(engine, [_item(0, EXPLAINED, EXPLANATIONS)], name=ORDER, kind="ranking", tags=["wrong", "too hard"])
        _desk(engine, house).next(ORDER, rater)
        house.clock.now += 1
        yield Pictured(address, *({**_cookie(house, who), "url": address} for who in (rater, owner)))


def _rate_pairs(engine: Engine, house: Service, rater: str, others: list[str]) -> None:
    draw = Random(11)
    items = [_pair(number, draw) for number in range(ITEMS)]
    start(engine, items, name=PAIRS, overlap=3, tags=["wrong fact", "too long", "bad English"])
    desk = _desk(engine, house)
    number = itertools.count(1)
    now, house.clock.now = house.clock.now, house.clock.now - 3600
    for who, count in zip([*others, rater], [*OTHERS, PLACE], strict=True):
        for _ in range(count):
            task = desk.next(PAIRS, who)
            assert isinstance(task, Task)
            seconds = draw.lognormvariate(math.log(19), 0.4)
            house.clock.now += seconds
            rating = {
                "id": str(UUID(int=next(number) | 4 << 76 | 8 << 60)),
                "assignment": task.assignment,
                "rubric": task.rubric.digest,
                "verdict": {"kind": "pairwise", "step": _preferred(task, draw)},
                "active_ms": round(1000 * seconds),
            }
            desk.submit(Given.model_validate(rating), who)
    # The page shows the task that is out already: with it, the order of its answers is fixed.
    desk.next(PAIRS, rater)
    house.clock.now = now


def _preferred(task: Task, draw: Random) -> int:
    """A step, likelier for the stronger of the two models, whose numbers the made-up answers begin with."""
    first, second = (list(STRENGTHS.values())[int(text[0])] if text[0] in "012" else 1.0 for text in task.responses)
    ahead = first - second + draw.gauss(0, 1.1)
    return max(-3, min(3, round(ahead)))


def _pair(number: int, draw: Random) -> NewItem:
    if number == PLACE:
        return _item(number, ASKED, (RIGHT, WRONG), ("models:/assistant/3", "models:/assistant/1"))
    one, other = draw.sample(range(len(STRENGTHS)), 2)
    texts = [f"{place} answers question {number}." + " And more." * draw.randrange(4) for place in (one, other)]
    models = [list(STRENGTHS)[place] for place in (one, other)]
    return _item(number, ({"role": "user", "content": f"Question {number}?"},), texts, models)


def _item(number: int, prompt: Any, texts: Any, models: Any = None) -> NewItem:
    named = models or [f"models:/assistant/{place}" for place in range(len(texts))]
    answers = [Response(text, model) for text, model in zip(texts, named, strict=True)]
    return NewItem(prompt, answers, f"prompt {number}", f"cluster {number}", {"line": number})


def _desk(engine: Engine, house: Service) -> Desk:
    return Desk(engine, clock=house.clock, random=Random(4))


def _names() -> Iterator[str]:
    """Pseudonyms, the same each time."""
    return (sha256(f"rater {number}".encode()).hexdigest()[:16] for number in itertools.count())


def _cookie(house: Service, who: str) -> dict[str, str]:
    return {"name": house.entrance.cookies.session, "value": house.entrance.sessions.begin(who)}
