"""Properties of any input: labels, windows, padding, head masks, scores, JSON lines."""

import json
import re
from copy import deepcopy
from itertools import chain, pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from sklearn import metrics as sklearn
from tiny import TINY, randomise
from torch.testing import assert_close

from minibert import BertForTokenClassification, InputError
from minibert.attention import Packing
from minibert.data.batches import collate, make_batches, make_windows
from minibert.data.corpus import parse_document, read_documents
from minibert.data.documents import Document, find_phrases, word_labels
from minibert.evaluation import intervals, metrics
from minibert.evaluation.tagger import predicted_spans
from minibert.model import IGNORED
from minibert.pruning import prune
from minibert.text.words import normal_form, word_spans

EXACT = {"atol": 1e-10, "rtol": 1e-10}
LAYERS, HEADS = TINY.num_hidden_layers, TINY.num_attention_heads
MODEL = randomise(BertForTokenClassification(TINY).double()).eval().requires_grad_(False)

# Letters of many scripts, marks, white space of both kinds, what BERT drops, symbols.
ALPHABET = (
    "aaBbzT3é深カ\u3099ﷺ가İह\u093f\u0301-/'()[]+*#.,:<>=\u2014\u200b\x07\x1c  \n\u00a0👍\ufe0f"
)
TEXTS = st.text(ALPHABET, min_size=1, max_size=40).filter(word_spans)
SHORT = st.text("ab -", min_size=1, max_size=30).filter(word_spans)


def doc(text: str, **others) -> Document:
    return Document("d", text, word_spans(text), **others)


# Alignment --------------------------------------------------------------------------------------


@settings(max_examples=200)
@given(TEXTS | SHORT, st.data())
def test_word_labels_reproduce_character_spans(text, drawn):
    """Each drawn span touches any part of its first and of its last word."""
    words = word_spans(text)
    tags = drawn.draw(st.lists(st.sampled_from("OBI"), min_size=len(words), max_size=len(words)))
    runs = sorted((first, last) for first, last, _ in metrics.spans(tags))
    spans = []
    for first, last in runs:
        start, end = words[first][0], words[last - 1][1]
        inner = drawn.draw(st.integers(start, words[first][1] - 1))
        outer = drawn.draw(st.integers(max(inner, words[last - 1][0]) + 1, end))
        spans.append((inner, outer))
    document = doc(text, spans=drawn.draw(st.permutations(spans)))
    bio = word_labels(document, "bio")
    assert metrics.spans(bio) == {(first, last, "") for first, last in runs}
    assert bio.count("B") == len(runs)
    assert word_labels(document, "io") == ["O" if label == "O" else "I" for label in bio]


@pytest.mark.parametrize("text", ["カ\u3099ス", "か\u309aa", "\u3099", "a\u3099"])
def test_text_of_letters_and_marks_is_found_in_itself(text):
    document = doc(text)
    assert find_phrases(document, [text]) == [[(0, len(document.words))]]


@settings(max_examples=200)
@given(TEXTS | SHORT, st.data())
def test_word_labels_of_keyphrases_equal_search_of_all_runs(text, drawn):
    """All runs of words are tried: those that spell a phrase, the longest first."""
    document = doc(text)
    count = len(document.words)
    places = st.integers(0, count - 1).flatmap(
        lambda first: st.tuples(st.just(first), st.integers(first + 1, count))
    )
    chosen = drawn.draw(st.lists(places, max_size=4))
    words = document.words
    phrases = [text[words[first][0] : words[last - 1][1]] for first, last in chosen]
    for place, runs in zip(chosen, find_phrases(document, phrases)):
        assert place in runs
    phrases += drawn.draw(st.lists(st.text(ALPHABET, max_size=5), max_size=2))
    document = document._replace(keyphrases=phrases)
    forms = document.forms()
    wanted = {normal_form(phrase) for phrase in phrases}
    all_runs = [(i, j) for i in range(count) for j in range(i + 1, count + 1)]
    runs = [(i, j) for i, j in all_runs if "".join(forms[i:j]) in wanted]
    inside = {word for i, j in runs for word in range(i, j)}
    io = word_labels(document, "io")
    assert {word for word, label in enumerate(io) if label == "I"} == inside
    labelled = {(i, j) for i, j, _ in metrics.spans(word_labels(document, "bio"))}
    assert labelled <= set(runs)
    for i, j in runs:  # a run is unlabelled only beside one as long
        assert any(a < j and i < b and b - a >= j - i for a, b in labelled)


@settings(max_examples=200)
@given(TEXTS | SHORT, st.data())
def test_word_labels_of_predicted_spans_are_the_predicted_words(text, drawn):
    document = doc(text)
    inside = drawn.draw(arrays.arrays(bool, len(document.words)))
    spans = predicted_spans(document, inside)
    labels = word_labels(document._replace(spans=spans), "io")
    assert [label == "I" for label in labels] == inside.tolist()
    between = [text[a:b].strip() for (_, a), (b, _) in pairwise(spans)]
    assert all(between), "spans with only white space between them are joined"


# Windows ----------------------------------------------------------------------------------------


@settings(max_examples=100)
@given(st.lists(TEXTS, min_size=1, max_size=3), st.integers(8, 20), st.integers(1, 40))
def test_each_word_is_scored_once_in_batches(pieces, texts, max_length, tokens):
    documents = [doc(text * 3) for text in texts]
    counts = [len(document.words) for document in documents]
    targets, start = [], 0
    for count in counts:
        targets.append(list(range(start, start + count)))
        start += count
    windows = make_windows(documents, pieces, max_length)
    labels = []
    for group in make_batches(windows, tokens):
        batch = collate(group, targets)
        assert batch.input_ids.shape[1] <= max_length
        assert torch.equal(batch.attention_mask.sum(1), torch.tensor([*map(_size, group)]))
        labels += batch.labels[batch.labels != IGNORED].tolist()
    assert sorted(labels) == list(range(sum(counts)))
    for window in windows:
        for word, position in zip(window.words, window.positions):
            assert window.owners[position] == word != window.owners[position - 1]


def _size(window) -> int:
    return len(window.input_ids)


# Packing and padding ----------------------------------------------------------------------------

MASKS = arrays.arrays(bool, st.tuples(st.integers(1, 5), st.integers(1, 9)))


@settings(max_examples=200)
@given(MASKS, st.sampled_from([(), (2,), (3, 2)]))
def test_packing_and_unpacking_are_inverse(mask, inner):
    mask = torch.from_numpy(mask)
    packing = Packing.of(mask)
    padded = torch.arange(1.0, 1 + mask.numel() * 6)[: mask.numel() * int(np.prod(inner))]
    padded = padded.view(*mask.shape, *inner)
    packed = packing.pack(padded)
    assert torch.equal(packed, padded[mask])
    real = mask.view(*mask.shape, *[1] * len(inner))
    assert torch.equal(packing.unpack(packed), padded * real)
    assert torch.equal(packing.pack(packing.unpack(packed)), packed)
    assert packing.lengths == mask.sum(1).tolist()
    assert torch.equal(torch.stack([packing.rows, packing.positions], dim=1), mask.nonzero())


def tokens(seed: int, shape: tuple[int, ...]) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(0, TINY.vocab_size, shape, generator=draw)


@settings(max_examples=40)
@given(MASKS, st.integers(0, 99), st.integers(0, 10))
def test_padding_does_not_change_outputs(mask, seed, more):
    """Its place, tokens and amount make no difference, nor does the rest of the batch."""
    mask = torch.from_numpy(mask).long()
    ids = tokens(seed, mask.shape)
    logits = MODEL(ids, mask).logits
    other = torch.where(mask == 1, ids, tokens(seed + 1, mask.shape))
    wider = (torch.nn.functional.pad(x, (0, more)) for x in (other, mask))
    padded = MODEL(*wider).logits[:, : mask.shape[1]]
    assert_close(padded[mask == 1], logits[mask == 1], **EXACT)
    for row in range(len(mask)):
        alone = MODEL(ids[row : row + 1], mask[row : row + 1]).logits[0]
        assert_close(alone[mask[row] == 1], logits[row][mask[row] == 1], **EXACT)


# Head masks -------------------------------------------------------------------------------------

FACTORS = st.sampled_from([0.0, 0.0, 1.0, 1.0, 0.5, -2.0])


def head_masks(*shape: int, elements: st.SearchStrategy = FACTORS) -> st.SearchStrategy:
    return arrays.arrays(np.float64, shape, elements=elements).map(torch.from_numpy)


@settings(max_examples=40)
@given(MASKS, st.integers(0, 99), head_masks(LAYERS, HEADS))
def test_head_mask_equals_scaled_output_projection(mask, seed, head_mask):
    mask = torch.from_numpy(mask).long()
    scaled = deepcopy(MODEL)
    for layer, row in zip(scaled.bert.layers, head_mask):
        layer.attention.output.weight *= row.repeat_interleave(TINY.head_size)
    ids = tokens(seed, mask.shape)
    assert_close(MODEL(ids, mask, head_mask=head_mask).logits, scaled(ids, mask).logits, **EXACT)


@settings(max_examples=40)
@given(MASKS, st.integers(0, 99), head_masks(5, LAYERS, HEADS))
def test_head_mask_per_sequence_equals_one_at_a_time(mask, seed, head_masks):
    mask = torch.from_numpy(mask).long()
    ids = tokens(seed, mask.shape)
    together = MODEL(ids, mask, head_mask=head_masks[: len(ids)]).logits
    for row, head_mask in enumerate(head_masks[: len(ids)]):
        alone = MODEL(ids[row : row + 1], mask[row : row + 1], head_mask=head_mask).logits[0]
        assert_close(together[row], alone, **EXACT)


@settings(max_examples=20)
@given(MASKS, st.integers(0, 99), head_masks(LAYERS, HEADS, elements=st.sampled_from([0.0, 1.0])))
def test_masked_model_equals_pruned_model(mask, seed, head_mask):
    mask = torch.from_numpy(mask).long()
    ids = tokens(seed, mask.shape)
    smaller = prune(MODEL, head_mask)
    assert len(smaller.config.present_heads) == int(head_mask.sum())
    assert_close(smaller(ids, mask).logits, MODEL(ids, mask, head_mask=head_mask).logits, **EXACT)


# Scores -----------------------------------------------------------------------------------------

# Documents of (gold, score) words; few scores, so that many are tied.
SCORED = st.lists(
    st.lists(st.tuples(st.booleans(), st.sampled_from([-2.5, -1.0, 0.0, 3.0])), min_size=1),
    min_size=1,
    max_size=8,
).map(
    lambda documents: (
        [np.array([gold for gold, _ in d]) for d in documents],
        [np.array([score for _, score in d]) for d in documents],
    )
)
RATIOS = {
    metrics.precision: lambda g, p: sklearn.precision_score(g, p, zero_division=0),
    metrics.recall: lambda g, p: sklearn.recall_score(g, p, zero_division=0),
    metrics.f1: lambda g, p: sklearn.f1_score(g, p, zero_division=0),
    metrics.accuracy: sklearn.accuracy_score,
}


@settings(max_examples=60)
@given(SCORED, st.sampled_from([-9.0, -1.0, 0.0, 3.0, 9.0]))
def test_word_scores_equal_sklearn_inside_their_interval(documents, threshold):
    gold, scores = documents
    predicted = [s >= threshold for s in scores]
    counts = metrics.confusion(gold, predicted)
    draws = intervals.resamples(len(gold), 300)
    for ours, theirs in RATIOS.items():
        score = intervals.interval(ours(draws @ counts))
        assert score.value == pytest.approx(theirs(*map(np.concatenate, (gold, predicted))))
        assert 0 <= score.low <= score.value + 1e-12
        assert score.value - 1e-12 <= score.high <= 1
    precision, recall, f1 = (ratio(counts) for ratio in [*RATIOS][:3])
    assert (np.minimum(precision, recall) <= f1 + 1e-12).all()
    assert (f1 <= (precision + recall) / 2 + 1e-12).all()


@settings(max_examples=60)
@given(SCORED, st.data())
def test_average_precision_depends_only_on_the_order_of_scores(documents, drawn):
    gold, scores = documents
    assume(np.concatenate(gold).any())
    value = metrics.PrecisionRecallCurve(gold, scores).average_precision()
    assert np.concatenate(gold).mean() / 2 < value <= 1
    order = drawn.draw(st.permutations(range(len(gold))))
    shuffled = [gold[i] for i in order], [np.exp(scores[i]) for i in order]
    assert metrics.PrecisionRecallCurve(*shuffled).average_precision() == pytest.approx(value)
    perfect = metrics.PrecisionRecallCurve(
        gold, [g.astype(float) for g in gold]
    ).average_precision()
    assert perfect == pytest.approx(1)


@settings(max_examples=60)
@given(st.integers(1, 30), st.integers(0, 50), st.integers(0, 9))
def test_resamples_are_the_sample_and_draws_of_its_size(documents, count, seed):
    draws = intervals.resamples(documents, count, seed)
    assert draws.shape == (1 + count, documents)
    assert (draws[0] == 1).all()
    assert (draws.sum(1) == documents).all()
    assert (draws == np.abs(draws.astype(int))).all()


@settings(max_examples=60)
@given(arrays.arrays(np.float64, (40, 3), elements=st.floats(0, 1)))
def test_reversed_change_has_the_opposite_sign(values):
    """Whichever of two models is the reference."""
    change = intervals.changes(values[:, :2])[0]
    opposite = intervals.changes(values[:, 1::-1])[0]
    assert change.value == values[0, 1] - values[0, 0]
    assert (change.value, change.low, change.high) == pytest.approx(
        (-opposite.value, -opposite.high, -opposite.low), abs=1e-12
    )
    assert change.p == pytest.approx(opposite.p)
    assert 0 <= change.p <= 1
    assert change.significant == (change.p <= 0.05)


LEVELS = st.lists(st.floats(0, 1) | st.sampled_from([0.01, 0.02, 0.05]), max_size=12)


@settings(max_examples=100)
@given(LEVELS, st.data())
def test_benjamini_hochberg_rejects_the_smallest_p_values(p, drawn):
    p = np.array(p)
    rejected = intervals.benjamini_hochberg(p)
    cut = p[rejected].max(initial=-1)
    assert (rejected == (p <= cut)).all()
    assert (p[rejected] <= 0.05).all()
    assert rejected[p <= 0.05 / max(1, len(p))].all()  # Bonferroni's are among them
    order = np.array(drawn.draw(st.permutations(range(len(p)))), dtype=int)
    assert (intervals.benjamini_hochberg(p[order]) == rejected[order]).all()
    assert (rejected <= intervals.benjamini_hochberg(p, 0.1)).all()


# JSON lines -------------------------------------------------------------------------------------

ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 9) | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
WORDS = st.lists(TEXTS | st.text(max_size=3), max_size=4)
FIELDS = {
    "id": st.text() | st.integers(),
    "text": TEXTS | st.text(),
    "keyphrases": WORDS,
    "spans": st.lists(st.tuples(st.integers(0, 3), st.integers(1, 40)).map(list), max_size=2),
    "words": WORDS,
    "tokens": WORDS,
    "labels": WORDS,
    "sents": st.lists(st.lists(st.lists(st.text(max_size=3), min_size=2, max_size=2))),
}
RECORDS = st.fixed_dictionaries({}, optional=FIELDS) | st.fixed_dictionaries(
    {"id": FIELDS["id"], "text": TEXTS},
    optional={k: v | ANY_JSON for k, v in FIELDS.items() if k not in ("id", "text")},
)
GOOD = '{"id": "the good one", "text": "words"}'


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("lines") / "any.jsonl"


def check_document(document: Document, raw: dict) -> None:
    """The document agrees with its JSON line."""
    assert document.id == str(raw["id"])
    ends = [0, *chain.from_iterable(document.words), len(document.text)]
    assert ends == sorted(ends)
    assert all(document.text[a:b].strip() for a, b in document.words)
    assert document.words
    for start, end in document.spans or ():
        assert 0 <= start < end <= len(document.text)
    if "text" in raw and "words" not in raw and "sents" not in raw:
        assert document.text == raw["text"]
        assert document.words == word_spans(raw["text"])
    if document.labels is not None:
        assert len(document.labels) == len(document.words)
    keyphrases = raw.get("keyphrases")
    if keyphrases is None and document.spans is not None:  # no span: labelled, without keyphrases
        keyphrases = list(dict.fromkeys(document.text[a:b] for a, b in document.spans))
    assert document.keyphrases == keyphrases


@settings(max_examples=250)
@given(
    RECORDS | ANY_JSON, st.integers(0, 3), st.sampled_from(["\n", "\r\n", "\n \n"]), st.booleans()
)
@example({"id": "a", "text": "x\u2028y z"}, 1, "\n", False)  # a line end to Python's splitlines
@example({"id": 10**4000, "text": "x"}, 1, "\n", True)
@example({"a\nb": 1, "id": 1}, 0, "\n", True)
def test_any_json_is_read_or_rejected_with_its_line(file, raw, before, end, escaped):
    line = json.dumps(raw, ensure_ascii=escaped)
    lines = [*[""] * before, line, GOOD]
    file.write_bytes(end.join(lines).encode("utf-8", "surrogatepass"))
    number = 1 + before * end.count("\n")
    try:
        document, _ = read_documents(file)
    except InputError as error:
        message = str(error)
        assert message.startswith(f"{file}:{number}: ")
        assert message.isprintable()
        with pytest.raises(InputError):
            parse_document(line, "")
    else:
        check_document(document, raw)


@settings(max_examples=250)
@given(st.binary(max_size=40) | st.text().map(str.encode), st.integers(0, len(GOOD)))
def test_any_bytes_are_read_or_rejected_with_file_and_line(file, noise, offset):
    content = GOOD.encode()
    content = (
        b"\n"
        + content[:offset]
        + noise
        + content[offset:]
        + b"\n"
        + GOOD.replace("good", "").encode()
    )
    file.write_bytes(content)
    try:
        documents = read_documents(file)
    except InputError as error:
        message = str(error)
        assert message.isprintable()
        if line := re.match(rf"{file}:(\d+): ", message):
            with pytest.raises(InputError):
                parse_document(content.split(b"\n")[int(line[1]) - 1].decode(), "")
        else:
            assert re.match(rf"{file}: (not readable as UTF-8|the id .* ids must differ)", message)
    else:
        assert documents[-1].text == "words"
