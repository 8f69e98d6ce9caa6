"""Whether a verdict answers what was asked: its kind, the rubric's scale, as many answers as were shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import TypeAdapter, ValidationError

from llmops.errors import InputError
from llmops.feedback.campaign import Campaign
from llmops.feedback.verdicts import Correction, Given, Pair, Ranking, Scores, Thumb, Verdict
from llmops.rubric import Attributes, Likert, Pairwise, Rubric

_VERDICT: TypeAdapter[Pair | Scores | Ranking | Thumb | Correction] = TypeAdapter(Verdict)


def check_given(given: Given, campaign: Campaign, rubric: Rubric, responses: int) -> None:
    """Raises InputError where a rating does not answer what was asked on so many answers; spans are not looked at."""
    problem = None
    if given.verdict is not None:
        problem = verdict_fault(given.verdict, campaign, rubric, responses)
    for edit in given.edits:
        if edit.position >= responses:
            problem = problem or f"answer {edit.position} was edited, there are {responses}"
    if len({edit.position for edit in given.edits}) < len(given.edits):
        problem = problem or "one answer was edited twice"
    if unknown := set(given.tags) - set(campaign.tags):
        problem = problem or f"the campaign has no tag {min(unknown)!r}"
    if problem is not None:
        raise _refused(problem)


def check_spans(given: Given, responses: Sequence[str]) -> None:
    """Raises InputError where a mark is in no answer, or quotes what is not there.

    Args:
        responses: texts in the order the rater saw them, with masks laid over. Offsets are left to the page, which
            may count otherwise than Python does; the quote is what proves them.
    """
    for span in given.spans:
        if span.position >= len(responses):
            raise _refused(f"a mark is in answer {span.position}, there are {len(responses)}")
        if span.end <= span.start or span.quote not in responses[span.position]:
            raise _refused(f"what is marked is not in answer {span.position}: {span.quote[:60]!r}")


def _refused(problem: str) -> InputError:
    return InputError(f"the rating cannot be taken: {problem}", fix="load the page again and rate what it shows")


def verdict_fault(
    verdict: Pair | Scores | Ranking | Thumb | Correction, campaign: Campaign, rubric: Rubric, responses: int
) -> str | None:
    """What keeps a verdict from answering the rubric's question on so many answers; None where nothing does."""
    if verdict.kind != campaign.kind:
        return f"a verdict of kind {verdict.kind}, the campaign asks for {campaign.kind}"
    scale = rubric.scale
    if isinstance(verdict, Pair) and isinstance(scale, Pairwise):
        if verdict.step is not None and verdict.step not in scale.steps:
            return f"the scale has no step {verdict.step}"
    elif isinstance(verdict, Scores):
        if len(verdict.scores) != responses:
            return f"{len(verdict.scores)} scores for {responses} answers"
        for score in verdict.scores:
            if isinstance(scale, Likert) and score not in scale.steps:
                return f"the scale has no step {score!r}"
            if isinstance(scale, Attributes):
                if not isinstance(score, dict) or set(score) != set(scale.attributes):
                    return f"each of {', '.join(scale.attributes)} wants an answer"
                if wrong := [one for one in score.values() if one not in scale.answers]:
                    return f"the scale has no answer {wrong[0]!r}"
    elif isinstance(verdict, Ranking):
        named = sum(len(group) for group in verdict.groups) + len(verdict.invalid)
        if named != responses:
            return f"{named} answers are ranked, there are {responses}"
    return None


def expected_fault(campaign: Campaign, rubric: Rubric, expected: Mapping[str, Any], responses: int) -> str | None:
    """What is wrong with a gold item's expected verdict; None where nothing is."""
    try:
        verdict = _VERDICT.validate_python(dict(expected))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return verdict_fault(verdict, campaign, rubric, responses)


def full_verdict(expected: Mapping[str, Any]) -> dict[str, Any]:
    """An expected verdict with every default written out, as ratings are kept."""
    return _VERDICT.validate_python(dict(expected)).model_dump(mode="json")
