"""Predictions against windows run alone, scores against scikit-learn on the same words."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn import metrics as sklearn
from tiny import TINY, randomise

from minibert import BertForTokenClassification
from minibert.data.batches import Split, Window, make_split, make_windows
from minibert.data.corpus import load_corpus, parse_document
from minibert.data.documents import Document, is_content_word
from minibert.evaluation.intervals import Score
from minibert.evaluation.metrics import PrecisionRecallCurve
from minibert.evaluation.tagger import (
    EMPTY,
    Predictions,
    Recorder,
    by_document,
    choose_threshold,
    commonest_label,
    decode,
    dev_score,
    evaluate,
    in_keyphrase,
    log_odds,
    predict,
    predicted_spans,
    scores,
    word_prior,
)
from minibert.text.language import ENGLISH
from minibert.text.words import normal_form, word_spans

LENGTH = 64


def doc(text):
    return Document("d", text, word_spans(text), [])


def make_tagger(pieces, labels, **sizes):
    config = replace(
        TINY, vocab_size=pieces.size, max_position_embeddings=LENGTH, num_hidden_layers=2, **sizes
    )
    return randomise(BertForTokenClassification(config.with_labels(labels)).double()).eval()


@pytest.fixture(scope="module")
def reader(pieces):
    """A random float64 tagger with positions enough for the windows here."""
    return make_tagger(pieces, ("O", "B", "I"))


@pytest.fixture(scope="module")
def documents():
    return [*load_corpus("sample").splits["dev"][:3], doc("One."), doc("late frost " * 20)]


@pytest.fixture(scope="module")
def split(documents, pieces):
    draw = np.random.default_rng(0)
    targets = [draw.integers(0, 3, len(document.words)).tolist() for document in documents]
    return Split(documents, make_windows(documents, pieces, LENGTH), targets)


# Predictions ------------------------------------------------------------------------------------


def run_alone(model, documents, windows, head_mask=None):
    """The log-probabilities of every word, each window as a batch of one, its softmax spelled
    out."""
    out = [np.full((len(d.words), len(model.config.labels)), np.nan) for d in documents]
    for window in windows:
        with torch.no_grad():
            logits = model(torch.tensor([window.input_ids]), head_mask=head_mask).logits[0]
        probs = logits.exp() / logits.exp().sum(-1, keepdim=True)
        for word, position in zip(window.words, window.positions):
            out[window.document][word] = probs[position].log().numpy()
    return out


def expected_predictions(log_probs, targets):
    """Predictions for the labels O, B and I, from the probabilities."""
    probs = np.exp(np.concatenate(log_probs))
    loss = [-p[np.arange(len(t)), t].sum() for p, t in zip(log_probs, targets)]
    correct = [(p.argmax(1) == t).sum() for p, t in zip(log_probs, targets)]
    odds = (probs[:, 1] + probs[:, 2]) / probs[:, 0]
    labels = np.where(probs[:, 1] >= probs[:, 2], 1, 2)
    return Predictions(*(np.array([part]) for part in (loss, correct, np.log(odds), labels)))


def assert_same(predictions, expected):
    for ours, theirs in zip(predictions, expected):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-9)


@pytest.mark.parametrize("tokens", [1, 150, 100_000])
def test_predictions_match_each_window_alone(reader, split, tokens):
    assert len(split.windows) > 3 * len(split.documents)
    alone = run_alone(reader, split.documents, split.windows)
    predictions = predict(reader, split, tokens=tokens)
    assert predictions.log_odds.dtype == np.float64
    assert_same(predictions, expected_predictions(alone, split.targets))


def test_window_order_does_not_change_predictions(reader, split):
    reversed_windows = split._replace(windows=split.windows[::-1])
    assert_same(predict(reader, split), predict(reader, reversed_windows))


def test_predict_applies_the_head_mask(reader, split):
    mask = torch.ones(2, 5, dtype=torch.float64)
    mask[0, 3] = mask[1, 0] = 0
    alone = run_alone(reader, split.documents, split.windows, mask)
    predictions = predict(reader, split, head_mask=mask)
    assert_same(predictions, expected_predictions(alone, split.targets))
    assert not np.allclose(predictions.loss, predict(reader, split).loss)


def test_predict_passes_its_batches_to_progress(reader, split):
    seen = []

    def progress(groups):
        seen.extend(groups)
        return groups

    predict(reader, split, tokens=200, progress=progress)
    assert sorted(w for group in seen for w in group) == sorted(split.windows)
    assert all(sum(len(w.input_ids) for w in group) <= 200 for group in seen)


def test_split_without_targets_has_no_loss(reader, split):
    predictions = predict(reader, split._replace(targets=[]))
    assert predictions.loss.shape == predictions.correct.shape == (1, 0)
    assert (predictions.log_odds == predict(reader, split).log_odds).all()
    assert (predictions.labels == predict(reader, split).labels).all()


def test_by_document_splits_values_of_words():
    documents = [doc("a b"), doc(""), doc("c")]
    parts = by_document(np.arange(6).reshape(2, 3), documents)
    assert [part.tolist() for part in parts] == [[[0, 1], [3, 4]], [[], []], [[2], [5]]]
    assert by_document(np.zeros((1, 0)), []) == []


def test_log_odds_are_of_any_label_but_o():
    probs = np.array([[0.5, 0.3, 0.2], [0.9, 0.05, 0.05], [0.1, 0.9, 0.0]])
    with np.errstate(divide="ignore"):
        logs = np.log(probs)
    expected = [0.0, math.log(0.1 / 0.9), math.log(9)]
    assert log_odds(logs, ("O", "B", "I")) == pytest.approx(expected, abs=1e-12)
    moved = logs[:, [1, 2, 0]]
    assert log_odds(moved, ("B", "I", "O")) == pytest.approx(expected, abs=1e-12)
    assert log_odds(logs[:, 1:], ("I", "O"))[0] == pytest.approx(math.log(0.3 / 0.2))


def test_log_odds_keep_the_order_of_nearly_certain_words():
    """The probability of O rounds to 1 here, so a ratio of probabilities would be zero."""
    logs = np.array([[-1e-40, -90.0, -95.0], [-1e-40, -91.0, -95.0]])
    first, second = log_odds(logs, ("O", "B", "I"))
    assert first == pytest.approx(-90 + math.log1p(math.exp(-5)))
    assert second < first


def test_in_keyphrase_means_any_label_but_o():
    inside = in_keyphrase([[0, 2, 1], [2]], ("B", "I", "O"))
    assert [words.tolist() for words in inside] == [[True, False, True], [False]]


@pytest.mark.parametrize(
    ("text", "inside", "phrases"),
    [
        ("The red fox.", [0, 0, 0], []),
        ("The red fox.", [0, 1, 1], ["red fox"]),
        ("The red fox.", [1, 0, 1], ["The", "fox"]),
        ("The red\n fox.", [1, 1, 1], ["The red\n fox"]),
        ("red, fox", [1, 1], ["red", "fox"]),
        ("client/server side", [1, 1, 1], ["client", "server side"]),
        ("深度 x", [1, 1, 1], ["深度 x"]),
        ("'red' fox den", [1, 1, 1], ["red", "fox den"]),
        ("one two three four", [1, 1, 0, 1], ["one two", "four"]),
    ],
)
def test_predicted_spans_join_words_across_white_space(text, inside, phrases):
    spans = predicted_spans(doc(text), np.array(inside, dtype=bool))
    assert [text[a:b] for a, b in spans] == phrases


# Baselines --------------------------------------------------------------------------------------


def test_content_words_are_neither_stop_words_nor_numbers():
    text = "The frost isn't 3.5 of THEIR orchards, 1990s 12 x2 don't"
    assert is_content_word(doc(text)).tolist() == [0, 1, 0, 0, 0, 0, 1, 1, 0, 1, 0]
    text = "IT is in the U.S. but BACKGROUND AND AIMS: it, We; THE END"
    assert is_content_word(doc(text)).tolist() == [1, 0, 0, 0, 1, 0, 1, 0, 1, 0, 0, 0, 1]
    assert is_content_word(doc("A* or C++")).tolist() == [1, 0, 1]
    assert {"the", "of", "dont"} <= ENGLISH.stop_words
    assert all(word == normal_form(word) for word in ENGLISH.stop_words)


def test_word_prior_by_hand():
    """Three of six words are hits: the mean is 1/2, and counts as one more word."""
    train = [doc("Frost, frost the"), doc("FROST the apple")]
    gold = [np.array([True, False, False]), np.array([True, False, True])]
    prior = word_prior(train, gold)
    expected = [(2 + 0.5) / 4, (0 + 0.5) / 3, (1 + 0.5) / 2, 0.5]
    assert prior(doc("frost the apple unseen")) == pytest.approx(expected, abs=1e-12)


def tagged(name, text):
    """A document of word/label pairs."""
    words, labels = zip(*(pair.split("/") for pair in text.split()))
    return parse_document(json.dumps({"id": name, "words": words, "labels": labels}), "here")


def test_commonest_label_by_hand():
    documents = [doc("Run run RUN a"), doc("run, a cat cat"), doc("x y")]
    train = Split(documents, [], [[2, 1, 2, 0], [2, 0, 1, 1], [2, 2]])
    assert commonest_label(train)(doc("A run cat unseen a")).tolist() == [0, 2, 1, 2, 0]
    fewer = Split(documents[:2], [], train.targets[:2])
    assert commonest_label(fewer)(doc("x cat")).tolist() == [2, 1]


# Scores -----------------------------------------------------------------------------------------


def recorded(log_probs, targets, names):
    """Predictions of given log-probabilities, one (words, labels) array per document, and a split
    of these documents."""
    documents = [Document(str(i), "", [(0, 0)] * len(p), []) for i, p in enumerate(log_probs)]
    split = Split(documents, [], targets)
    recorder = Recorder(names, split, variants=1)
    for i, array in enumerate(log_probs):
        words = list(range(len(array)))
        recorder.add([0], Window(i, [], words, words, []), torch.tensor(array)[None])
    return recorder.total(), split


def random_words(labels, documents=8, seed=0):
    """Log-probabilities and targets."""
    draw = np.random.default_rng(seed)
    sizes = draw.integers(2, 30, documents)
    probs = [draw.dirichlet(np.ones(labels), n) for n in sizes]
    return [np.log(p) for p in probs], [draw.integers(0, labels, n).tolist() for n in sizes]


def test_loss_and_accuracy_are_means_over_words():
    names = ("N", "V", "D")
    logs, targets = random_words(3)
    result = scores(*recorded(logs, targets, names), names, None)
    assert set(result) == {"loss", "accuracy"}
    gold, all_logs = np.concatenate(targets), np.concatenate(logs)
    log_loss = sklearn.log_loss(gold, np.exp(all_logs))
    assert result["loss"].value == pytest.approx(log_loss, abs=1e-10)
    accuracy = (all_logs.argmax(1) == gold).mean()
    assert result["accuracy"].value == pytest.approx(accuracy, abs=1e-12)
    for score in result.values():
        assert score.low < score.value < score.high


WORD_MEASURES = {"AP", "F1", "precision", "recall", "accuracy"}


@pytest.mark.parametrize(
    ("names", "measures"),
    [
        (("O", "I"), {"loss"} | WORD_MEASURES),
        (("O", "B", "I"), {"loss", "entity F1"} | WORD_MEASURES),
        (("O", "B-X", "I-X"), {"loss", "entity F1"} | WORD_MEASURES),
        (("B-X", "I-X"), {"loss", "accuracy", "entity F1"}),
        (("O", "S-X", "E-X"), {"loss", "entity F1"} | WORD_MEASURES),
        (("O", "U-X"), {"loss", "entity F1"} | WORD_MEASURES),
        (("O", "I-X"), {"loss"} | WORD_MEASURES),
        (("O", "S", "W"), {"loss"} | WORD_MEASURES),
        (("ADJ", "Be"), {"loss", "accuracy"}),
    ],
)
def test_measures_fit_the_labels(names, measures):
    predictions, split = recorded(*random_words(len(names)), names)
    threshold = choose_threshold(predictions, split, names)
    assert (threshold is None) == ("O" not in names)
    assert set(scores(predictions, split, names, threshold)) == measures


def test_word_at_the_threshold_is_labelled_as_in_a_keyphrase():
    ranks = np.array([[-1.0, 0.5, 2.0], [0.5, 0.0, 0.75]])
    labels = np.array([[1, 2, 1], [1, 1, 2]])
    predictions = Predictions(EMPTY, EMPTY, ranks, labels)
    assert decode(predictions, ("O", "B", "I"), 0.5).tolist() == [[0, 2, 1], [1, 0, 2]]
    last_is_o = predictions._replace(labels=labels % 2)
    assert decode(last_is_o, ("B", "I", "O"), 0.5).tolist() == [[2, 0, 1], [1, 2, 0]]
    assert decode(predictions, ("B", "I"), None).tolist() == labels.tolist()


def test_variants_are_recorded_in_their_own_rows():
    """Three variants; a window adds the second and the third alone, in the other order."""
    names, documents = ("O", "B", "I"), [doc("a b"), doc("c")]
    split = Split(documents, [], [[1, 0], [2]])
    recorder = Recorder(names, split, variants=3)
    logits = torch.tensor([[[0.0, 2.0, 1.0]], [[0.0, 1.0, 3.0]]], dtype=torch.float64)
    recorder.add([2, 1], Window(1, [], [0], [0], []), logits)

    predictions = recorder.total()
    sums = [1 + math.exp(1) + math.exp(3), 1 + math.exp(2) + math.exp(1)]
    loss = [0, math.log(sums[0]) - 3, math.log(sums[1]) - 1]
    assert predictions.loss[:, 1] == pytest.approx(loss, abs=1e-12)
    assert not predictions.loss[:, 0].any()
    assert predictions.correct.tolist() == [[0, 0], [0, 1], [0, 0]]
    odds = [0, math.log(sums[0] - 1), math.log(sums[1] - 1)]
    assert predictions.log_odds[:, 2] == pytest.approx(odds, abs=1e-12)
    assert predictions.labels.tolist() == [[0, 0, 0], [0, 0, 2], [0, 0, 1]]


def test_entity_f1_by_hand():
    """Gold "B I O", predicted "B I B": one of one, and one false positive: 2 / 3."""
    logs = np.log(np.array([[0.1, 0.8, 0.1], [0.1, 0.1, 0.8], [0.1, 0.8, 0.1]]))
    names = ("O", "B", "I")
    result = scores(*recorded([logs], [[1, 2, 0]], names), names, 0.0)
    assert result["entity F1"].value == pytest.approx(2 / 3)


def test_accuracy_is_over_words_not_documents():
    logs = np.log(np.array([[0.9, 0.1]]))
    predictions, split = recorded([logs, logs.repeat(3, 0)], [[0], [1, 1, 0]], ("N", "V"))
    assert scores(predictions, split, ("N", "V"), None)["accuracy"].value == 0.5


def test_word_measures_equal_sklearns_at_the_threshold():
    draw = np.random.default_rng(0)
    gold = [draw.random(n) < 0.4 for n in (5, 30, 12, 20, 8)]
    ranks = [(draw.normal(size=len(g)) + g).round(1) for g in gold]
    g, r = np.concatenate(gold), np.concatenate(ranks)
    documents = [Document("", "", [(0, 0)] * len(each), []) for each in gold]
    split = Split(documents, [], [each.astype(int).tolist() for each in gold])
    predictions = Predictions(EMPTY, EMPTY, r[None], EMPTY.astype(np.int64))
    result = scores(predictions, split, ("O", "I"), 0.5)
    assert (r == 0.5).any()  # "at or above"
    assert {name: score.value for name, score in result.items()} == pytest.approx(
        {
            "AP": sklearn.average_precision_score(g, r),
            "F1": sklearn.f1_score(g, r >= 0.5),
            "precision": sklearn.precision_score(g, r >= 0.5),
            "recall": sklearn.recall_score(g, r >= 0.5),
            "accuracy": sklearn.accuracy_score(g, r >= 0.5),
        },
        abs=1e-12,
    )
    assert all(s.low < s.value < s.high for s in result.values())


# Evaluation -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sample_splits(pieces):
    splits = load_corpus("sample").splits
    return {
        name: make_split(documents[:12], pieces, "bio", ("O", "B", "I"), LENGTH)
        for name, documents in splits.items()
    }


@pytest.fixture(scope="module")
def report(reader, sample_splits):
    return evaluate(reader, sample_splits)


def test_evaluate_returns_the_documented_form(report):
    assert set(report) == {"threshold", "dev", "test"}
    for name in ("dev", "test"):
        assert {system: set(values) for system, values in report[name].items()} == {
            "minibert": WORD_MEASURES | {"loss", "entity F1"},
            "word prior": WORD_MEASURES,
            "no stop words": WORD_MEASURES,
        }
        for system in report[name].values():
            for score in system.values():
                assert isinstance(score, Score)
                assert score.low <= score.value <= score.high


@pytest.fixture(scope="module")
def ranks(reader, sample_splits):
    """Each system's word scores by split: log-odds and baselines implemented a second time."""
    train = sample_splits["train"]
    hits, seen = {}, {}
    for document, targets in zip(train.documents, train.targets):
        for word, target in zip(document.forms(), targets):
            hits[word] = hits.get(word, 0) + (target != 0)
            seen[word] = seen.get(word, 0) + 1
    mean = sum(hits.values()) / sum(seen.values())
    out = {}
    for name in ("dev", "test"):
        documents = sample_splits[name].documents
        words = [form for d in documents for form in d.forms()]
        probs = np.exp(np.concatenate(run_alone(reader, documents, sample_splits[name].windows)))
        out[name] = {
            "minibert": np.log((probs[:, 1] + probs[:, 2]) / probs[:, 0]),
            "word prior": np.array([(hits.get(w, 0) + mean) / (seen.get(w, 0) + 1) for w in words]),
            "no stop words": np.array(
                [float(w not in ENGLISH.stop_words and not w.isdigit()) for w in words]
            ),
        }
    return out


@pytest.mark.parametrize("system", ["minibert", "word prior", "no stop words"])
def test_threshold_is_best_on_dev_and_scores_use_it(report, ranks, sample_splits, system):
    gold = {
        name: np.concatenate([np.array(t) != 0 for t in sample_splits[name].targets])
        for name in ("dev", "test")
    }
    by_dev = {}
    for threshold in set(ranks["dev"][system]):
        chosen = ranks["dev"][system] >= threshold
        both = (chosen & gold["dev"]).sum()
        by_dev[threshold] = 2 * both / (chosen.sum() + gold["dev"].sum())
    threshold = max(by_dev, key=by_dev.get)
    if system == "minibert":
        assert report["threshold"] == pytest.approx(threshold, abs=1e-9)
    for name in ("dev", "test"):
        chosen = ranks[name][system] >= threshold - 1e-9
        assert {m: report[name][system][m].value for m in WORD_MEASURES} == pytest.approx(
            {
                "AP": sklearn.average_precision_score(gold[name], ranks[name][system].round(9)),
                "F1": sklearn.f1_score(gold[name], chosen),
                "precision": sklearn.precision_score(gold[name], chosen),
                "recall": sklearn.recall_score(gold[name], chosen),
                "accuracy": sklearn.accuracy_score(gold[name], chosen),
            },
            abs=1e-9,
        )


def test_dev_score_is_the_main_measure_on_dev(reader, sample_splits, report, tagging):
    ap = report["dev"]["minibert"]["AP"].value
    assert dev_score(reader, sample_splits["dev"], tokens=300) == pytest.approx(ap, abs=1e-12)
    model, splits = tagging
    accuracy = evaluate(model, splits)["dev"]["minibert"]["accuracy"].value
    assert dev_score(model, splits["dev"], tokens=300) == pytest.approx(accuracy, abs=1e-12)


def test_threshold_of_test_would_differ(ranks, sample_splits, report):
    """Otherwise the test above would not notice a threshold chosen on test."""
    gold = [np.concatenate([np.array(t) != 0 for t in sample_splits["test"].targets])]
    assert PrecisionRecallCurve(
        gold, [ranks["test"]["minibert"]]
    ).best_threshold() != pytest.approx(report["threshold"])


@pytest.fixture(scope="module")
def tagging(pieces):
    """Documents with a label for every word, none of them O."""
    documents = [
        tagged("1", "late/J frost/N kills/V late/J ./P"),
        tagged("2", "frost/N late/R ./P"),
        tagged("3", "late/J kills/N orchards/N"),
    ]
    names = ("J", "N", "P", "R", "V")
    split = make_split(documents[:2], pieces, "given", names, LENGTH)
    other = make_split(documents[1:], pieces, "given", names, LENGTH)
    return make_tagger(pieces, names), {"train": split, "dev": split, "test": other}


def test_labels_without_o_are_scored_by_accuracy(tagging):
    """Most frequent in train: late J, frost N, kills V, "." P, and J for the unseen "orchards"."""
    model, splits = tagging
    report = evaluate(model, splits)
    assert report["threshold"] is None
    for name in ("dev", "test"):
        assert {system: set(values) for system, values in report[name].items()} == {
            "minibert": {"loss", "accuracy"},
            "word's commonest label": {"accuracy"},
        }
        split = splits[name]
        logs = np.concatenate(run_alone(model, split.documents, split.windows))
        gold = np.concatenate(split.targets)
        scores = report[name]["minibert"]
        assert scores["accuracy"].value == pytest.approx((logs.argmax(1) == gold).mean())
        assert scores["loss"].value == pytest.approx(-logs[np.arange(len(gold)), gold].mean())
    usual = "word's commonest label"
    assert report["dev"][usual]["accuracy"].value == pytest.approx(7 / 8)
    assert report["test"][usual]["accuracy"].value == pytest.approx(3 / 6)


def test_windows_are_assigned_to_their_document(reader, pieces):
    """Two documents whose windows have one length, given in the other order."""
    documents = [doc("late frost"), doc("frost late")]
    first, second = make_windows(documents, pieces, LENGTH)
    targets = [[0, 1], [2, 0]]
    alone = run_alone(reader, documents, [first, second])
    predictions = predict(reader, Split(documents, [second, first], targets))
    assert_same(predictions, expected_predictions(alone, targets))


def test_decode_uses_o_below_the_threshold():
    logs = np.log([[0.6, 0.3, 0.1], [0.6, 0.1, 0.3], [0.9, 0.06, 0.04], [0.2, 0.4, 0.4]])
    targets = [[0, 0, 0, 0]]

    def decoded(logs, names, threshold):
        return decode(recorded([logs], targets, names)[0], names, threshold)[0].tolist()

    assert decoded(logs, ("A", "B", "C"), None) == [0, 0, 0, 1]
    assert decoded(logs, ("O", "B", "I"), np.log(0.5)) == [1, 2, 0, 1]
    assert decoded(logs[:, [1, 0, 2]], ("B", "O", "I"), np.log(0.5)) == [0, 2, 1, 0]
