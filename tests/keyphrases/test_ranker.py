"""Word weights against their parts; keyphrases of any text; baselines by hand."""

import json
import math
import re
import shutil
import warnings

import networkx
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

import train
from minibert import InputError, load_pretrained, save_pretrained
from minibert.data.batches import Split, chunks, make_windows
from minibert.data.corpus import SAMPLE, read_documents
from minibert.data.documents import Document, is_content_word
from minibert.evaluation.tagger import by_document, predict
from minibert.heads.links import pagerank, word_links
from minibert.keyphrases import extract_keyphrases
from minibert.keyphrases.choice import score_record, shipped
from minibert.keyphrases.ranker import Ranker, RankSettings
from minibert.phrases.baselines import WordIdf, textrank
from minibert.phrases.candidates import content_runs, group, unbroken_runs
from minibert.phrases.features import FEATURES, PhraseScore, phrase_features
from minibert.phrases.part_of_speech import PartOfSpeechTagger
from minibert.phrases.ranking import rank_phrases
from minibert.pruning import prune
from minibert.runtime import distributed
from minibert.text.tokenizer import Tokenizer
from minibert.text.words import word_spans


def text(words: str) -> Document:
    return Document("1", words, word_spans(words))


@pytest.fixture(scope="module")
def documents():
    return read_documents(SAMPLE / "dev.jsonl")[:3]


@pytest.fixture(scope="module")
def run(encoder_folder, tmp_path_factory):
    """A tagger of a few steps on the sample."""
    out = tmp_path_factory.mktemp("runs") / "tagger"
    arguments = ["--model", str(encoder_folder), "--out", str(out), "--show", "0"]
    assert train.main([*arguments, "--epochs", "1", "--learning-rate", "0.01"]) == 0
    return out


def links_of(folder, documents, heads):
    bert = load_pretrained(folder)
    tokenizer = Tokenizer.load(folder, bert.config.vocab_size)
    length = bert.config.max_position_embeddings
    return word_links(bert, make_windows(documents, tokenizer, length), documents, heads)


def test_weights_come_from_links(encoder_folder, documents):
    idf = SAMPLE / "train.jsonl"
    word_idf = WordIdf(read_documents(idf))
    links = links_of(encoder_folder, documents, {(1, 0): 1.0, (0, 1): 1.0})
    shared = {"model": str(encoder_folder), "heads": "L1H0,L0H1"}
    ways = {
        "received": (RankSettings(**shared), [matrix.sum(axis=0) for matrix in links]),
        "pagerank": (
            RankSettings(**shared, weights="pagerank", damping=0.5, idf=idf),
            [
                pagerank(matrix, 0.5) * word_idf.of(document)
                for document, matrix in zip(documents, links)
            ],
        ),
    }
    for settings, expected in ways.values():
        for document, before, analysis in zip(
            documents, expected, Ranker(settings).analyse(documents)
        ):
            is_content = is_content_word(document)
            assert 0 < is_content.sum() < len(is_content)
            np.testing.assert_allclose(analysis.weights, before * is_content, rtol=1e-5)
            assert not analysis.contrast.any()


WEIGHTS = dict(zip(FEATURES, [0.6, -0.5, 0.4, -1.1, 0.9, 0.5, -0.4]))


@pytest.fixture
def fit_file(tmp_path):
    """A score with two heads of unequal weights and a contrast head, as rank.py fit writes it."""
    path = tmp_path / "fit.json"
    score = PhraseScore({(1, 0): 1.0, (0, 1): 0.5}, {(0, 2): 1.0}, WEIGHTS)
    path.write_text(json.dumps(score_record(score)))
    return path


@pytest.mark.parametrize("weights", ["received", "pagerank"])
@pytest.mark.parametrize("has_idf", [False, True])
def test_analysis_has_contrast_and_score_its_features(
    encoder_folder, documents, fit_file, weights, has_idf
):
    idf = SAMPLE / "train.jsonl" if has_idf else None
    ranker = Ranker(
        RankSettings(model=str(encoder_folder), heads=str(fit_file), weights=weights, idf=idf)
    )
    links = links_of(encoder_folder, documents, {(1, 0): 1.0, (0, 1): 0.5})
    contrasts = links_of(encoder_folder, documents, {(0, 2): 1.0})
    for document, of_heads, of_contrast, analysis in zip(
        documents, links, contrasts, ranker.analyse(documents), strict=True
    ):
        scale = is_content_word(document) * (ranker.idf.of(document) if ranker.idf else 1)
        received = pagerank(of_heads) if weights == "pagerank" else of_heads.sum(axis=0)
        assert analysis.document == document
        assert analysis.candidates == group(document, content_runs(document, 5))
        np.testing.assert_allclose(analysis.weights, received * scale, rtol=1e-5)
        np.testing.assert_allclose(analysis.contrast, of_contrast.sum(axis=0) * scale, rtol=1e-5)

        features = phrase_features(*analysis)
        scores = features @ [WEIGHTS[name] for name in FEATURES]
        assert ranker.keyphrases(analysis) == rank_phrases(document, analysis.candidates, scores)


def test_attention_of_several_groups_of_heads(encoder_folder, documents):
    """One pass; a group without heads receives nothing."""
    ranker = Ranker(RankSettings(model=str(encoder_folder)))
    groups = [{(1, 0): 2.0, (0, 1): 0.5}, {}, {(0, 1): 1.0}]
    received = ranker.received(documents, *groups)
    for of_group, group_of_heads in zip(received, groups, strict=True):
        links = links_of(encoder_folder, documents, group_of_heads)
        for of_words, matrix in zip(of_group, links, strict=True):
            np.testing.assert_allclose(of_words, matrix.sum(axis=0), rtol=1e-5, atol=1e-12)
    assert ranker.received(documents) == []


def test_all_heads_are_the_default(encoder_folder, documents):
    ranker = Ranker(RankSettings(model=str(encoder_folder)))
    assert set(ranker.heads) == set(ranker.bert.config.present_heads)
    assert ranker.score.contrast == {}


@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        ({}, "keyphrases"),
        ({"language": "fr"}, "counted"),
        ({"language": "fr", "kind": "keyphrases"}, "keyphrases"),
        ({"kind": "tags"}, "tags"),
    ],
)
def test_kind_depends_on_the_language(encoder_folder, settings, kind):
    ranker = Ranker(RankSettings(model=str(encoder_folder), **settings))
    assert ranker.kind == kind
    assert ranker.score.weights == json.loads(shipped(kind).read_text())["weights"]


def test_results_do_not_depend_on_other_texts(encoder_folder, documents, fit_file):
    ranker = Ranker(RankSettings(model=str(encoder_folder), heads=str(fit_file)))
    for document, together in zip(documents, ranker.analyse(documents)):
        (alone,) = ranker.analyse([document])
        np.testing.assert_allclose(together.weights, alone.weights, rtol=1e-5)
        np.testing.assert_allclose(together.contrast, alone.contrast, rtol=1e-5)
        assert together.candidates == alone.candidates


@pytest.mark.slow
def test_tagger_weighs_and_marks(run, documents):
    ranker = Ranker(RankSettings(model=str(run), weights="tagger", candidates="tagger"))
    windows = make_windows(documents, ranker.tokenizer, ranker.max_length)
    predictions = predict(ranker.tagger, Split(documents, windows, []))
    log_odds = by_document(predictions.log_odds[0], documents)
    threshold = json.loads((run / "results.json").read_text())["threshold"]
    marked = 0
    for document, odds, analysis in zip(documents, log_odds, ranker.analyse(documents)):
        probability = np.exp(odds) / (1 + np.exp(odds))  # of label I
        expected = probability * is_content_word(document)
        np.testing.assert_allclose(analysis.weights, expected, rtol=1e-6)
        runs = unbroken_runs(document, odds >= threshold)
        assert analysis.candidates == group(document, runs)
        marked += len(runs)

        # The score is the feature "attention" alone.
        features = phrase_features(document, analysis.candidates, expected, 0 * expected)
        scores = features[:, FEATURES.index("attention")]
        keyphrases = rank_phrases(document, analysis.candidates, scores)
        assert [p.text for p in ranker.keyphrases(analysis)] == [p.text for p in keyphrases]
    assert marked


def test_tagger_of_a_ranker_does_not_share_its_work(run, documents, monkeypatch):
    """rank.py gives each process other texts: nothing may wait for the other processes here."""
    ranker = Ranker(RankSettings(model=str(run), weights="tagger", candidates="tagger"))
    expected = ranker.marks(documents)
    monkeypatch.setattr(distributed, "size", lambda: 2)
    for marks, alone in zip(ranker.marks(documents), expected):
        np.testing.assert_array_equal(marks.probabilities, alone.probabilities)
        assert marks.labels == alone.labels


def test_listed_candidates(encoder_folder, tmp_path):
    path = tmp_path / "phrases.txt"
    path.write_text("green hills\n\nlakes\nmoor\n")
    words = "Deep lakes, a green hill and a lake."
    (phrases,) = extract_keyphrases(words, model=str(encoder_folder), phrases=path)
    assert {phrase.text: phrase.spans for phrase in phrases} == {
        "green hill": [(14, 24)],
        "lakes": [(5, 10), (31, 35)],
    }
    path.write_text("\n")
    with pytest.raises(InputError, match="no phrases"):
        extract_keyphrases(words, model=str(encoder_folder), phrases=path)


FRENCH = (
    "Les marchés de l'île vendent du poisson. Le marché de l'île est ouvert chaque matin, et les "
    "pêcheurs y vendent aussi les poissons qu'ils ont pêchés pendant la nuit."
)


def test_keyphrases_of_another_language(encoder_folder, tmp_path):
    model = {"model": str(encoder_folder)}
    (phrases,) = extract_keyphrases(FRENCH, **model, language="fr", candidates="words")
    spans = {phrase.text: phrase.spans for phrase in phrases}
    assert [FRENCH[a:b] for a, b in spans["marchés"]] == ["marchés", "marché"]  # equal stems
    assert [FRENCH[a:b] for a, b in spans["île"]] == ["île", "île"]
    assert not {"les", "qu'", "l'"} & {text.lower() for text in spans}

    path = tmp_path / "words.txt"
    path.write_text("marché poisson île", encoding="utf-8")
    (phrases,) = extract_keyphrases(FRENCH, **model, stop_words=path, candidates="words")
    assert {"les", "marchés"} <= {phrase.text.lower() for phrase in phrases}
    assert "marché" not in {phrase.text for phrase in phrases}


def test_idf_has_the_language_of_the_texts(encoder_folder, tmp_path):
    path = tmp_path / "corpus.jsonl"
    texts = ["Les marchés", "Un marché", "L'île"]
    path.write_text("\n".join(json.dumps({"id": i, "text": t}) for i, t in enumerate(texts)))
    idf = Ranker(RankSettings(model=str(encoder_folder), idf=path, language="fr")).idf
    assert idf.document_counts == {"march": 2, "île": 1}


def test_texts_of_another_language_warn(encoder_folder):
    with pytest.warns(
        UserWarning, match=r"1 of 2 texts do not .*If it is French, use --language fr"
    ):
        extract_keyphrases(["Green hills", FRENCH], model=str(encoder_folder))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        extract_keyphrases(FRENCH, model=str(encoder_folder), language="fr")


def test_language_is_checked_before_the_model_is_loaded():
    with pytest.raises(InputError, match="language 'xx' is unknown"):
        Ranker(RankSettings(model="/no/such/model", language="xx"))


def test_paths_may_be_text(encoder_folder, tmp_path):
    lines = [json.dumps({"id": i, "text": t}) for i, t in enumerate(["A lake.", "A moor, a lake."])]
    files = {"idf": tmp_path / "corpus.jsonl", "phrases": tmp_path / "phrases.txt"}
    files["idf"].write_text("\n".join(lines))
    files["phrases"].write_text("lake\nmoor\n")
    files["heads"] = tmp_path / "heads.json"
    files["heads"].write_text('{"heads": ["L0H1"], "weights": {"attention": 1}}')
    named = {name: str(path) for name, path in files.items()}
    words = "A lake and a moor."
    (phrases,) = extract_keyphrases(words, model=encoder_folder, **files)
    assert [phrases] == extract_keyphrases(words, model=str(encoder_folder), **named)
    assert [phrase.text for phrase in phrases] == ["moor", "lake"]  # both texts have "lake"


@pytest.mark.parametrize("wrong", [None, float("nan"), 3, b"text", ["text"]])
def test_texts_must_be_strings(wrong):
    """Before a model is loaded: this one does not exist."""
    with pytest.raises(InputError, match=re.escape(f"text 2, counted from 0, is {wrong!r}, not")):
        extract_keyphrases(["A lake.", "", wrong, None], model="/no/such/model")


def test_removed_heads_are_rejected(encoder_folder, tmp_path):
    model = load_pretrained(encoder_folder, ("O", "I"))
    mask = torch.ones(2, 3)
    mask[1] = 0
    save_pretrained(prune(model.double(), mask), tmp_path)
    (tmp_path / "vocab.txt").unlink(missing_ok=True)
    Tokenizer.load(encoder_folder, model.config.vocab_size).save(tmp_path)
    with pytest.raises(InputError, match="has none of the heads L1H0"):
        Ranker(RankSettings(model=str(tmp_path), heads="L1H0"))
    assert Ranker(RankSettings(model=str(tmp_path), heads="L0H1")).heads == {(0, 1): 1.0}


def test_attention_must_be_finite(ranker, documents):
    weight = ranker.bert.layers[0].attention.query.weight
    original = weight.detach().clone()
    with torch.no_grad():
        weight[0, 0] = float("nan")
    with pytest.raises(InputError, match="damaged"):
        ranker.analyse(documents)
    with torch.no_grad():
        weight.copy_(original)


def test_only_a_trained_tagger_marks(encoder_folder):
    for way in ({"weights": "tagger"}, {"candidates": "tagger"}):
        with pytest.raises(InputError, match=r"no run of train\.py"):
            Ranker(RankSettings(model=str(encoder_folder), **way))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("damping", 1.0),
        ("max_words", 0),
        ("diversity", -0.1),
        ("diversity", 1.1),
        ("diversity", 2),
        ("top", 0),
    ],
)
def test_settings_out_of_range_are_rejected(name, value):
    with pytest.raises(InputError, match=f"--{name.replace('_', '-')} "):
        RankSettings(**{name: value})


def test_listed_phrases_exclude_other_candidates():
    with pytest.raises(InputError, match="leave out --candidates"):
        RankSettings(phrases="x", candidates="words")


# Nouns by a part-of-speech tagger --------------------------------------------------------------

# Words and the tags of `pos_folder`. With 300 words a text has many windows.
WORDS = {"Jolly": "JJ", "nets": "NN", "never": "NN", "run": "VB", "jumpers": "JJ", "N-gram": "NN"}


@pytest.mark.parametrize("count", [0, 1, 5, 300])
def test_tags_of_every_word(encoder_folder, pos_folder, count):
    """Of every window, by the tagger's own tokenizer; own labels of the documents are replaced."""
    words = np.random.default_rng(0).choice([*WORDS], count).tolist()
    document = text(" (x) ".join(words))._replace(labels=["JJ"] * max(0, 2 * count - 1))
    ranker = Ranker(
        RankSettings(model=str(encoder_folder), candidates="nouns", tagger=str(pos_folder))
    )
    first, second = ranker.tag([text("a jam"), document])
    assert first.labels == ["VB", "JJ"]
    assert second == document._replace(labels=second.labels)
    assert second.labels[::2] == [WORDS[word] for word in words]
    assert set(second.labels[1::2]) <= {"VB"}


def test_noun_phrases_by_a_tagger(encoder_folder, pos_folder):
    texts = ["Jolly new nets run; jumpers (nails) and nice jam. The nets", "No jam", ""]
    lists = extract_keyphrases(texts, model=encoder_folder, candidates="nouns", tagger=pos_folder)
    assert [{phrase.text: phrase.spans for phrase in phrases} for phrases in lists] == [
        {
            "Jolly new nets": [(0, 14)],
            "nets": [(10, 14), (54, 58)],
            "nails": [(29, 34)],
            "nice": [(40, 44)],
        },
        {},
        {},
    ]


def test_tags_do_not_change_weights(encoder_folder, pos_folder, documents):
    shared = {"model": str(encoder_folder), "heads": "L1H0"}
    nouns = Ranker(RankSettings(**shared, candidates="nouns", tagger=str(pos_folder)))
    for analysis, expected in zip(
        nouns.analyse(documents), Ranker(RankSettings(**shared)).analyse(documents)
    ):
        np.testing.assert_array_equal(analysis.weights, expected.weights)


def test_part_of_speech_tagger_does_not_share_its_work(pos_folder, documents, monkeypatch):
    """As for the tagger of keyphrases: each process has other texts."""
    tagger = PartOfSpeechTagger(pos_folder)
    expected = tagger.tag(documents)
    monkeypatch.setattr(distributed, "size", lambda: 2)
    assert tagger.tag(documents) == expected
    assert tagger.tag([]) == []


def test_labels_must_be_tags(encoder_folder, pos_folder, tmp_path):
    with pytest.raises(InputError, match=r"encoder without a classifier; train one with train\.py"):
        PartOfSpeechTagger(encoder_folder)
    with pytest.raises(InputError, match=r"no model\.safetensors"):
        PartOfSpeechTagger(tmp_path)

    shutil.copytree(pos_folder, tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "config.json").read_text())
    labels = {"0": "O", "1": "B", "2": "I"}
    (tmp_path / "config.json").write_text(json.dumps(config | {"id2label": labels}))
    with pytest.raises(InputError, match=r"labels \(O, B, I\) have no tag of nouns, such as NN"):
        PartOfSpeechTagger(tmp_path)


def test_universal_tags_are_tags(pos_folder, tmp_path):
    shutil.copytree(pos_folder, tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "config.json").read_text())
    labels = {"0": "VERB", "1": "ADJ", "2": "PROPN"}
    (tmp_path / "config.json").write_text(json.dumps(config | {"id2label": labels}))
    (document,) = PartOfSpeechTagger(tmp_path).tag([text("jolly nets run")])
    assert document.labels == ["ADJ", "PROPN", "VERB"]


def test_tagger_serves_nouns_only():
    for settings in ({}, {"candidates": "words"}, {"candidates": "tagger"}, {"phrases": "x"}):
        with pytest.raises(InputError, match="add that, or leave out --tagger"):
            RankSettings(tagger="runs/pos", **settings)


# Odd texts -------------------------------------------------------------------------------------

ODD = ["", " ", "\n", "word", "the of and", "<b>bold</b> &amp; <script>x</script>", "…!?", "\u200b"]


def test_odd_texts_raise_no_error(encoder_folder):
    lists = extract_keyphrases(ODD, model=str(encoder_folder))
    assert [bool(phrases) for phrases in lists] == [*[False] * 3, True, False, True, False, False]
    assert extract_keyphrases("", model=str(encoder_folder)) == [[]]
    assert lists[3][0].spans == [(0, 4)]


@pytest.fixture(scope="module")
def ranker(encoder_folder):
    return Ranker(RankSettings(model=str(encoder_folder)))


LETTERS = st.text(alphabet="abz ,.-<\n\u05d0\u05d1\u0627\u65e5\u672c\u0301\U0001f600", max_size=120)


@given(LETTERS)
@hypothesis_settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_spans_lie_in_any_text(ranker, words):
    """Right-to-left, unspaced, with combining marks and emoji."""
    document = text(words)
    (analysis,) = ranker.analyse([document])
    assert (analysis.weights >= 0).all()
    for phrase in ranker.keyphrases(analysis):
        assert phrase.text == words[slice(*phrase.spans[0])]
        assert phrase.text.strip() == phrase.text != ""
        assert phrase.spans == sorted(set(phrase.spans))


def test_idf_by_hand():
    idf = WordIdf([text("Wings of birds"), text("a wing, a wing")])
    expected = [math.log(3 / 3), math.log(3 / 2), math.log(3 / 1)]
    np.testing.assert_allclose(idf.of(text("winged bird kite")), expected)


def test_textrank_is_pagerank_over_neighbours():
    """Stems as nodes; "the" is a stop word but counts as a place between two words."""
    document = text("fast trains the rails trains bring fast snow")
    graph = networkx.Graph(
        [("fast", "train"), ("train", "rail"), ("rail", "bring"), ("train", "bring"),
         ("bring", "fast"), ("bring", "snow"), ("fast", "snow")]
    )  # fmt: skip
    rank = networkx.pagerank(graph, 0.85, tol=1e-13, max_iter=500)
    stems = ["fast", "train", None, "rail", "train", "bring", "fast", "snow"]
    expected = [rank.get(stem, 0.0) for stem in stems]
    np.testing.assert_allclose(textrank(document), expected, atol=1e-9)
    assert not textrank(text("the of")).any()


def test_chunks_read_lazily():
    """At most 64 texts, or 20,000 words, but for one text that is longer."""
    read = []

    def texts():
        for length in (*[1] * 70, 15_000, 4_000, 1_000, 30_000, 1):
            read.append(length)
            yield Document("x", "", [(0, 1)] * length)

    parts = chunks(texts())
    assert len(next(parts)) == 64
    assert len(read) == 65
    lengths = [[len(d.words) for d in part] for part in parts]
    assert lengths == [[*[1] * 6, 15_000, 4_000], [1_000], [30_000], [1]]
