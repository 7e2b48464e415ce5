"""What heads are used for: keyphrases, word weights, search."""

from minibert.keyphrases.ranker import extract_keyphrases

__all__ = ["extract_keyphrases"]
