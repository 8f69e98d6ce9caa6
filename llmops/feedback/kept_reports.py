"""Reports of campaigns, kept for some seconds: however many look at one, it is computed once, and nobody's request
waits in a thread that raters need."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

from llmops.feedback.campaign_report import CampaignReport

KEPT_S = 10.0
"""Seconds a report is shown again; one that took long is kept five times as long, so that a large campaign's never
takes more than a sixth of a core."""
_TIMES = 5.0
_QUICK_S = 2.0
"""Of one that takes longer, the last is shown while the next is computed."""


@dataclass(slots=True)
class _Kept:
    """What there is of one campaign: a report with when it was made and how long that took, and the next one."""

    report: CampaignReport | None = None
    made: float = 0.0
    took: float = 0.0
    stale: bool = False
    coming: Future[CampaignReport] | None = field(default=None)


class KeptReports:
    """The newest report of each campaign."""

    def __init__(self, report: Callable[[str], CampaignReport], *, clock: Callable[[], float] = time.monotonic) -> None:
        """
        Args:
            report: computes one; it runs in a thread of its own, one at a time.
        """
        self._report = report
        self._clock = clock
        self._guard = threading.Lock()
        self._computing = threading.Lock()
        self._kept: dict[str, _Kept] = {}

    async def of(self, campaign: str) -> CampaignReport:
        """The report, as old as it may be; raises what computing it raises."""
        with self._guard:
            kept = self._kept.setdefault(campaign, _Kept())
            age = self._clock() - kept.made
            if kept.report is not None and not kept.stale and 0 <= age < max(KEPT_S, _TIMES * kept.took):
                return kept.report
            if kept.coming is None:
                kept.coming = Future()
                threading.Thread(target=self._compute, args=(campaign, kept, kept.coming), daemon=True).start()
            if kept.report is not None and kept.took > _QUICK_S:
                return kept.report
            coming = kept.coming
        # Shielded: who goes away takes the report from nobody else.
        return await asyncio.shield(asyncio.wrap_future(coming))

    def outdated(self, campaign: str) -> None:
        """Something was changed that the next report must show."""
        with self._guard:
            if (kept := self._kept.get(campaign)) is not None:
                kept.stale, kept.coming = True, None

    def _compute(self, campaign: str, kept: _Kept, coming: Future[CampaignReport]) -> None:
        with self._computing:
            begun = self._clock()
            try:
                report = self._report(campaign)
            except BaseException as error:
                with self._guard:
                    if kept.coming is coming:
                        kept.coming = None
                    if kept.report is None:
                        self._kept.pop(campaign, None)
                coming.set_exception(error)
                return
            with self._guard:
                kept.took = self._clock() - begun
                if kept.coming is coming:
                    kept.report, kept.made, kept.coming, kept.stale = report, self._clock(), None, False
        coming.set_result(report)
