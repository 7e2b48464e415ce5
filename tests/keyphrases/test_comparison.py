"""The ways to rank against a ranker of their own heads, by hand, and against the measures."""

import json

import numpy as np
import pytest

from minibert.data.corpus import SAMPLE, read_documents
from minibert.data.documents import Document, is_content_word, word_labels
from minibert.evaluation import intervals
from minibert.evaluation.metrics import PrecisionRecallCurve
from minibert.keyphrases import comparison
from minibert.keyphrases.choice import ALL_HEADS, NO_ATTENTION, UNIFORM, score_record
from minibert.keyphrases.fitting import Fitter, as_score
from minibert.keyphrases.ranker import Ranker, RankSettings
from minibert.phrases.baselines import textrank
from minibert.phrases.features import BY_ATTENTION, FEATURES, PhraseScore, phrase_features
from minibert.phrases.ranking import rank_phrases
from minibert.phrases.scores import gold_stems, phrase_measures
from minibert.text.words import word_spans

WEIGHTS = dict(zip(FEATURES, [0.6, -0.5, 0.4, -1.1, 0.9, 0.5, -0.4]))
SCORE = PhraseScore({(1, 0): 1.0, (0, 1): 0.5}, {(0, 2): 1.0}, WEIGHTS)
CONTROLS = {
    NO_ATTENTION: PhraseScore({}, {}, {n: w for n, w in WEIGHTS.items() if n not in BY_ATTENTION}),
    ALL_HEADS: PhraseScore({(i, h): 1.0 for i in range(2) for h in range(3)}, {}, WEIGHTS),
    "random heads 1": PhraseScore({(1, 1): 1.0, (0, 0): 1.0}, {(1, 2): 1.0}, WEIGHTS),
    "random heads 2": PhraseScore({(0, 0): 1.0, (0, 1): 1.0}, {(1, 0): 1.0}, WEIGHTS),
}


def text(words, keyphrases=()):
    return Document("1", words, word_spans(words), [*keyphrases])


@pytest.fixture(scope="module")
def documents():
    """The last has no candidate."""
    return [*read_documents(SAMPLE / "dev.jsonl")[:4], text("it is of the", ["fox"])]


@pytest.fixture(scope="module")
def make_ranker(encoder_folder, tmp_path_factory):
    def make_ranker(score=SCORE, **settings):
        path = tmp_path_factory.mktemp("fit") / "fit.json"
        path.write_text(json.dumps(score_record(score)))
        return Ranker(RankSettings(model=str(encoder_folder), heads=str(path), **settings))

    return make_ranker


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "idf"])
def ranker(make_ranker, request):
    """With the words' IDF, and without."""
    return make_ranker(idf=SAMPLE / "train.jsonl" if request.param else None)


@pytest.fixture(scope="module")
def examples(ranker, documents):
    return [*comparison.examples(ranker, documents)]


def ranked(ranker, example, way):
    return ranker.rank(example.document, example.candidates, way.scores)


def assert_same(phrases, expected):
    """The same order, and scores but for rounding."""
    assert [p.text for p in phrases] == [p.text for p in expected]
    assert [p.score for p in phrases] == pytest.approx([p.score for p in expected], rel=1e-4)


# Ways to rank -----------------------------------------------------------------------------------


def test_own_score_ranks_as_the_ranker(ranker, examples, documents):
    analyses = ranker.analyse(documents)
    for example, analysis in zip(examples, analyses, strict=True):
        assert example.candidates == analysis.candidates
        expected = ranker.keyphrases(analysis)
        by_score = comparison.score_by(ranker, example, ranker.score)
        these = comparison.ways_by_attention(ranker, example)["these heads"]
        for way in (by_score, these):
            assert_same(ranked(ranker, example, way), expected)
            np.testing.assert_allclose(way.weights, analysis.weights, rtol=1e-5)


@pytest.mark.parametrize("name", [ALL_HEADS, "random heads 1"])
def test_any_score_ranks_as_a_ranker_with_it(ranker, examples, documents, make_ranker, name):
    other = make_ranker(CONTROLS[name], idf=ranker.settings.idf)
    for example, analysis in zip(examples, other.analyse(documents), strict=True):
        way = comparison.score_by(ranker, example, CONTROLS[name])
        assert_same(ranked(ranker, example, way), other.keyphrases(analysis))


def test_score_without_attention_has_no_word_weights(ranker, examples):
    for example in examples:
        way = comparison.score_by(ranker, example, CONTROLS[NO_ATTENTION])
        assert way.weights is None
        nothing = np.zeros(len(example.document.words))
        features = phrase_features(example.document, example.candidates, nothing, nothing)
        counted = features[:, :4] @ [WEIGHTS[name] for name in FEATURES[:4]]
        expected = rank_phrases(example.document, example.candidates, counted)
        assert_same(ranked(ranker, example, way), expected)


def test_pagerank_ranks_as_a_ranker_by_pagerank(ranker, examples, documents, make_ranker):
    other = make_ranker(weights="pagerank", damping=0.85, idf=ranker.settings.idf)
    for example, analysis in zip(examples, other.analyse(documents), strict=True):
        way = comparison.ways_by_attention(ranker, example)["PageRank of these"]
        np.testing.assert_allclose(way.weights, analysis.weights, rtol=1e-5)
        assert_same(ranked(ranker, example, way), other.keyphrases(analysis))


def test_uniform_weights_rank_as_no_attention(ranker, examples):
    for example in examples:
        ways = comparison.ways_by_attention(ranker, example)
        assert [*ways] == ["these heads", "PageRank of these", UNIFORM]
        uniform = ways[UNIFORM]
        np.testing.assert_array_equal(uniform.weights, is_content_word(example.document))
        without = comparison.score_by(ranker, example, CONTROLS[NO_ATTENTION])
        expected = [p.text for p in ranked(ranker, example, without)]
        assert [p.text for p in ranked(ranker, example, uniform)] == expected


def test_all_heads_have_one_row(make_ranker, documents):
    ranker = make_ranker(CONTROLS[ALL_HEADS])
    (example,) = comparison.examples(ranker, documents[:1])
    ways = comparison.ways_by_attention(ranker, example)
    assert [*ways] == [ALL_HEADS, "PageRank of all", UNIFORM]


def test_ways_without_a_model_by_hand(make_ranker, tmp_path):
    """Of three texts, two have "fox" and one has "den": IDF ln 4/3 and ln 2; "owl" ln 4. The stop
    word inside a listed phrase weighs nothing."""
    corpus = [{"id": i, "text": t} for i, t in enumerate(["the fox", "fox, den", "moor of it"])]
    path, phrases = tmp_path / "corpus.jsonl", tmp_path / "phrases.txt"
    path.write_text("\n".join(map(json.dumps, corpus)))
    phrases.write_text("fox\nden of owl\nowl\nfox den\n")
    ranker = make_ranker(idf=path, phrases=phrases)
    document = text("fox den; den of owl, an owl, fox and fox", ["owl"])
    (example,) = comparison.examples(ranker, [document])
    assert [len(c.runs) for c in example.candidates] == [3, 1, 1, 2]

    ways = comparison.ways_without_model(example, ranker.idf)
    assert [*ways] == ["first candidates", "frequency", "TextRank", "tf-idf"]
    names = [c.stems for c in example.candidates]
    first = [phrase.text for phrase in ranked(ranker, example, ways["first candidates"])]
    assert first == [" ".join(name) for name in names]
    assert ways["frequency"].scores.tolist() == [3, 1, 1, 2]

    fox, den, owl = np.log([4 / 3, 4 / 2, 4 / 1])
    expected = {
        ("fox",): 3 * fox,
        ("fox", "den"): fox + den,
        ("den", "of", "owl"): den + owl,
        ("owl",): 2 * owl,
    }
    assert dict(zip(names, ways["tf-idf"].scores)) == pytest.approx(expected, abs=1e-12)
    of_words = [fox, den, den, 0, owl, 0, owl, fox, 0, fox]
    np.testing.assert_allclose(ways["tf-idf"].weights, of_words, atol=1e-12)

    rank = textrank(document)
    sums = {
        ("fox",): rank[0],
        ("fox", "den"): rank[0] + rank[1],
        ("den", "of", "owl"): rank[2] + rank[4],
        ("owl",): rank[4],
    }
    assert dict(zip(names, ways["TextRank"].scores)) == pytest.approx(sums, abs=1e-12)
    assert "tf-idf" not in comparison.ways_without_model(example, None)


def test_each_head_alone_is_ranked_by_the_score(ranker, examples):
    for example in examples:
        values = comparison.f1_of_each_head(ranker, example)
        assert values.shape == (6,)
        for value, head in zip(values, ranker.bert.config.present_heads, strict=True):
            way = comparison.score_by(ranker, example, PhraseScore({head: 1.0}, {}, WEIGHTS))
            phrases = [phrase.text for phrase in ranked(ranker, example, way)]
            measures = phrase_measures([example.document], [phrases], np.ones((1, 1)))
            assert value == pytest.approx(measures["F1@10"][0], abs=1e-12)
    assert not comparison.f1_of_each_head(ranker, examples[-1]).any()


# Tasks and comparison ---------------------------------------------------------------------------


def test_tasks_are_of_the_documents_with_candidates(ranker, examples, documents):
    tasks = [*comparison.tasks(ranker, documents)]
    assert [task.document for task in tasks] == documents[:-1]
    for task, example in zip(tasks, examples):
        np.testing.assert_allclose(task.received, example.by_head, rtol=1e-4, atol=1e-6)
        gold = gold_stems(example.document)
        assert task.is_gold.tolist() == [c.stems in gold for c in example.candidates]
        assert task.wanted == len(gold)


def test_fitted_score_ranks_as_in_the_fit(ranker, documents):
    """F1@10 of a choice is that of its score on the same documents."""
    fitter = Fitter([[*comparison.tasks(ranker, documents[:-1])]])
    choice = fitter.fit((0, 4), (2,))
    score = as_score(choice, ranker.bert.config.present_heads)
    phrases = [
        [p.text for p in ranked(ranker, example, comparison.score_by(ranker, example, score))]
        for example in comparison.examples(ranker, documents[:-1])
    ]
    measures = phrase_measures(documents[:-1], phrases, np.ones((1, 4)))
    assert choice.f1 == pytest.approx(measures["F1@10"][0], abs=1e-12)


def test_comparison_has_the_measures_of_every_way(ranker, examples, documents):
    compared = comparison.compare(ranker, documents, CONTROLS)
    names = ["these heads", "PageRank of these", UNIFORM, NO_ATTENTION, ALL_HEADS]
    names += ["first candidates", "frequency", "TextRank"]
    names += ["tf-idf"] if ranker.idf else []
    assert [*compared.ways] == names
    assert len(compared.random) == 2

    draws = intervals.resamples(len(documents))
    by_score = {"these heads": SCORE} | CONTROLS
    random = {f"random heads {i}": values for i, values in enumerate(compared.random, 1)}
    for name, score in by_score.items():
        ways = [comparison.score_by(ranker, example, score) for example in examples]
        phrases = [
            [p.text for p in ranked(ranker, *pair)] for pair in zip(examples, ways, strict=True)
        ]
        expected = phrase_measures(documents, phrases, draws)
        if score.heads:
            precisions = [
                PrecisionRecallCurve([gold], [way.weights]).average_precision()
                for document, way in zip(documents, ways)
                if (gold := np.array(word_labels(document, "io")) == "I").any()
            ]
            assert (compared.ways | random)[name]["AP"][0] == pytest.approx(np.mean(precisions))
        values = {n: v for n, v in (compared.ways | random)[name].items() if n != "AP"}
        assert values.keys() == expected.keys()
        for measure, value in values.items():
            np.testing.assert_allclose(value, expected[measure], atol=1e-12)
    assert "AP" not in compared.ways[NO_ATTENTION]
    assert "AP" not in compared.ways["frequency"]

    means = np.mean([comparison.f1_of_each_head(ranker, example) for example in examples], axis=0)
    heads = ["L0H0", "L0H1", "L0H2", "L1H0", "L1H1", "L1H2"]
    assert compared.alone == pytest.approx(dict(zip(heads, means)), abs=1e-12)
