"""Search against hand-worked BM25, bm25s and an independent nDCG; tuning that sees no answers."""

import json
import math
import subprocess
import sys
from itertools import product

import bm25s
import numpy as np
import pytest

from minibert.data.documents import Document
from minibert.errors import InputError
from minibert.evaluation.intervals import Score
from minibert.keyphrases.ranker import Ranker, RankSettings
from minibert.search.bm25 import Index, best, bm25, impacts, mix, terms, whole_vector
from minibert.search.collection import Collection, collection_files, read_collection
from minibert.search.tuning import (
    MEASURES,
    Comparison,
    Outcome,
    Setting,
    average,
    cross_validate,
    grid,
    judge,
    random_heads,
    randomisation_test,
    search_weights,
    summarise,
)
from minibert.text.words import word_spans

WORDS = ["wing", "flow", "shock", "layer", "heat", "plate", "panel", "flutter", "orbit", "laser"]
VOCABULARY = [*WORDS, "probe", "gas"]


def document(text: str, name: str = "d") -> Document:
    return Document(name, text, word_spans(text))


def documents(*texts: str) -> list[Document]:
    return [document(text, f"d{i}") for i, text in enumerate(texts)]


def search_by_loops(
    vectors: list[dict[str, float]], query: Document, k1: float = 1.5, b: float = 0.75
) -> list[float]:
    """BM25 of each document, straight from its {term: frequency}."""
    lengths = [sum(vector.values()) for vector in vectors]
    mean = sum(lengths) / len(lengths)
    scores = [0.0] * len(vectors)
    for term in [term for word in terms(query) for term in word]:
        contain = sum(term in vector for vector in vectors)
        idf = math.log(1 + (len(vectors) - contain + 0.5) / (contain + 0.5))
        for i, vector in enumerate(vectors):
            if vector.get(term):
                norm = k1 * (1 - b + b * lengths[i] / mean)
                scores[i] += idf * vector[term] / (vector[term] + norm)
    return scores


def plain_scores(corpus: list[Document], queries: list[Document], k1=1.5, b=0.75) -> np.ndarray:
    index = Index.build(corpus)
    return bm25(index.weigh_queries(queries), index.counts, index.lengths, k1, b)


def scores_of(corpus: list[Document], query: str, k1: float = 1.5, b: float = 0.75) -> np.ndarray:
    return plain_scores(corpus, [document(query)], k1, b)[0]


def uniform(corpus: list[Document]) -> np.ndarray:
    return np.ones(sum(len(d.words) for d in corpus))


def random_collection(seed: int = 0, size: int = 60, queries: int = 23) -> Collection:
    """Random words, some repeated in queries too; grades 0 to 3, of each query at least one > 0."""
    draw = np.random.default_rng(seed)
    odds = np.arange(1, 13) / 78
    texts = [" ".join(draw.choice(VOCABULARY, draw.integers(1, 30), p=odds)) for _ in range(size)]
    asked = [" ".join(draw.choice(VOCABULARY, draw.integers(1, 6))) for _ in range(queries)]
    qrels = {}
    for number in range(queries):
        judged = draw.choice(size, 9, replace=False)
        grades = draw.integers(0, 4, 9)
        grades[0] = 1 + grades[0] % 3
        qrels[f"q{number}"] = {f"d{d}": int(grade) for d, grade in zip(judged, grades)}
    questions = [document(text, f"q{i}") for i, text in enumerate(asked)]
    return Collection(documents(*texts), questions, qrels)


def random_weights(collection: Collection, seed: int = 0) -> list[np.ndarray]:
    draw = np.random.default_rng(seed)
    return [draw.exponential(size=len(d.words)) for d in collection.documents]


def test_package_import_needs_no_extra():
    code = "import sys, minibert; sys.exit('ir_measures' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


# Terms and impacts ------------------------------------------------------------------------------


def test_terms_are_stems_of_hyphenated_parts_without_stop_words():
    text = "The Multi-Agent systems, don't U.S. state-of-the-art, blunt\u2010body -"
    assert terms(document(text)) == [
        (),
        ("multi", "agent"),
        ("system",),
        (),
        ("us",),
        ("state", "art"),
        ("blunt", "bodi"),
    ]
    assert terms(document("us attention(HCG)")) == [(), ("attent",), ("hcg",)]


def test_impacts_by_hand():
    """Three terms of five weigh 1 + 1 and 2 and 0 of 4; scaled to the document's four terms."""
    d = document("the wing heats a wing of gas")
    weights = np.array([9, 1, 2, 9, 1, 9, 0])
    assert impacts(d, weights, 0) == {"wing": 2, "heat": 1, "gas": 1}
    assert impacts(d, weights, 1) == {"wing": 2, "heat": 2, "gas": 0}
    assert impacts(d, weights * 7, 0.25) == pytest.approx({"wing": 2, "heat": 1.25, "gas": 0.75})
    assert impacts(d, np.array([1, 0, 0, 1, 0, 1, 0]), 1) == impacts(d, weights, 0)
    assert impacts(document("the"), np.ones(1), 0.5) == {}


def test_hyphenated_word_gives_its_weight_to_each_part():
    d = document("multi-agent wing")
    assert impacts(d, np.array([1.0, 4.0]), 1) == pytest.approx(
        {"multi": 0.5, "agent": 0.5, "wing": 2}
    )


@pytest.mark.parametrize("mixing", [0, 0.3, 1])
def test_length_does_not_depend_on_weights(mixing):
    collection = random_collection()
    for d, weights in zip(collection.documents, random_weights(collection)):
        assert sum(impacts(d, weights, mixing).values()) == pytest.approx(len(d.words), abs=1e-9)


@pytest.mark.parametrize("weights", [[1, -1], [1, math.nan], [math.inf, 1], [1], [1, 1, 1]])
def test_invalid_weights_are_rejected(weights):
    with pytest.raises(ValueError, match=r"negative|zip"):
        impacts(document("gas flow"), np.array(weights, float), 0.5)


def test_vectors_are_whole_hundredths_without_zeros():
    corpus = documents("gas flow é", "")
    vectors = [{"gas": 1.236, "flow": 0.004, "é": 2.0}, {}]
    assert list(map(whole_vector, corpus, vectors)) == [
        {"id": "d0", "contents": "gas flow é", "vector": {"gas": 124, "é": 200}},
        {"id": "d1", "contents": "", "vector": {}},
    ]


# BM25 -------------------------------------------------------------------------------------------


def test_bm25_by_hand():
    """Lengths 3, 1, 0, mean 4/3; k1 2, b 1/2. "wing" twice and once; "gas" once; the query says
    "gas" twice."""
    corpus = documents("wing wing gas", "wing", "the")
    wing, gas = math.log(1 + 1.5 / 2.5), math.log(1 + 2.5 / 1.5)
    long, short = 2 * (0.5 + 0.5 * 9 / 4), 2 * (0.5 + 0.5 * 3 / 4)
    scores = scores_of(corpus, "gas of wings, gas", k1=2, b=0.5)
    expected = [wing * 2 / (2 + long) + 2 * gas / (1 + long), wing / (1 + short), 0]
    assert scores == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("k1", "b"), [(1.5, 0.75), (0.6, 0.0), (3.0, 1.0)])
def test_plain_bm25_is_bm25s(k1, b):
    collection = random_collection()
    ours = plain_scores(collection.documents, collection.queries, k1, b)
    peer = bm25s.BM25(k1=k1, b=b, method="lucene")
    words = [[t for w in terms(d) for t in w] for d in collection.documents]
    peer.index(words, show_progress=False)
    asked = [[t for w in terms(q) for t in w] for q in collection.queries]
    theirs = np.stack([peer.get_scores(query) for query in asked])
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)
    assert any(len(set(query)) < len(query) for query in asked)


@pytest.mark.parametrize("mixing", [0, 0.3, 1])
def test_mixed_frequencies_are_the_impacts(mixing):
    """A hyphenated word, a text whose weights are all zero, and one without words."""
    collection = random_collection()
    corpus = [*collection.documents, *documents("gas-wing gas gas-flow", "the wing heats", "")]
    weights = [*random_weights(collection), np.array([1.0, 4, 2]), np.zeros(3), np.zeros(0)]
    vectors = [impacts(d, w, mixing) for d, w in zip(corpus, weights)]

    index = Index.build(corpus)
    mixed = mix(index.counts, index.weigh_terms(np.concatenate(weights)), mixing)
    entries = mixed.tocoo()
    names = list(index.rows)
    ours: list[dict[str, float]] = [{} for _ in corpus]
    for row, column, value in zip(*entries.coords, entries.data):
        ours[column][names[row]] = value
    for vector, expected in zip(ours, vectors, strict=True):
        assert vector == pytest.approx(expected, abs=1e-12)

    scores = bm25(index.weigh_queries(collection.queries), mixed, index.lengths, 1.5, 0.75)
    expected = [search_by_loops(vectors, query) for query in collection.queries]
    np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("weight", [-1, math.nan, math.inf])
def test_index_rejects_invalid_weights(weight):
    with pytest.raises(ValueError, match="negative"):
        Index.build(documents("gas flow")).weigh_terms(np.array([1, weight]))


def test_term_without_weight_counts_for_idf_only():
    index = Index.build(documents("gas wing wing", "gas", "wing"))
    assert index.idf() == pytest.approx([math.log(1 + 1.5 / 2.5)] * 2)
    weighted = index.weigh_terms(np.array([0.0, 1, 1, 1, 1]))
    queries = index.weigh_queries([document("gas")])
    scores = bm25(queries, weighted, index.lengths, 1.5, 0.75)
    assert [ranking.tolist() for ranking in best(scores)] == [[1]]


def test_query_without_known_term_retrieves_nothing():
    corpus = documents("gas flow", "wing")
    index = Index.build(corpus)
    queries = [document("the orbit"), document("gas"), document("")]
    assert np.diff(index.weigh_queries(queries).indptr).tolist() == [0, 1, 0]
    assert [r.tolist() for r in best(plain_scores(corpus, queries))] == [[], [0], []]
    assert not scores_of(corpus, "orbit").any()


def test_best_breaks_ties_by_corpus_order():
    scores = np.array([[1.0, 3.0, 1.0, 0.0, 1.0, 2.0], [0.0] * 6])
    assert [r.tolist() for r in best(scores, 4)] == [[1, 5, 0, 2], []]
    assert best(scores)[0].tolist() == [1, 5, 0, 2, 4]
    ties = np.zeros((1, 3000))
    ties[0, 5:2000] = 1
    assert best(ties)[0].tolist() == list(range(5, 1005))


def test_mean_idf_by_hand():
    corpus = documents("the gas-wing gas", "gas")
    gas, wing = math.log(1 + 0.5 / 2.5), math.log(1 + 1.5 / 1.5)
    expected = [0, (gas + wing) / 2, gas]
    assert Index.build(corpus).mean_idf() == pytest.approx([*expected, gas], abs=1e-12)


# Scores -----------------------------------------------------------------------------------------


def by_definition(ranking: list[str], grades: dict[str, int]) -> tuple[float, float, float]:
    """nDCG@10 with linear gains (Järvelin and Kekäläinen 2002), AP and recall at 100."""
    gains = [max(grades.get(document, 0), 0) for document in ranking]
    ideal = sorted(grades.values(), reverse=True)
    dcg, most = (
        sum(g / math.log2(place + 2) for place, g in enumerate(column[:10]))
        for column in (gains, ideal)
    )
    relevant = sum(g > 0 for g in grades.values())
    hits = [place for place, g in enumerate(gains, 1) if g > 0]
    ap = sum(number / place for number, place in enumerate(hits, 1)) / relevant
    return dcg / most, ap, sum(place <= 100 for place in hits) / relevant


def test_measures_are_their_definitions():
    collection = random_collection(size=400)
    rankings = best(plain_scores(collection.documents, collection.queries))
    rankings[3] = rankings[3][:0]
    values = judge(collection, rankings)
    assert max(map(len, rankings)) > 100
    for number, query in enumerate(collection.queries):
        ids = [collection.documents[d].id for d in rankings[number]]
        expected = by_definition(ids, collection.qrels[query.id])
        assert [v[number] for v in values.values()] == pytest.approx(expected, abs=1e-9)


def test_ties_are_judged_in_corpus_order():
    corpus = documents("gas", "gas")
    query = document("gas", "q")
    rankings = best(plain_scores(corpus, [query]))
    for relevant, expected in (("d0", 1.0), ("d1", 0.5)):
        collection = Collection(corpus, [query], {"q": {relevant: 1}})
        assert judge(collection, rankings)["MAP"].tolist() == [expected]


def test_randomisation_test_agrees_with_enumeration():
    draw = np.random.default_rng(3)
    a, b = draw.random(9), draw.random(9) - 0.25
    sums = [abs(np.dot(signs, a - b)) for signs in product([1, -1], repeat=9)]
    exact = np.mean(np.array(sums) >= abs((a - b).sum()) - 1e-9)
    assert 0.02 < exact < 0.5
    assert randomisation_test(a, b) == pytest.approx(exact, abs=1e-12)
    assert randomisation_test(a, b, draws=400) == pytest.approx(exact, abs=0.05)
    assert randomisation_test(b, a) == randomisation_test(a, b)
    assert randomisation_test(a, a) == 1
    assert randomisation_test(np.ones(40), np.zeros(40)) == pytest.approx(1 / 10_001)


def test_average_has_the_interval_of_a_mean():
    values = np.random.default_rng(0).normal(2, 1, 400)
    score = average(values)
    assert score.value == pytest.approx(values.mean(), abs=1e-12)
    assert score.high - score.low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.1)


# Tuning -----------------------------------------------------------------------------------------


def scored(collection: Collection, weights: list[np.ndarray], setting: Setting) -> dict:
    """Every query under one setting, straight from its impacts."""
    vectors = [impacts(d, w, setting.mixing) for d, w in zip(collection.documents, weights)]
    scores = [search_by_loops(vectors, q, setting.k1, setting.b) for q in collection.queries]
    return judge(collection, best(np.array(scores).round(12)))


def validate(collection: Collection, weights: list[np.ndarray], settings: list[Setting]) -> Outcome:
    index = Index.build(collection.documents)
    return cross_validate(collection, index, np.concatenate(weights), settings)


def test_each_fold_uses_the_best_setting_of_the_others():
    collection = random_collection()
    weights = random_weights(collection)
    settings = grid([0.0, 0.5, 1.0])
    outcome = validate(collection, weights, settings)
    alone = [scored(collection, weights, setting) for setting in settings]
    assert np.bincount(outcome.folds).tolist() == [5, 5, 5, 4, 4]
    assert len(set(outcome.chosen)) > 1
    for fold, chosen in enumerate(outcome.chosen):
        held_out = outcome.folds == fold
        means = [values["nDCG@10"][~held_out].mean() for values in alone]
        assert chosen == settings[int(np.argmax(means))]
        expected = alone[settings.index(chosen)]
        for measure, values in outcome.values.items():
            assert values[held_out].tolist() == expected[measure][held_out].tolist()


@pytest.mark.parametrize("fold", range(5))
def test_held_out_judgements_do_not_affect_choice(fold):
    collection = random_collection()
    weights = random_weights(collection)
    before = validate(collection, weights, grid())
    draw = np.random.default_rng(fold)
    qrels = dict(collection.qrels)
    for query in np.array([q.id for q in collection.queries])[before.folds == fold]:
        others = draw.choice(60, 5, replace=False)
        qrels[query] = {f"d{d}": int(1 + draw.integers(3)) for d in others}
    after = validate(collection._replace(qrels=qrels), weights, grid())
    assert after.chosen[fold] == before.chosen[fold]
    assert after.chosen != before.chosen  # the other folds use them
    assert not np.array_equal(after.values["MAP"], before.values["MAP"])


def test_uniform_weights_equal_counts_for_any_mixing():
    collection = random_collection()
    weights = [uniform(collection.documents)]
    baseline = validate(collection, weights, grid([0.0]))
    mixed = validate(collection, weights, grid())
    assert [s._replace(mixing=0.0) for s in mixed.chosen] == baseline.chosen
    for measure, values in baseline.values.items():
        assert mixed.values[measure].tolist() == values.tolist()


def test_informative_weights_are_chosen():
    """Four documents of each word, of which the last is relevant and alone means it."""
    corpus = documents(*(f"{word} gas" for word in WORDS for _ in range(4)))
    queries = [document(word, f"q{i}") for i, word in enumerate(WORDS)]
    qrels = {f"q{i}": {f"d{4 * i + 3}": 1} for i in range(10)}
    weights = [np.array([1.0, 0.0] if i % 4 == 3 else [0.0, 1.0]) for i in range(40)]
    collection = Collection(corpus, queries, qrels)
    counts = validate(collection, weights, grid([0.0]))
    mixed = validate(collection, weights, grid())
    assert counts.values["MAP"].tolist() == [0.25] * 10
    assert mixed.values["MAP"].tolist() == [1.0] * 10


def test_too_few_queries_are_rejected():
    with pytest.raises(InputError, match="4 judged queries are too few for 5 folds"):
        validate(random_collection(queries=4), [np.ones(0)], [Setting()])


# Comparison -------------------------------------------------------------------------------------


@pytest.fixture
def ranker(encoder_folder):
    """Two layers of three heads."""
    return Ranker(RankSettings(model=str(encoder_folder), heads="L1H1,L0H2"))


def test_weights_are_those_of_each_text_alone(ranker):
    corpus = documents("gas-wing flow", "the shock layer", "", "wing heat and gas plate gas")
    collection = Collection(corpus, [document("gas", "q")], {"q": {"d0": 1}})
    index = Index.build(corpus)
    ways = search_weights(ranker, collection, index, iter(corpus))
    idf = [index.idf()[index.rows[term]] for term in ("gas", "wing")]
    assert ways.compared["IDF"][0] == pytest.approx(np.mean(idf), abs=1e-12)

    start = 0
    for d in corpus:
        ((links,), (by_head,), (from_cls,)) = ranker.attention([d])
        expected = {
            "all heads": by_head.sum(1),
            "these heads": by_head[:, 2] + by_head[:, 4],
            "PageRank of these": ranker.pagerank(links),
            "[CLS], last layer, x IDF": from_cls * index.mean_idf()[start : start + len(d.words)],
        }
        for way, weights in expected.items():
            ours = ways.compared[way][start : start + len(d.words)]
            np.testing.assert_allclose(ours, weights, rtol=0, atol=1e-6)
        for draw, picked in zip(ways.random, random_heads(ranker).T, strict=True):
            ours = draw[start : start + len(d.words)]
            np.testing.assert_allclose(ours, by_head[:, picked > 0].sum(1), rtol=0, atol=1e-6)
        start += len(d.words)
    assert [*ways.compared] == ["IDF", *expected]
    assert all(len(weights) == start for weights in [*ways.compared.values(), *ways.random])


def test_random_heads_have_the_number_and_weights_of_the_chosen(ranker, encoder_folder):
    picked = random_heads(ranker)
    assert picked.shape == (6, 20)
    assert (np.sort(picked, axis=0) == np.array([[0, 0, 0, 0, 1, 1]]).T).all()
    assert len({tuple(draw) for draw in picked.T}) > 5
    assert picked.any(1).all()
    np.testing.assert_array_equal(picked, random_heads(ranker))

    ranker.heads = {(0, 1): 2.0, (1, 2): 0.5, (1, 0): 1.0}
    assert (np.sort(random_heads(ranker), axis=0)[3:] == np.array([[0.5, 1, 2]]).T).all()
    ranker_of_all = Ranker(RankSettings(model=str(encoder_folder), heads="all"))
    assert random_heads(ranker_of_all).shape == (6, 0)


def outcome(ndcg: float, spread: float = 0.0) -> Outcome:
    """Of forty queries, with the same value of all measures."""
    values = ndcg + spread * np.resize([1, -1], 40)
    return Outcome(dict.fromkeys(MEASURES, values), np.zeros(40, int), [], 0)


@pytest.mark.parametrize(("fixed", "tuned", "better"), [(0.3, 0.4, "tuned"), (0.5, 0.4, "k1 1.5")])
def test_p_is_against_the_better_baseline(fixed, tuned, better):
    outcomes = {
        "BM25, k1 1.5, b 0.75": outcome(fixed),
        "BM25, tuned": outcome(tuned),
        "like the tuned": outcome(0.4, 0.1),
    }
    draws = [outcome(value, 0.2) for value in (0.7, 0.2, 0.3, 0.6)]
    comparison = Comparison(outcomes, draws)
    assert better in comparison.baseline
    table = summarise(comparison)
    smallest = pytest.approx(1 / 10_001)
    for measure in MEASURES:
        assert table[comparison.baseline][f"p {measure}"] == 1
        p = table["like the tuned"][f"p {measure}"]
        assert p == (1 if better == "tuned" else smallest)
        assert table["random heads"][measure] == Score(pytest.approx(0.45), 0.2, 0.7)
    assert [*table["random heads"]] == [*MEASURES]
    assert [*summarise(Comparison(outcomes, []))] == [*outcomes]


# Reading ----------------------------------------------------------------------------------------

CORPUS = [
    {"id": "a", "title": "Gas", "text": "flow"},
    {"_id": 7, "title": "", "text": "The wing."},
    {"id": "c", "title": None, "text": ""},
]
QUERIES = [{"id": "1", "text": "wings"}, {"_id": "2", "text": "of"}, {"id": "3", "text": "gas"}]
BEIR = "query-id\tcorpus-id\tscore\n1\t7\t2\n1\ta\t0\n2\tc\t1\n3\ta\t0\n"
TREC = "1 0 7 2\r\n1 0 a 0\n\n2 0 c 1\n3 0 a 0"


def read(folder, corpus=CORPUS, queries=QUERIES, qrels=BEIR) -> Collection:
    paths = [folder / name for name in ("corpus.jsonl", "queries.jsonl", "qrels.tsv")]
    for path, rows in zip(paths, (corpus, queries)):
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    paths[2].write_text(qrels, encoding="utf-8")
    collection = read_collection(*paths)
    assert read_collection(*map(str, paths)) == collection
    return collection


TREC_TABS = TREC.replace(" ", "\t")
POINT_ZERO = "query_id\tdoc_id\trelevance\n1\t7\t2.0\n1\ta\t0.0\n2\tc\t1.\n3\ta\t0.0\n"
MARK_AND_CRLF = "\ufeff" + BEIR.replace("\n", "\r\n")
MIXED_SPACE = "qid 0 docid rel\n1  0\t7 2 \n1 0 a 0\n2 0 c 1\n2 0 c 1\n3 0 a 0"


@pytest.mark.parametrize("qrels", [BEIR, TREC, TREC_TABS, POINT_ZERO, MARK_AND_CRLF, MIXED_SPACE])
def test_beir_and_trec_collections_are_read(tmp_path, qrels):
    collection = read(tmp_path, qrels=qrels)
    assert [(d.id, d.text) for d in collection.documents] == [
        ("a", "Gas\nflow"),
        ("7", "The wing."),
        ("c", ""),
    ]
    assert collection.documents[0].words == [(0, 3), (4, 8)]
    assert [q.id for q in collection.queries] == ["1", "2"]  # nothing is relevant to 3
    assert collection.qrels == {"1": {"7": 2, "a": 0}, "2": {"c": 1}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"corpus": []}, "corpus.jsonl: no texts in it"),
        ({"queries": []}, "queries.jsonl: no texts in it"),
        ({"corpus": [{"id": "a", "text": "the of"}]}, "corpus.jsonl: no document has a word"),
        ({"corpus": [*CORPUS, {"id": 7, "text": "x"}]}, "corpus.jsonl:4: the id '7' occurs twice"),
        ({"queries": [QUERIES[0]] * 2}, "queries.jsonl:2: the id '1' occurs twice"),
        ({"corpus": [{"text": "x"}]}, "corpus.jsonl:1: no field 'id'"),
        ({"corpus": [{"id": "a"}]}, "corpus.jsonl:1: no field 'text'"),
        ({"corpus": [{"id": "a", "title": 3, "text": "x"}]}, "corpus.jsonl:1: title must be"),
        ({"queries": [["1", "x"]]}, "queries.jsonl:1: expected an object"),
        ({"qrels": "1 7"}, "qrels.tsv:1: expected query, document, grade; found '1 7'"),
        ({"qrels": "1 7 1\n1 a high"}, "qrels.tsv:2: expected query, document, grade"),
        ({"qrels": "1 7 1\n1 0 7 0"}, "qrels.tsv:2: '7' has two grades for query '1'"),
        ({"qrels": "1 7 0.5"}, "qrels.tsv:1: expected query, document, grade"),
        ({"qrels": "1 7 yes"}, "qrels.tsv:1: expected query, document, grade"),
        ({"qrels": "1\t7"}, "qrels.tsv:1: expected query, document, grade"),
        (
            {"qrels": "1 x 1\n9 7 1"},
            "no query has a relevant document; judgements of unknown do",
        ),
        ({"qrels": "1 7 0\n1 a -1"}, "qrels.tsv: no query has a relevant document"),
        ({"qrels": ""}, "qrels.tsv: no query has a relevant document"),
    ],
)
def test_errors_name_file_and_line(tmp_path, change, message):
    with pytest.raises(InputError) as error:
        read(tmp_path, **change)
    assert message in str(error.value)


def test_unknown_documents_count_as_not_retrieved(tmp_path):
    """x is relevant and not in the corpus: recall and AP of query 1 are 1/2, of query 2 are 0."""
    qrels = "1 7 1\n1 x 1\n1 y 0\n2 x 2\n9 7 1\n9 x 1\n"
    collection = read(tmp_path, qrels=qrels)
    assert [q.id for q in collection.queries] == ["1", "2"]
    values = judge(collection, [np.array([1]), np.array([0])])
    assert values["R@100"].tolist() == [0.5, 0]
    assert values["MAP"].tolist() == [0.5, 0]
    assert values["nDCG@10"].tolist() == pytest.approx([1 / (1 + 1 / math.log2(3)), 0])
    assert collection.note == (
        "judgements of unknown documents, which count as not retrieved: 3; judgements of unknown "
        "queries, skipped: 2; queries without a relevant document, skipped: 1"
    )


def test_ids_with_spaces_between_tabs(tmp_path):
    corpus = [{"_id": "my doc 1", "text": "gas"}, {"_id": "my", "text": "wing"}]
    queries = [{"_id": "query one", "text": "gas", "metadata": {"url": "x"}}]
    for qrels in ("query one\tmy doc 1\t1\n", "query one\t0\tmy doc 1\t1\t\n"):
        collection = read(tmp_path, corpus, queries, qrels)
        assert collection.qrels == {"query one": {"my doc 1": 1}}
        assert collection.note == ""


def test_judgements_lie_beside_corpus_or_in_folder(tmp_path):
    assert collection_files(tmp_path)[2] == tmp_path / "qrels.tsv"
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels" / "dev.tsv").write_text(BEIR)
    names = ("corpus.jsonl", "queries.jsonl", "qrels/test.tsv")
    assert collection_files(tmp_path) == tuple(tmp_path / name for name in names)
    (tmp_path / "qrels.tsv").write_text(BEIR)
    assert collection_files(tmp_path)[2] == tmp_path / "qrels.tsv"


def test_missing_file_is_reported(tmp_path):
    with pytest.raises(InputError, match=r"none\.jsonl: not readable"):
        read_collection(*[tmp_path / "none.jsonl"] * 3)


def test_document_without_words_is_never_retrieved(tmp_path):
    collection = read(tmp_path)
    scores = scores_of(collection.documents, "gas wing of")
    assert (scores > 0).tolist() == [True, True, False]
