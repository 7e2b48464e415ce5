"""Words shaded, phrases underlined."""

import numpy as np

from minibert.data.documents import Document
from minibert.keyphrases.phrases import Keyphrase
from minibert.report.page import LEVELS, _pieces, texts_page

WORDS = [(0, 4), (5, 9), (10, 18)]
TEXT = "cold wind turbines"


def test_of_two_phrases_that_overlap_the_first_is_underlined():
    phrases = [Keyphrase("wind turbines", 2.0, [(5, 18)]), Keyphrase("cold wind", 1.0, [(0, 9)])]
    shown = texts_page("t", [(Document("1", TEXT, WORDS), np.array([1.0, 0.0, 2.0]), phrases)])
    line = next(line for line in shown.splitlines() if 'class="text"' in line)
    assert (line.count("<b>"), line.count("</b>")) == (1, 1)
    assert line.index("<b>") < line.index("cold") < line.index("wind</b>") < line.index("turbines")


def test_shades_are_relative_to_the_darkest_word_or_to_what_is_given():
    weights = [0.004, 0.002, 0.0]
    levels = [p.level for p in _pieces(TEXT, WORDS, weights, [])][1::2]
    assert levels == [LEVELS, round(LEVELS / 2), 0]
    assert [p.level for p in _pieces(TEXT, WORDS, weights, [], largest=1.0)][1::2] == [0, 0, 0]
