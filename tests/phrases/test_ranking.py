"""Ranked phrases by hand; properties of any text; diversity by a slow second way."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minibert.data.documents import Document
from minibert.data.languages import in_language
from minibert.phrases.candidates import content_runs, group, listed_runs, stems
from minibert.phrases.ranking import Keyphrase, rank_phrases
from minibert.text.language import read_language
from minibert.text.words import word_spans


def doc(text):
    return Document("d", text, word_spans(text))


def ranked(text, scores, **settings):
    """{phrase: share}, best first. `scores`: {phrase: score}."""
    document = doc(text)
    candidates = group(document, listed_runs(document, [*scores]))
    of_stems = {stems(phrase, document.language): score for phrase, score in scores.items()}
    in_order = np.array([of_stems[candidate.stems] for candidate in candidates])
    keyphrases = rank_phrases(document, candidates, in_order, **settings)
    return {phrase.text: phrase.score for phrase in keyphrases}


def test_score_is_the_share_of_the_exponential():
    shares = ranked("red fox; den; bee", {"bee": math.log(5), "red fox": math.log(2), "den": 0.0})
    assert list(shares) == ["bee", "red fox", "den"]
    assert list(shares.values()) == pytest.approx([5 / 8, 2 / 8, 1 / 8], abs=1e-15)


def test_shares_do_not_depend_on_top_or_an_added_constant():
    scores = {"bee": 0.5, "red fox": -1.0, "den": 3.0}
    shares = ranked("red fox; den; bee", scores)
    assert ranked("red fox; den; bee", scores, top=2) == dict([*shares.items()][:2])
    moved = ranked("red fox; den; bee", {phrase: 900 + score for phrase, score in scores.items()})
    assert moved == pytest.approx(shares, abs=1e-12)
    assert list(moved) == list(shares)


def test_order_is_that_of_the_scores_where_shares_are_zero():
    """A long text: most exponentials underflow."""
    names = [f"a{i}" for i in range(400)]
    draws = np.random.default_rng(0).permutation(400)
    shares = ranked("; ".join(names), {name: 5.0 * n for name, n in zip(names, draws.tolist())})
    assert list(shares) == [names[i] for i in np.argsort(-draws)]
    assert list(shares.values()).count(0.0) > 200
    assert sum(shares.values()) == pytest.approx(1, abs=1e-12)
    again = ranked("; ".join(names), dict(zip(names, (5.0 * draws).tolist())), diversity=0.5)
    assert list(again) == list(shares)


def test_keyphrases_have_first_form_and_every_span():
    document = doc("A Late frost\u2026 late frosts bloom; LATE FROST")
    keyphrases = rank_phrases(document, group(document, [(1, 3), (6, 8)]), np.array([-7.0]))
    assert keyphrases == [Keyphrase("Late frost", 1.0, [(2, 12), (14, 25), (33, 43)])]


def test_offsets_without_spaces_and_right_to_left():
    document = doc("我爱深度学习、深度学习。 עולם שלום, עולם שלום")
    candidates = group(document, listed_runs(document, ["深度学习", "עולם שלום"]))
    keyphrases = rank_phrases(document, candidates, np.array([2.0, 1.0]))
    places = {p.text: [document.text[a:b] for a, b in p.spans] for p in keyphrases}
    assert places == {"深度学习": ["深度学习"] * 2, "עולם שלום": ["עולם שלום"] * 2}
    assert keyphrases[0].text == "深度学习"
    assert keyphrases[0].spans == [(2, 6), (7, 11)]


def test_equal_scores_keep_text_order():
    scores = {"blue bee": 0.5, "green den": 0.5, "red fox": 0.7}
    assert list(ranked("red fox; green den; blue bee", scores)) == [
        "red fox",
        "green den",
        "blue bee",
    ]
    assert list(ranked("c a b", {"a": -0.1, "b": -0.1, "c": -0.1})) == ["c", "a", "b"]


def test_diversity_by_hand():
    """Relevance: red fox 1; fox den .9, and one of three words in common; bee .5."""
    text = "red fox; fox den; bee"
    scores = {"red fox": 0.0, "fox den": math.log(0.9), "bee": math.log(0.5)}
    assert list(ranked(text, scores)) == ["red fox", "fox den", "bee"]
    # .9 (1 - d) - d / 3 < .5 (1 - d) from d = 6 / 11
    assert list(ranked(text, scores, diversity=0.54)) == ["red fox", "fox den", "bee"]
    assert list(ranked(text, scores, diversity=0.55)) == ["red fox", "bee", "fox den"]
    assert list(ranked(text, scores, diversity=0.55, top=2)) == ["red fox", "bee"]
    assert ranked(text, scores, diversity=0.55) == ranked(text, scores)  # the same shares


def test_diversity_compares_with_nearest_phrase():
    """Of the relevance .8, fox den shares one of three words with each of two: .4 - 1 / 6 > .2."""
    relevance = {"red fox": 1, "den bee": 0.9, "fox den": 0.8, "owl": 0.4}
    scores = {phrase: math.log(value) for phrase, value in relevance.items()}
    text = "red fox; owl; fox den; den bee"
    assert list(ranked(text, scores, diversity=0.5)) == [*relevance]


def test_diversity_remembers_earlier_phrases():
    """Third of relevance .8 is fox den, a third of it red fox: .4 - 1 / 6 < .35. Bee owl, chosen
    after red fox, has no word of fox den."""
    relevance = {"red fox": 1, "bee owl": 0.9, "fox den": 0.8, "moor": 0.7}
    scores = {phrase: math.log(value) for phrase, value in relevance.items()}
    order = ["red fox", "bee owl", "moor", "fox den"]
    assert list(ranked("red fox; bee owl; fox den; moor", scores, diversity=0.5)) == order


@pytest.mark.parametrize("text", ["", "...", "of the", "Frost", "the frost"])
@pytest.mark.parametrize("diversity", [0.0, 0.5])
@pytest.mark.parametrize("score", [0.0, -1000.0])
def test_short_texts_have_few_phrases(text, diversity, score):
    document = doc(text)
    candidates = group(document, content_runs(document, 5))
    scores = np.full(len(candidates), score)
    keyphrases = rank_phrases(document, candidates, scores, diversity=diversity)
    assert [p.text.lower() for p in keyphrases] == ["frost"] * ("frost" in text.lower())
    assert [p.score for p in keyphrases] == [1.0] * len(keyphrases)


@pytest.mark.parametrize("scores", [[], [1.0, 2.0], [[1.0]]])
def test_scores_of_wrong_length_are_rejected(scores):
    document = doc("late frost")
    with pytest.raises(ValueError, match="'d': expected one score for each candidate"):
        rank_phrases(document, group(document, [(0, 2)]), np.array(scores))


@pytest.mark.parametrize("bad", ["nan", "inf", "-inf"])
def test_scores_must_be_finite(bad):
    document = doc("late frost, frost")
    with pytest.raises(ValueError, match="'d': the score of candidate 1 is not finite"):
        rank_phrases(document, group(document, [(0, 2), (2, 3)]), np.array([1.0, float(bad)]))


# Any text ---------------------------------------------------------------------------------------

PARTS = ["fox", "foxes", "Red", "red", "den", "the", "of", "3", "multi-agent", "深", "度", "שלום"]
GAPS = [" ", " ", " ", ", ", ". ", "\n", "/", "", "-"]
texts = st.lists(st.tuples(st.sampled_from(PARTS), st.sampled_from(GAPS)), max_size=25).map(
    lambda pairs: "".join(word + gap for word, gap in pairs)
)


@st.composite
def problems(draw):
    """A document, candidates and their scores, many of them equal, a few far below the others."""
    document = doc(draw(texts | st.text(max_size=30)))
    place = st.integers(0, len(document.words))
    pairs = draw(st.lists(st.tuples(place, place), max_size=8))
    runs = [(min(pair), max(pair)) for pair in pairs]
    candidates = group(document, runs + content_runs(document, 4))
    score = st.sampled_from([-2000, -1.5, 0, 0.1, 0.7, 1, 3])
    size = len(candidates)
    scores = draw(st.lists(score, min_size=size, max_size=size))
    return document, candidates, np.array(scores, dtype=np.float64)


diversities = st.sampled_from([0.0, 0.3, 1.0])


@given(problems(), diversities)
def test_every_span_has_the_stems_of_the_phrase(problem, diversity):
    document, candidates, scores = problem
    keyphrases = rank_phrases(document, candidates, scores, diversity)
    language = document.language
    for phrase in keyphrases:
        assert phrase.text == document.text[slice(*phrase.spans[0])]
        assert phrase.spans == sorted(set(phrase.spans))
        for start, end in phrase.spans:
            assert 0 <= start < end <= len(document.text)
            assert stems(document.text[start:end], language) == stems(phrase.text, language)
    assert len({stems(phrase.text, language) for phrase in keyphrases}) == len(candidates)


@given(problems())
def test_order_and_shares_are_those_of_the_exponentials(problem):
    document, candidates, scores = problem
    keyphrases = rank_phrases(document, candidates, scores)
    order = sorted(range(len(scores)), key=lambda i: -scores[i])  # stable
    powers = [math.exp(score - max(scores)) for score in scores]
    spans = [candidates[i].runs for i in order]
    words = document.words
    assert [phrase.spans for phrase in keyphrases] == [
        [(words[first][0], words[last - 1][1]) for first, last in runs] for runs in spans
    ]
    assert [phrase.score for phrase in keyphrases] == pytest.approx(
        [powers[i] / sum(powers) for i in order], rel=1e-12, abs=0
    )


@given(problems(), diversities, st.randoms())
def test_order_of_candidates_does_not_matter(problem, diversity, random):
    document, candidates, scores = problem
    order = random.sample(range(len(scores)), len(scores))
    mixed = rank_phrases(document, [candidates[i] for i in order], scores[order], diversity)
    expected = rank_phrases(document, candidates, scores, diversity)
    assert [phrase._replace(score=0) for phrase in mixed] == [
        phrase._replace(score=0) for phrase in expected
    ]
    shares = [phrase.score for phrase in expected]
    assert [phrase.score for phrase in mixed] == pytest.approx(shares, rel=1e-12)


@given(problems(), diversities, st.integers(1, 10))
def test_first_phrases_do_not_depend_on_top(problem, diversity, top):
    document, candidates, scores = problem
    all_phrases = rank_phrases(document, candidates, scores, diversity)
    assert rank_phrases(document, candidates, scores, diversity, top) == all_phrases[:top]


@given(problems(), st.sampled_from([0.1, 0.45, 0.8, 1.0]))
def test_diversity_is_greedy_maximal_marginal_relevance(problem, diversity):
    document, candidates, scores = problem
    remaining = rank_phrases(document, candidates, scores)
    scale = max([phrase.score for phrase in remaining], default=1)
    chosen = []

    def likeness(a, b):
        a, b = (set(stems(phrase.text, document.language)) for phrase in (a, b))
        return len(a & b) / len(a | b)

    def gain(phrase):
        near = max([likeness(phrase, c) for c in chosen], default=0)
        return (1 - diversity) * phrase.score / scale - diversity * near

    for phrase in rank_phrases(document, candidates, scores, diversity):
        assert gain(phrase) == pytest.approx(max(map(gain, remaining)), abs=1e-12)
        remaining.remove(phrase)
        chosen.append(phrase)
    assert remaining == []


SCRIPTS = [
    *("l'été", "d\u2019œuvre", "де ла", "ΤΗΣ οδού", "مَدرسة في", "किताबें में"),
    *("图书馆的", "ガス", "ﬁne ß", "שָׁלוֹם", "👩\u200d🔬", "of", "İş", "\u202b"),
]


@given(
    st.lists(st.sampled_from([*SCRIPTS, *" \n.,-'"]), max_size=30).map("".join),
    st.sampled_from(["en", "fr", "ru", "el", "ar", "hi", "zh"]),
)
def test_spans_are_exact_in_every_script(text, code):
    document = in_language(doc(text), read_language(code))
    candidates = group(document, content_runs(document, 3))
    for phrase in rank_phrases(document, candidates, np.zeros(len(candidates))):
        assert phrase.text == text[slice(*phrase.spans[0])]
        keys = {stems(text[start:end], document.language) for start, end in phrase.spans}
        assert keys == {stems(phrase.text, document.language)}
        starts, ends = zip(*document.words)
        assert all(start in starts and end in ends for start, end in phrase.spans)
