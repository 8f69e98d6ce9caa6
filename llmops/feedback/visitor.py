"""Who asks: the person behind a session, and what their role lets them do with a campaign."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from llmops.feedback.refused import forbidden, not_yours

Role = Literal["admin", "owner", "rater"]
ROLES: tuple[Role, ...] = get_args(Role)
EVERY = "*"
"""In the place of a campaign's name: all there are and will be. No campaign can be called so."""


@dataclass(frozen=True, slots=True)
class Visitor:
    """Somebody who is signed in.

    Attributes:
        rater: their pseudonym.
        campaigns: names of those they may rate in, or own; may hold `EVERY`.
        csrf: what each change they ask for must carry.
        session: digest of their session's secret.
    """

    rater: str
    login: str
    name: str
    role: Role
    campaigns: frozenset[str]
    csrf: str
    session: str

    def knows(self, campaign: str) -> bool:
        """Whether the campaign exists for them at all."""
        return self.role == "admin" or EVERY in self.campaigns or campaign in self.campaigns

    def owns(self, campaign: str) -> bool:
        """Whether they see its models, its raters and its numbers."""
        return self.role == "admin" or (self.role == "owner" and self.knows(campaign))

    def must_know(self, campaign: str) -> None:
        """
        Raises:
            Refused: 404, as for a campaign that is not there.
        """
        if not self.knows(campaign):
            raise not_yours()

    def must_own(self, campaign: str) -> None:
        """
        Raises:
            Refused: 404 where it is not theirs in any way, 403 where they may rate in it but not more.
        """
        self.must_know(campaign)
        if not self.owns(campaign):
            raise forbidden()

    def must_be(self, *roles: Role) -> None:
        """
        Raises:
            Refused: 403.
        """
        if self.role not in roles:
            raise forbidden()
