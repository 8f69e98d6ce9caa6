"""When the server and a rater's browser are killed: drawn by chance, the same for the same seed."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Literal

Target = Literal["server", "browser"]
Moment = Literal["between the keys", "right after Enter", "at any time"]
After = Literal["at once", "when it is back", "while the server is away"]


@dataclass(frozen=True, slots=True)
class Strike:
    """One kill, or two that belong together.

    Attributes:
        rating: how many ratings the rater has given before it.
        after_s: seconds from the moment to the first kill: up to 30 ms after Enter, up to 300 ms at any time.
        second: when the second target is killed.
        second_s: seconds more until then.
        away_s: seconds the server stays away before it is started again.
    """

    rating: int
    targets: tuple[Target, ...]
    moment: Moment
    after_s: float
    second: After
    second_s: float
    away_s: float


def strikes(draw: Random, *, ratings: int, kills: int) -> list[Strike]:
    """Kills over so many ratings, half of them of the server, in the order of ratings."""
    left: dict[Target, int] = {"server": kills // 2, "browser": kills - kills // 2}
    drawn: list[tuple[tuple[Target, ...], After]] = []
    both: tuple[Target, ...] = ("server", "browser")
    while any(left.values()):
        first = draw.choice([target for target, number in left.items() if number])
        ways: list[tuple[tuple[Target, ...], After]] = [
            ((first,), "at once"),
            (both, "at once"),
            (both, "while the server is away"),
            ((first, first), "when it is back"),
        ]
        targets, second = draw.choices(ways, weights=[5, 1, 1, 1])[0]
        if any(targets.count(target) > number for target, number in left.items()):
            continue
        for target in targets:
            left[target] -= 1
        drawn.append((targets, second))
    places = sorted(draw.sample(range(1, ratings), len(drawn)))
    return [_strike(draw, place, *one) for place, one in zip(places, drawn, strict=True)]


def _strike(draw: Random, rating: int, targets: tuple[Target, ...], second: After) -> Strike:
    moment: Moment = draw.choice(["between the keys", "right after Enter", "at any time"])
    longest = {"between the keys": 0.0, "right after Enter": 0.03, "at any time": 0.3}[moment]
    waits = {"at once": 0.0, "when it is back": 0.6, "while the server is away": 1.0}[second]
    away = draw.uniform(0.5, 1.5) if second == "while the server is away" else draw.choice([0.0, draw.uniform(0, 1)])
    return Strike(rating, targets, moment, draw.uniform(0, longest), second, draw.uniform(0, waits), away)
