"""The catalog with the scorers that come with llmops in it: importing them files them."""

from llmops.eval.scorers import corpus, judge, rouge, text
from llmops.eval.scorers.catalog import scorers

__all__ = ["corpus", "judge", "rouge", "scorers", "text"]
