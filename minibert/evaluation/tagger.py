"""Run a tagger over documents and score what it predicts, beside baselines that know no context.

`predict` (one model) and `heads.ablation` (one model under many head masks) return `Predictions`.
`measures` turns them into every measure under every resample of the documents, `scores` into values
with intervals. Shapes: V variants of a model, N documents, W words in all, R resamples.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from minibert.data.batches import TOKENS, Split, Window, collate, make_batches
from minibert.data.documents import OUTSIDE, Document, is_content_word
from minibert.evaluation import intervals, metrics
from minibert.evaluation.intervals import Score
from minibert.evaluation.metrics import Array
from minibert.model import BertForTokenClassification
from minibert.runtime.distributed import all_reduce_sum, local_windows
from minibert.text.words import Span

# Labels that say where a phrase begins or ends. Other tasks use the letters except B in untyped
# labels (S and E of a POS tag set), so those count with a type only.
TYPED_BOUNDARIES = tuple(f"{tag}-" for tag in ("B", *metrics.CLOSES))

EMPTY = np.zeros((1, 0))  # a part that a baseline's predictions do not have

ProgressBar = Callable[[Sequence], Sequence]  # wraps a list of batches, e.g. in a progress bar


# Predictions ------------------------------------------------------------------------------------


class Predictions(NamedTuple):
    """What V variants of a tagger, one per head mask, predict for N documents with W words in all.

    Words are in the order of the documents. A part that a system lacks has no columns, (V, 0).
    """

    loss: Array  # (V, N) cross entropy, summed over a document's words
    correct: Array  # (V, N) number of words whose most probable label is the gold label
    log_odds: Array  # (V, W) of being in a keyphrase; (V, 0) where no label is O
    labels: NDArray[np.int64]  # (V, W) the most probable label, O left out


@torch.no_grad()
def predict(
    model: BertForTokenClassification,
    split: Split,
    head_mask: Tensor | None = None,
    tokens: int = TOKENS,
    progress: ProgressBar = list,
    shared: bool = True,
) -> Predictions:
    """The predictions of one model, V = 1. A split without targets gets no loss and no `correct`.

    `tokens`: word pieces computed at a time. `shared`: under torchrun each process computes its
    share of the documents, and all processes return the whole.
    """
    device = model.classifier.weight.device
    recorder = Recorder(model.config.labels, split, variants=1)

    local = local_windows(split.windows) if shared else split.windows
    for windows in progress(make_batches(local, tokens)):
        batch = collate(windows)
        input_ids, attention_mask = batch.input_ids.to(device), batch.attention_mask.to(device)
        logits = model(input_ids, attention_mask, head_mask=head_mask).logits.cpu()

        for row, window in enumerate(windows):
            recorder.add([0], window, logits[row, window.positions][None])

    return recorder.total() if shared else recorder.predictions


class Recorder:
    """Collects predictions window by window. Each word is scored in exactly one window."""

    def __init__(self, names: Sequence[str], split: Split, variants: int):
        self.names = names
        self.targets = [np.array(target, dtype=np.int64) for target in split.targets]
        self.offsets = np.cumsum([0, *(len(document.words) for document in split.documents)])

        words = int(self.offsets[-1])
        self.predictions = Predictions(
            loss=np.zeros((variants, len(self.targets))),
            correct=np.zeros((variants, len(self.targets))),
            log_odds=np.zeros((variants, words if OUTSIDE in names else 0)),
            labels=np.zeros((variants, words), dtype=np.int64),
        )

    def add(self, variants: Sequence[int], window: Window, logits: Tensor) -> None:
        """Record the logits (len(variants), words, labels) of one window's scored words."""
        # In half precision the log-odds of words that are nearly certain would be tied.
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        log_probs = logits.log_softmax(-1).double().cpu().numpy()
        document, words = window.document, np.array(window.words, dtype=np.int64)
        places = np.ix_(variants, self.offsets[document] + words)

        if self.targets:
            gold = self.targets[document][words]
            of_gold = log_probs[:, np.arange(len(words)), gold]
            self.predictions.loss[variants, document] -= of_gold.sum(1)
            self.predictions.correct[variants, document] += (log_probs.argmax(-1) == gold).sum(1)

        if OUTSIDE in self.names:
            self.predictions.log_odds[places] = log_odds(log_probs, self.names)
            log_probs[..., self.names.index(OUTSIDE)] = -np.inf
        self.predictions.labels[places] = log_probs.argmax(-1)

    def total(self) -> Predictions:
        """Everything recorded, by all processes."""
        return Predictions(*map(all_reduce_sum, self.predictions))


def log_odds(log_probs: Array, names: Sequence[str]) -> Array:
    """(..., labels) -> (...) the log-odds that a word is in a keyphrase: not O."""
    outside = names.index(OUTSIDE)
    inside = np.delete(log_probs, outside, axis=-1)
    return np.logaddexp.reduce(inside, axis=-1) - log_probs[..., outside]


def decode(
    predictions: Predictions, names: Sequence[str], threshold: float | None
) -> NDArray[np.int64]:
    """(V, W) label ids: O where the log-odds are below the threshold, else the most probable other
    label. `threshold` is None where no label is O."""
    if threshold is None:
        return predictions.labels
    return np.where(predictions.log_odds >= threshold, predictions.labels, names.index(OUTSIDE))


def by_document(values: NDArray, documents: Sequence[Document]) -> list[NDArray]:
    """(..., W) values of all words -> one (..., words) array per document."""
    ends = np.cumsum([len(document.words) for document in documents])
    return np.split(values, ends, axis=-1)[:-1]  # the last part, behind the last end, is empty


# Scores -----------------------------------------------------------------------------------------


def in_keyphrase(targets: Sequence[Sequence[int]], names: Sequence[str]) -> list[NDArray[np.bool_]]:
    """Per document a boolean array: which words are in a keyphrase."""
    return [np.array(target) != names.index(OUTSIDE) for target in targets]


def choose_threshold(predictions: Predictions, dev: Split, names: Sequence[str]) -> float | None:
    """The log-odds at or above which a word is called part of a keyphrase: where F1 on dev is
    highest. None where no label is O."""
    if OUTSIDE not in names:
        return None
    gold = in_keyphrase(dev.targets, names)
    ranks = by_document(predictions.log_odds[0], dev.documents)
    return metrics.PrecisionRecallCurve(gold, ranks).best_threshold()


def measures(
    predictions: Predictions,
    split: Split,
    names: Sequence[str],
    threshold: float | None,
    draws: Array,
) -> dict[str, Array]:
    """Each measure as (1 + R, V): under every row of `draws` (1 + R, N), for every variant.

    AP of the log-odds, and F1, precision, recall and accuracy of "in a keyphrase" at the threshold.
    Where no label is O (`threshold` None): accuracy of the labels. Loss per word, where known.
    """
    words = draws @ np.array([len(target) for target in split.targets])[:, None]  # (1 + R, 1)

    if threshold is None:
        values = {"accuracy": draws @ predictions.correct.T / words}
    else:
        gold = in_keyphrase(split.targets, names)
        variants = [
            _word_measures(gold, by_document(ranks, split.documents), threshold, draws)
            for ranks in predictions.log_odds
        ]
        values = {
            name: np.stack([variant[name] for variant in variants], axis=1) for name in variants[0]
        }

    if predictions.loss.size:
        values["loss"] = draws @ predictions.loss.T / words
    return values


def _word_measures(
    gold: Sequence[NDArray], ranks: Sequence[Array], threshold: float, draws: Array
) -> dict[str, Array]:
    """Each (1 + R,): measures of "in a keyphrase" for one variant."""
    curve = metrics.PrecisionRecallCurve(gold, ranks)
    counts = draws @ metrics.confusion(gold, [r >= threshold for r in ranks])
    return {
        "AP": np.array([curve.average_precision(weights) for weights in draws]),
        "F1": metrics.f1(counts),
        "precision": metrics.precision(counts),
        "recall": metrics.recall(counts),
        "accuracy": metrics.accuracy(counts),
    }


def entity_f1(
    predictions: Predictions,
    split: Split,
    names: Sequence[str],
    threshold: float | None,
    draws: Array,
) -> Array:
    """(1 + R, V) F1 of the entities that the labels mark."""
    gold = [[names[i] for i in target] for target in split.targets]
    columns = []
    for variant in decode(predictions, names, threshold):
        documents = by_document(variant, split.documents)
        predicted = [[names[i] for i in document] for document in documents]
        columns.append(metrics.f1(draws @ metrics.span_counts(gold, predicted)))
    return np.stack(columns, axis=1)


def has_span_labels(names: Sequence[str]) -> bool:
    """Whether labels say where a phrase begins or ends: B, or a typed tag such as B-X or S-X."""
    return any(name == "B" or name.startswith(TYPED_BOUNDARIES) for name in names)


def scores(
    predictions: Predictions, split: Split, names: Sequence[str], threshold: float | None
) -> dict[str, Score]:
    """The measures of one system (V = 1), and entity F1 where labels mark spans, with intervals."""
    draws = intervals.resamples(len(split.documents))
    values = measures(predictions, split, names, threshold, draws)
    if has_span_labels(names) and predictions.labels.size:
        values["entity F1"] = entity_f1(predictions, split, names, threshold, draws)
    return {name: intervals.interval(value[:, 0]) for name, value in values.items()}


def dev_score(model: BertForTokenClassification, dev: Split, tokens: int) -> float:
    """Average precision of "in a keyphrase" on dev; word accuracy where no label is O."""
    names = model.config.labels
    predictions = predict(model, dev, tokens=tokens)
    threshold = choose_threshold(predictions, dev, names)
    every_document_once = np.ones((1, len(dev.documents)))
    values = measures(predictions, dev, names, threshold, every_document_once)
    return float(values[metrics.main_measure(values)][0, 0])


def evaluate(
    model: BertForTokenClassification,
    splits: Mapping[str, Split],
    tokens: int = TOKENS,
    progress: ProgressBar = list,
) -> dict[str, Any]:
    """Choose each system's threshold on dev, score it on dev and test.

    Returns {"threshold": the tagger's, None where no label is O,
    "dev": {system: {measure: Score}}, "test": the same}; the systems are the tagger, as "minibert",
    and baselines made from train.
    """
    names = model.config.labels
    tagger = {
        name: predict(model, splits[name], tokens=tokens, progress=progress)
        for name in ("dev", "test")
    }

    systems = {"minibert": tagger, **baselines(splits, names)}
    thresholds = {
        system: choose_threshold(predictions["dev"], splits["dev"], names)
        for system, predictions in systems.items()
    }

    results: dict[str, Any] = {"threshold": thresholds["minibert"]}
    for name in ("dev", "test"):
        results[name] = {
            system: scores(predictions[name], splits[name], names, thresholds[system])
            for system, predictions in systems.items()
        }
    return results


# Baselines --------------------------------------------------------------------------------------


def baselines(
    splits: Mapping[str, Split], names: Sequence[str]
) -> dict[str, dict[str, Predictions]]:
    """{system: {"dev": predictions, "test": predictions}} of systems that know words alone."""
    train = splits["train"]
    evaluated = {name: splits[name] for name in ("dev", "test")}

    if OUTSIDE not in names:
        label = commonest_label(train)
        return {
            "word's commonest label": {
                name: _predictions_of_labels(label, split) for name, split in evaluated.items()
            }
        }

    prior = word_prior(train.documents, in_keyphrase(train.targets, names))
    return {
        system: {name: _predictions_of_ranks(rank, split) for name, split in evaluated.items()}
        for system, rank in {"word prior": prior, "no stop words": is_content_word}.items()
    }


def _predictions_of_ranks(rank: Callable[[Document], Array], split: Split) -> Predictions:
    # Any number that is higher for likelier words does: the scores use the order alone.
    ranks = np.concatenate([rank(document) for document in split.documents])
    return Predictions(EMPTY, EMPTY, ranks[None], EMPTY.astype(np.int64))


def _predictions_of_labels(label: Callable[[Document], NDArray], split: Split) -> Predictions:
    correct = [
        float((label(document) == np.array(target)).sum())
        for document, target in zip(split.documents, split.targets)
    ]
    return Predictions(EMPTY, np.array([correct]), EMPTY, EMPTY.astype(np.int64))


def word_prior(train: Sequence[Document], gold: Sequence[NDArray]) -> Callable[[Document], Array]:
    """The fraction of a word's occurrences in train that are in a keyphrase, smoothed towards the
    mean of all words by one pseudo-count."""
    seen: Counter[str] = Counter()
    hits: Counter[str] = Counter()
    for document, inside in zip(train, gold):
        for word, hit in zip(document.forms(), inside):
            seen[word] += 1
            hits[word] += bool(hit)

    mean = hits.total() / seen.total()
    return lambda document: np.array(
        [(hits[word] + mean) / (seen[word] + 1) for word in document.forms()]
    )


def commonest_label(train: Split) -> Callable[[Document], NDArray]:
    """The most frequent label of each word in train; of all words for an unseen word."""
    by_word: defaultdict[str, Counter[int]] = defaultdict(Counter)
    overall: Counter[int] = Counter()
    for document, target in zip(train.documents, train.targets):
        overall.update(target)
        for word, label in zip(document.forms(), target):
            by_word[word][label] += 1

    default = overall.most_common(1)[0][0]
    best = {word: labels.most_common(1)[0][0] for word, labels in by_word.items()}
    return lambda document: np.array([best.get(word, default) for word in document.forms()])


# Keyphrases of a tagger -------------------------------------------------------------------------


def predicted_spans(document: Document, inside: NDArray) -> list[Span]:
    """Character spans of the phrases that the words `inside` form: neighbours with nothing but
    white space between them are one phrase."""
    spans: list[Span] = []
    for (start, end), hit in zip(document.words, inside):
        if not hit:
            continue
        if spans and not document.text[spans[-1][1] : start].strip():
            spans[-1] = (spans[-1][0], end)
        else:
            spans.append((start, end))
    return spans
