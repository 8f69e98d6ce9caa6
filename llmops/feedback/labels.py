"""Verdicts as labels, by which raters are compared with each other, with gold and with themselves."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import Any

from llmops.feedback.items import Item
from llmops.feedback.opinions import comparisons
from llmops.rubric import Attributes, Likert, Rubric


def labels_of(verdict: Mapping[str, Any], rubric: Rubric) -> Iterable[tuple[str, Hashable, tuple[Hashable, ...]]]:
    """`(question, label, all labels)` of a verdict in places, for agreement; of several answers each has its own."""
    match verdict["kind"]:
        case "pairwise":
            yield "preference", side_of(verdict, rubric), ("A", "TIE", "B", "BOTH_BAD")
        case "rating" if isinstance(rubric.scale, Likert):
            for place, score in enumerate(verdict["scores"]):
                yield _of("score", place, verdict), score, rubric.scale.steps
        case "rating":
            assert isinstance(rubric.scale, Attributes)
            for place, score in enumerate(verdict["scores"]):
                for name in rubric.scale.attributes:
                    yield _of(name, place, verdict), score[name], rubric.scale.answers
        case "ranking":
            for first, second, better, _ in comparisons(verdict, rubric):
                yield f"{first + 1} against {second + 1}", better, ("first", "tie", "second", "both bad")
        case "thumbs":
            yield "thumb", "up" if verdict["up"] else "down", ("up", "down")
        case "correction":
            yield "right", "yes" if verdict["text"] is None else "no", ("yes", "no")


def side_of(verdict: Mapping[str, Any], rubric: Rubric) -> str:
    """A verdict in places as one label, by which raters are compared with each other and with gold."""
    if verdict["kind"] == "pairwise":
        if verdict["both_bad"]:
            return "BOTH_BAD"
        return "A" if verdict["step"] > 0 else "B" if verdict["step"] < 0 else "TIE"
    return spoken(verdict)


def spoken(verdict: Mapping[str, Any]) -> str:
    """A verdict in a few words, for counts."""
    match verdict["kind"]:
        case "pairwise":
            return "both bad" if verdict["both_bad"] else f"{verdict['step']:+d}" if verdict["step"] else "tie"
        case "rating":
            return ", ".join(_score(one) for one in verdict["scores"])
        case "ranking":
            order = " > ".join("=".join(str(place + 1) for place in group) for group in verdict["groups"])
            return order + "".join(f", {place + 1} invalid" for place in verdict["invalid"])
        case "thumbs":
            return "up" if verdict["up"] else "down"
    return "right" if verdict["text"] is None else "corrected"


def _of(name: str, place: int, verdict: Mapping[str, Any]) -> str:
    return name if len(verdict["scores"]) == 1 else f"{name} of answer {place + 1}"


def _score(score: Any) -> str:
    return str(score) if isinstance(score, int) else "/".join(f"{name} {said}" for name, said in score.items())


def first_preferred(verdict: Mapping[str, Any], shown: tuple[int, ...]) -> bool | None:
    if verdict["kind"] != "pairwise" or not verdict["step"]:
        return None
    return (verdict["step"] > 0) == (shown[0] == 0)


def longer_preferred(verdict: Mapping[str, Any], item: Item) -> bool | None:
    if (
        verdict["kind"] != "pairwise"
        or not verdict["step"]
        or any(one.detail.get("not_text") for one in item.responses)
    ):
        return None
    first, second = (len(one.text) for one in item.responses)
    return None if first == second else (verdict["step"] > 0) == (first > second)
