"""The parts of the benchmarks that need no peer: an error in them would only show as a number."""

from collections import Counter
from dataclasses import replace
from math import log
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import gpu, run_all, workload
from benchmarks import keyphrase_quality as quality
from minibert import BertConfig
from minibert.data.documents import Document
from minibert.errors import InputError
from minibert.evaluation import intervals
from minibert.files import read_json, write_json
from minibert.heads.costs import flops_of
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


# Speed ------------------------------------------------------------------------------------------

CONFIG = BertConfig(1100, 6, 2, 3, 10).with_labels(workload.LABELS)


def test_table_in_markdown():
    rows = [["loop", "time / ours"], ["minibert", "1.00"], ["x", "12.50"]]
    assert workload.markdown(rows).splitlines() == [
        "| loop     | time / ours |",
        "| -------- | ----------: |",
        "| minibert |        1.00 |",
        "| x        |       12.50 |",
    ]
    assert workload.markdown(rows, texts=2).splitlines()[1:3] == [
        "| -------- | ----------- |",
        "| minibert | 1.00        |",
    ]


def test_cells_of_a_row():
    theirs, ours = [6.0, 2.0, 4.0], [1.0, 2.0, 3.0]
    cells = workload.speed_cells(theirs, ours, tokens=8000, flops=3e9, limit=1e9)
    assert cells == ["2.00 [1.00, 6.00]", "2,000", "75%"]
    assert len(cells) == len(workload.SPEED_COLUMNS)


def test_limit_is_that_of_the_faster_library():
    seconds = {"MKL float32": [3.0, 1.0, 9.0], "oneDNN float32": [8.0, 2.0, 0.1]}
    flops = 2 * 2 * 5 * CONFIG.hidden_size * CONFIG.intermediate_size
    assert workload.matrix_speed(seconds, CONFIG, "float32", 5) == flops / 2

    seconds = {"MKL bf16": [4.0]} | seconds  # a torch without oneDNN
    assert workload.matrix_speed(seconds, CONFIG, "bf16", 5) == flops / 4


def test_matrix_jobs_compute_what_the_limit_counts():
    for job in workload.matrix_jobs(CONFIG, torch.float32, 7).values():
        assert flops_of(job) == 2 * 2 * 7 * 6 * 10


def test_documents_of_a_workload():
    settings = workload.Workload(documents=5, batch_size=2)
    sizes = {
        lengths: [len(w.input_ids) for b in settings.batches(lengths, CONFIG) for w in b.windows]
        for lengths in ("mixed", "sorted", "one")
    }
    assert len(set(sizes["mixed"])) > 1
    assert all(100 <= size <= 512 for size in sizes["mixed"])
    assert sizes["mixed"] != sorted(sizes["mixed"]) == sizes["sorted"]
    assert sizes["one"] == [256] * 2

    batches = settings.batches("sorted", CONFIG)
    assert [len(batch.input_ids) for batch in batches] == [2, 2, 1]
    widths = [batch.input_ids.shape[1] for batch in batches]
    assert widths == [sizes["sorted"][number] for number in (1, 3, 4)]


def test_padding_of_documents():
    row = workload.describe_documents("mixed", [10, 40, 50], 2)  # of 40 + 40 + 50 places
    assert row == "as they come: 3 of 10 to 50, 23% padding"


def test_first_layers_of_a_model():
    model = workload.Workload(layers=2).model()
    mask = torch.ones(2, model.config.num_attention_heads)
    assert len(model.bert.layers) == 2
    assert model(torch.tensor([[101, 102]]), head_mask=mask).logits.shape == (1, 2, 2)


# All benchmarks in one run -----------------------------------------------------------------------

HERE = {"machine": "CPU, 2 cores", "versions": "torch 2", "sources": "abc"}


@pytest.mark.parametrize(
    ("change", "valid"),
    [
        ({}, True),
        ({"error": "no memory"}, False),
        ({"words": ["forward", "--threads", "2"]}, False),
        ({"environment": HERE | {"machine": "CPU, 4 cores"}}, False),
        ({"environment": HERE | {"versions": "torch 3"}}, False),
        ({"environment": HERE | {"sources": "xyz"}}, False),
        ({"new": 1}, False),
    ],
)
def test_only_results_of_the_same_run_are_used_again(tmp_path, change, valid):
    path = tmp_path / "forward.json"
    words = ["forward"]
    result = run_all.Result(words, HERE, 3.0, "| a |", "")
    write_json(path, vars(result) | change)
    assert run_all.read_result(path, words, HERE) == (result if valid else None)


def test_no_result_and_a_damaged_one(tmp_path):
    path = tmp_path / "forward.json"
    assert run_all.read_result(path, ["forward"], HERE) is None
    path.write_text('{"words": ')
    assert run_all.read_result(path, ["forward"], HERE) is None


def test_estimate_follows_the_benchmarks_that_ended():
    first, second, third = (run_all.Benchmark(n, s, ()) for n, s in zip("abc", (10, 20, 30)))
    assert run_all.seconds_left([first, second, third], {}) == 60
    result = run_all.Result([], HERE, 25.0, "", "")
    assert run_all.seconds_left([second, third], {first: result}) == 2.5 * 50


def test_failed_benchmark_is_reported_and_measured_again(tmp_path, monkeypatch, capsys):
    settings = run_all.Settings(state=tmp_path / "state", out=tmp_path / "RESULTS.md")
    names = ("first", "broken", "last")
    todo = [run_all.Benchmark(name, 1, (name,)) for name in names]
    measured = []

    def measure(benchmark, here, _):
        measured.append(benchmark.title)
        broken = benchmark.title == "broken" and len(measured) < 4
        output, error = ("", "InputError: no peer") if broken else (f"| {benchmark.title} |", "")
        return run_all.Result([*benchmark.words], here, 1.0, output, error)

    monkeypatch.setattr(run_all, "benchmarks", lambda: todo)
    monkeypatch.setattr(run_all, "measure", measure)
    with pytest.raises(InputError, match="1 of 3 benchmarks failed"):
        run_all.run(settings)
    page = settings.out.read_text()
    assert [line for line in page.splitlines() if line.startswith("## ")] == [
        f"## {name}" for name in names
    ]
    assert "Failed: InputError: no peer" in page
    assert "| first |" in page
    assert "| last |" in page
    assert run_all.machine() in page

    run_all.run(settings)
    assert measured == [*names, "broken"]
    assert "Failed" not in settings.out.read_text()
    assert "[1/3] first: measured before" in capsys.readouterr().out


def test_stopped_run_continues(tmp_path, monkeypatch):
    settings = run_all.Settings(state=tmp_path / "state", out=tmp_path / "RESULTS.md")
    todo = [run_all.Benchmark(name, 1, (name,)) for name in ("first", "second")]

    def stop(benchmark, here, _):
        if benchmark.title == "second":
            raise KeyboardInterrupt
        return run_all.Result([*benchmark.words], here, 1.0, "| a |", "")

    monkeypatch.setattr(run_all, "benchmarks", lambda: todo)
    monkeypatch.setattr(run_all, "measure", stop)
    with pytest.raises(KeyboardInterrupt):
        run_all.run(settings)
    assert [path.name for path in settings.state.iterdir()] == ["first.json"]
    assert read_json(settings.state / "first.json")["output"] == "| a |"
    assert "## first" in settings.out.read_text()


def test_output_and_error_of_a_process():
    result = run_all.measure(run_all.Benchmark("x", 1, ("no_such_module",)), HERE, Path("none"))
    assert "no_such_module" in result.error
    assert result.environment == HERE

    result = run_all.measure(run_all.Benchmark("x", 1, ("startup", "--help")), HERE, Path("none"))
    assert "--rounds" in result.output
    assert result.error == ""


def test_all_benchmarks_have_names_of_their_own():
    names = [benchmark.name for benchmark in run_all.benchmarks()]
    assert len({*names}) == len(names) >= 10
    assert "forward-pass-minilm-1-thread" in names
