"""Texts as HTML: shades of words and underlined phrases."""

import numpy as np

from minibert.data.documents import Document
from minibert.output.pieces import LEVELS, text_pieces
from minibert.phrases.ranking import Keyphrase
from minibert.report.page import texts_page

WORDS = [(0, 4), (5, 9), (10, 18)]
TEXT = "cold wind turbines"


def test_first_of_two_overlapping_phrases_is_underlined():
    phrases = [Keyphrase("wind turbines", 2.0, [(5, 18)]), Keyphrase("cold wind", 1.0, [(0, 9)])]
    page = texts_page("t", [(Document("1", TEXT, WORDS), np.array([1.0, 0.0, 2.0]), phrases)])
    line = next(line for line in page.splitlines() if 'class="text"' in line)
    assert (line.count("<b>"), line.count("</b>")) == (1, 1)
    assert line.index("<b>") < line.index("cold") < line.index("wind</b>") < line.index("turbines")


def test_shades_are_relative_to_the_largest_weight_or_to_a_given_one():
    weights = [0.004, 0.002, 0.0]
    levels = [piece.level for piece in text_pieces(TEXT, WORDS, weights, [])]
    assert levels[1::2] == [LEVELS, round(LEVELS / 2), 0]
    levels = [piece.level for piece in text_pieces(TEXT, WORDS, weights, [], largest=1.0)]
    assert levels[1::2] == [0, 0, 0]
