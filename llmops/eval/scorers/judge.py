"""A language model as scorer: it rates each answer by a rubric, or compares it with the reference."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, NonNegativeFloat, PositiveInt, computed_field

from llmops.errors import InputError
from llmops.eval.scorers.catalog import scorers
from llmops.eval.scorers.consulting import Consulted, Consulting
from llmops.events import Listener
from llmops.files import file_digest
from llmops.rubric import Attributes, Likert, Pairwise, load_rubric, value_of

if TYPE_CHECKING:
    from llmops.eval.items import Item
    from llmops.eval.judge.asking import Judge, Opinion
    from llmops.eval.judge.calibration import Calibration
    from llmops.eval.judge.prompt import JudgePrompt
    from llmops.eval.measured import Answered
    from llmops.eval.metric import Metric
    from llmops.prediction_powered import PredictionPowered

Share = Annotated[float, Field(ge=0, le=1)]

WORTH = {"A": 1.0, "TIE": 0.5, "B": 0.0}
"""What a comparison counts for the first text."""


@scorers.add("judge")
class JudgeScorer(Consulting):
    """Mean (0 to 1) of what a language model says of each answer, on a rubric.

    By itself on a scale, or with a pairwise rubric against the first reference, asked in both orders, ties half.
    """

    rubric: str
    """File of feedback/rubrics/ with the question and the scale. On a scale of k steps, step 1 counts 0 and step k 1;
    of attributes, the share that are good counts."""
    prompt: str
    """File of eval/judges/: how the question is put."""
    endpoint: str
    """OpenAI-compatible server of the judge, such as http://host:8000/v1."""
    model: Annotated[str, Field(min_length=1)]
    """The judge's name at that server."""
    api_key_env: str | None = Field(default=None, exclude=True)
    """Environment variable that holds the server's key; null sends none."""
    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")] = "judge"
    """What the metric is called, so that one suite can have several judges."""
    max_tokens: PositiveInt = 1024
    """Longest reply in tokens, its reasoning included; a reply that is cut has no verdict."""
    temperature: NonNegativeFloat = 0.0
    """0 takes the likeliest token, so that the judge says the same tomorrow."""
    unparsed_at_most: Share = 0.05
    """Largest share of items without a verdict that is left out of the mean; more stops the evaluation, since what a
    judge cannot judge is no random choice."""
    calibration: str | None = Field(default=None, exclude=True)
    """File that `llmops judge calibrate` wrote for this judge; null has none, and then no gate may rest on it."""
    minimum_agreement: Annotated[float, Field(ge=-1, le=1, exclude=True)] = 0.6
    """Cohen's kappa with people that a gate on this metric asks for, unless its rule says another: the low end of the
    calibration's interval must reach it."""
    ratings: str | None = Field(default=None, exclude=True)
    """Table of human ratings of some of these very answers, chosen at random (columns prompt, answer or first and
    second, rating): gives the measure `judge_corrected`, the mean that people would give all of them, on which a gate
    may rest whatever the judge is worth. Null, or a model whose answers nobody rated, has none."""
    concurrency: PositiveInt = Field(default=16, exclude=True)
    """Requests at the server at one time."""
    attempts: PositiveInt = Field(default=6, exclude=True)
    """How often one request is tried, in all, before the evaluation stops."""

    @computed_field(repr=False)  # type: ignore[prop-decorator]
    @property
    def contents(self) -> dict[str, str | None]:
        """Digests of the two files as they are now, so that a suite whose rubric was edited is another suite; None
        where one is missing, which `check_items` tells."""
        files = {"rubric": Path(self.rubric), "prompt": Path(self.prompt)}
        return {name: file_digest(file) if file.is_file() else None for name, file in files.items()}

    def names(self) -> tuple[str, ...]:
        return (self.name,)

    def check_items(self, items: Sequence[Item]) -> None:
        self.calibrated(self.judge())

    def question(self) -> JudgePrompt:
        """What it asks; raises InputError where rubric and prompt are faulty or do not fit."""
        from llmops.eval.judge.prompt import load_prompt

        return load_prompt(Path(self.prompt), load_rubric(Path(self.rubric)))

    def judge(self, cache: Path | None = None) -> Judge:
        """The judge, whose server was asked whether it has the model.

        Raises:
            InputError: rubric, prompt, key or model are faulty.
            EnvironmentFault: its server cannot be reached.
        """
        from llmops.client import Patience, key_in
        from llmops.eval.cache import AnswerCache
        from llmops.eval.engines.endpoint import endpoint
        from llmops.eval.judge.asking import Judge
        from llmops.eval.suite import Generation

        prompt = self.question()
        served = endpoint(
            self.endpoint,
            self.model,
            key=None if self.api_key_env is None else key_in(self.api_key_env),
            concurrency=self.concurrency,
            patience=Patience(attempts=self.attempts),
        )
        return Judge(
            self.model,
            prompt,
            Generation(max_tokens=self.max_tokens, temperature=self.temperature),
            partial(served, cache=None if cache is None else AnswerCache(cache, served.digest)),
            {name: served.said[name] for name in ("root", "parent") if name in served.said},
            served.url,
        )

    def calibrated(self, judge: Judge) -> Calibration | None:
        """Its calibration; raises InputError where the file is of another judge."""
        from llmops.eval.judge.calibration import read

        if self.calibration is None:
            return None
        found = read(Path(self.calibration))
        if found.judge_digest != judge.digest:
            raise InputError(
                f"the calibration {self.calibration} is of another judge: {found.difference(judge.identity)}",
                fix="calibrate this one with `llmops judge calibrate`, or take the calibration out of the suite",
            )
        return found

    def consult(self, items: Sequence[Answered], *, listener: Listener, cache: Path | None) -> Consulted:
        from llmops.eval.judge.asking import counts_of_opinions, counts_of_preferences

        judge = self.judge(cache)
        calibration = self.calibrated(judge)
        known = "how far it agrees with people is not known" if calibration is None else calibration.sentence
        listener.say(f"judge {judge.model}: {known}")
        asked, answers = [item.messages for item in items], [item.answer for item in items]
        references = [item.references[0] for item in items]
        scale = judge.prompt.rubric.scale
        record: dict[str, Any] = {}
        if isinstance(scale, Pairwise):
            pairs = judge.prefer(asked, answers, references, listener=listener)
            values = [math.nan if one.choice is None else WORTH[one.choice] for one in pairs]
            counts, replies = counts_of_preferences(pairs), [one.replies for one in pairs]
            record = {"orders": {item.id: [one.forward, one.backward] for item, one in zip(items, pairs, strict=True)}}
        else:
            opinions = judge.rate(asked, answers, references, listener=listener)
            values = [_value(scale, one) for one in opinions]
            counts, replies = counts_of_opinions(opinions), [one.replies for one in opinions]
        judge.check_parsed(counts, at_most=self.unparsed_at_most, listener=listener)
        record |= {
            **judge.identity,
            "endpoint": judge.where,
            "digest": judge.digest,
            "minimum_agreement": self.minimum_agreement,
            "calibration": None if calibration is None else calibration.plain(),
            "counts": counts,
            "replies": {item.id: list(said) for item, said in zip(items, replies, strict=True)},
        }
        measures = {f"{self.name}_{what}": part / whole for what, (part, whole) in counts.items() if whole}
        if self.ratings is not None and (corrected := self._corrected(items, values, judge, listener)) is not None:
            record["corrected"] = asdict(corrected)
            measures[f"{self.name}_corrected"] = corrected.value
        return Consulted([self._metric(judge, values)], measures, record)

    def _corrected(
        self, items: Sequence[Answered], values: Sequence[float], judge: Judge, listener: Listener
    ) -> PredictionPowered | None:
        """The mean people would give; None where they rated none of these answers."""
        from llmops.data.section import Origin
        from llmops.eval.judge.correction import correct
        from llmops.eval.judge.ratings import Columns, ratings_in

        rubric = judge.prompt.rubric
        rated = ratings_in(Origin(source=str(self.ratings)), rubric, Columns())
        try:
            found = correct(items, values, rubric, rated, where=f"judged as {self.name}")
        except InputError as none:
            listener.say(f"judge {judge.model}: no {self.name}_corrected, since {none.problem}")
            return None
        low, high = found.estimate.interval(0.95)
        listener.say(
            f"judge {judge.model}: {self.name}_corrected {found.estimate.value:.4f} ({low:.4f} to {high:.4f}), "
            f"by {found.estimate.labelled} answers that people rated"
        )
        return found.estimate

    def _metric(self, judge: Judge, values: Sequence[float]) -> Metric:
        """The mean over the items with a verdict; those without add nothing, to the sum and to the count."""
        import numpy as np

        from llmops.eval.metric import Metric

        each = np.asarray(values, dtype=np.float64)
        there = ~np.isnan(each)
        statistics = np.stack([np.where(there, each, 0.0), there.astype(np.float64)], axis=1)
        how = "order:swapped|ties:half" if isinstance(judge.prompt.rubric.scale, Pairwise) else "scaled:0-1"
        return Metric(self.name, f"{judge.signature}|{how}", "mean", statistics, each, span=1.0)


def _value(scale: Likert | Attributes, opinion: Opinion) -> float:
    if opinion.verdict is None:
        return math.nan
    assert not isinstance(opinion.verdict, str)
    return value_of(scale, opinion.verdict)
