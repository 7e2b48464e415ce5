"""The parts of the benchmarks that need no peer: an error in them would only show as a number."""

from collections import Counter
from dataclasses import replace
from math import log

import numpy as np
import pytest
import torch

from benchmarks import gpu
from benchmarks import keyphrase_quality as quality
from minibert.data.documents import Document
from minibert.evaluation import intervals
from minibert.phrases.baselines import WordIdf
from minibert.text.words import word_spans


def make_document(text):
    return Document("d", text, word_spans(text))


def test_difference_is_ours_less_theirs():
    draws = intervals.resamples(40)
    generator = np.random.default_rng(0)
    of_documents = {way: generator.random(40) for way in ("ours", "a", "b")}
    of_documents["ours"] += 0.5
    scores = {
        way: {"F1@10": draws @ values / 40, "P@10": draws @ values / 80}
        for way, values in of_documents.items()
    }
    random = [{"F1@10": np.array([value]), "P@10": np.array([0.0])} for value in (0.2, 0.3, 9.0)]

    result = quality.summarise(scores, random)
    assert [*result["less"]["F1@10"]] == ["a", "b"]
    change = result["less"]["F1@10"]["b"]
    expected = of_documents["ours"].mean() - of_documents["b"].mean()
    assert change.value == pytest.approx(expected, abs=1e-12)
    assert 0 < change.low < change.value < change.high
    assert result["less"]["P@10"]["b"].value == pytest.approx(expected / 2, abs=1e-12)
    assert result["scores"]["F1@10"]["a"].value == pytest.approx(of_documents["a"].mean())
    assert (result["random"]["F1@10"].value, result["random"]["F1@10"].high) == (0.3, 9.0)
    assert (result["above"]["F1@10"], result["above"]["P@10"]) == ([2, 3], [3, 3])


def test_summary_names_what_ours_is_not_above():
    def change(value, low, high):
        return {"value": value, "low": low, "high": high}

    ours = {quality.OURS: change(0.4, 0.3, 0.5), "a": change(0.1, 0.1, 0.1)}
    less = {"a": change(0.3, 0.2, 0.4), "b": change(0.1, -0.01, 0.2)}
    result = {
        "scores": {"F1@10": ours, "P@10": ours},
        "less": {"F1@10": less | {"without attention": change(0.07, 0.06, 0.08)}},
        "random": {"F1@10": change(0.3, 0.2, 0.45)},
        "above": {"F1@10": [19, 20]},
    }
    _, row = quality.summary_rows({"x": result})
    score = "40.0 [30.0, 50.0]"
    assert row == ["x", score, score, "+7.0 [+6.0, +8.0]", "b, random heads"]

    result["above"]["F1@10"] = [20, 20]
    assert quality.summary_rows({"x": result})[1][-1] == "b"


def test_words_by_tf_idf():
    corpus = list(map(make_document, ["Heads attend.", "Heads of words", "words, rivers"]))
    document = make_document("The head of a river: heads, rivers, Heads and a word of the networks")
    words = quality.words_by_tf_idf(document, WordIdf(corpus))

    counts = Counter({"head": 3, "river": 2, "word": 1, "networks": 1})
    documents = {"head": 2, "river": 1, "word": 2, "networks": 0}
    totals = {word: counts[word] * log(4 / (1 + documents[word])) for word in counts}
    assert words == sorted(totals, key=lambda word: -totals[word])


def test_variants_of_collections():
    def names(**settings):
        return quality.names(quality.Settings(data="data", **settings))

    assert names(collections=("semeval2017", "inspec")) == [
        "inspec",
        "semeval2017",
        "semeval2017-without-dev",
    ]
    assert names(collections=("semeval2017",), split="dev") == ["semeval2017"]
    assert names(collections=("inspec",), tagger="run") == ["inspec", "inspec-nouns"]


def test_left_out_documents(tmp_path):
    folder = tmp_path / "semeval2017"
    folder.mkdir()
    row = '{"id": "%d", "text": "a river", "keyphrases": [%s]}\n'
    lines = [row % (i, '"river"' if i else "") for i in range(5)]
    (folder / "liaad493.jsonl").write_text("".join(lines))
    (folder / "dev.jsonl").write_text(lines[3])

    settings = quality.Settings(data=tmp_path)
    ids = {
        name: [d.id for d in quality.read(settings, quality.COLLECTIONS[name])]
        for name in ("semeval2017", "semeval2017-without-dev")
    }
    assert ids == {"semeval2017": [*"1234"], "semeval2017-without-dev": [*"124"]}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*nested tensors is in prototype")
def test_gpu_benchmark_runs_on_the_cpu(monkeypatch, capsys):
    """On a tiny shape, so that an error in it shows without a GPU."""
    tiny = replace(
        gpu.BERT_BASE, vocab_size=1100, hidden_size=24, num_hidden_layers=2, num_attention_heads=3,
        intermediate_size=32,
    )  # fmt: skip
    monkeypatch.setattr(gpu, "BERT_BASE", tiny)
    monkeypatch.setattr(gpu, "SHAPES", {"tiny": tiny})
    assert (
        gpu.main(["--device", "cpu", "--documents", "3", "--batch-size", "2", "--rounds", "1"]) == 0
    )

    lines = capsys.readouterr().out.splitlines()
    rows = [line.split()[:3] for line in lines if "tokens/s" in line and "minibert" in line]
    precisions = ("float32", "bf16", "fp16")
    assert rows == [[p, job, "minibert"] for p in precisions for job in ("forward", "training")]
    assert sum("6 heads" in line for line in lines) == 4
    assert sum("MiB simulated" in line for line in lines) == 4
    assert sum("varlen" in line for line in lines) == 2


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is here")
def test_gpu_benchmark_without_a_gpu_says_so(capsys):
    assert gpu.main([]) == 2
    assert "needs a CUDA device" in capsys.readouterr().err
