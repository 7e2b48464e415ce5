"""From the attention of some heads to word weights and ranked keyphrases."""

from minibert.keyphrases.ranker import extract_keyphrases

__all__ = ["extract_keyphrases"]
