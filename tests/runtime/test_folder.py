"""The run folder: started, continued, rejected, locked; parts computed once; the log."""

import json
import resource
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from minibert import InputError
from minibert.files import read_json, write_json
from minibert.report import results
from minibert.runtime import distributed, folder
from minibert.runtime.folder import Log, once, only_writer, open_run
from minibert.training import trained


@dataclass(frozen=True)
class Settings:
    out: Path
    model: Path = Path("some/model")
    epochs: int = 4
    rate: float = 1e-3
    splits: tuple[str, ...] = ("dev", "test")
    show: int = 3


INPUTS = {"train.jsonl": "aa", "dev.jsonl": "bb"}


@pytest.fixture
def settings(tmp_path) -> Settings:
    return Settings(tmp_path / "runs" / "one")


def begin(folder: str | Path, settings: Settings, inputs: dict[str, str] = INPUTS) -> None:
    """Open a run and leave it at once."""
    with open_run(folder, settings, inputs):
        pass


def test_new_run_records_settings_inputs_and_versions(settings):
    begin(settings.out, settings)
    record = json.loads((settings.out / "run.json").read_text())
    assert record["settings"] == {
        "model": "some/model",
        "epochs": 4,
        "rate": 1e-3,
        "splits": ["dev", "test"],
    }
    assert record["inputs"] == INPUTS
    assert {"python", "torch", "minibert", "safetensors"} <= record["versions"].keys()


def test_folder_may_be_a_str(settings, tmp_path):
    begin(str(settings.out), settings)
    folder.inherit(str(settings.out), str(tmp_path / "new"), settings)
    assert json.loads((tmp_path / "new" / "run.json").read_text())[folder.PRUNED]["epochs"] == 4
    Log(str(settings.out / "metrics.jsonl"), 0).write(step=1)
    assert folder.read_log(str(settings.out)) == [{"step": 1}]
    assert (
        results.read_ablations(str(settings.out)) == results.read_prunings(str(settings.out)) == {}
    )
    with pytest.raises(InputError, match=r"not a run of train\.py"):
        trained.load_run(str(settings.out))


def test_version_is_unknown_without_installation(settings, monkeypatch):
    def version(package: str) -> str:
        raise PackageNotFoundError(package)

    monkeypatch.setattr("minibert.runtime.folder.version", version)
    begin(settings.out, settings)
    versions = json.loads((settings.out / "run.json").read_text())["versions"]
    assert versions["minibert"] == "unknown"


def test_empty_folder_is_accepted(settings):
    settings.out.mkdir(parents=True)
    begin(settings.out, settings)
    assert (settings.out / "run.json").exists()


def test_same_settings_continue_the_run(settings):
    begin(settings.out, settings)
    (settings.out / "checkpoint").write_text("kept")
    before = (settings.out / "run.json").read_bytes()
    begin(settings.out, settings)
    assert (settings.out / "checkpoint").read_text() == "kept"
    assert (settings.out / "run.json").read_bytes() == before


def test_out_and_show_may_change(settings, tmp_path):
    begin(settings.out, settings)
    settings.out.rename(tmp_path / "moved")
    moved = replace(settings, out=tmp_path / "moved", show=0)
    begin(moved.out, moved)


@pytest.mark.parametrize(
    ("key", "was", "now"),
    [
        ("epochs", 4, 5),
        ("rate", 0.001, 0.002),
        ("model", "some/model", "other/model"),
        ("splits", "['dev', 'test']", "['test']"),
    ],
)
def test_changed_setting_is_rejected_with_both_values(settings, key, was, now):
    begin(settings.out, settings)
    value = {"model": Path("other/model"), "splits": ("test",)}.get(key, now)
    with pytest.raises(InputError) as caught:
        begin(settings.out, replace(settings, **{key: value}))
    assert f"{key} = {was}, not {now}" in str(caught.value)
    assert str(settings.out) in str(caught.value)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (INPUTS | {"dev.jsonl": "cc"}, "dev.jsonl = bb, not cc"),
        (INPUTS | {"test.jsonl": "dd"}, "test.jsonl = (none), not dd"),
        ({"dev.jsonl": "bb"}, "train.jsonl = aa, not (none)"),
    ],
)
def test_changed_input_is_rejected_by_name(settings, inputs, message):
    begin(settings.out, settings)
    with pytest.raises(InputError) as caught:
        begin(settings.out, settings, inputs)
    assert message in str(caught.value)


def test_run_with_other_settings_is_of_another_version(settings):
    begin(settings.out, settings)
    record = read_json(settings.out / "run.json")
    record["settings"]["stride"] = 4
    write_json(settings.out / "run.json", record)
    with pytest.raises(InputError, match="made by another script or version of minibert; name"):
        begin(settings.out, settings)


def test_rejected_run_keeps_record_and_releases_lock(settings):
    begin(settings.out, settings)
    before = (settings.out / "run.json").read_bytes()
    with pytest.raises(InputError):
        begin(settings.out, replace(settings, epochs=5))
    assert (settings.out / "run.json").read_bytes() == before
    begin(settings.out, settings)


def test_foreign_folder_is_rejected(settings):
    settings.out.mkdir(parents=True)
    (settings.out / "thesis.tex").write_text("mine")
    with pytest.raises(InputError, match="not empty, and not a run folder"):
        begin(settings.out, settings)
    assert [p.name for p in settings.out.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("below", ["", "below", "far/below"])
def test_file_in_place_of_the_folder_is_rejected(settings, tmp_path, below):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match=str(tmp_path / "file")):
        begin(tmp_path / "file" / below, settings)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"settings": {}}', '{"settings": 3}'])
def test_damaged_record_is_rejected(settings, content):
    settings.out.mkdir(parents=True)
    (settings.out / "run.json").write_text(content)
    with pytest.raises(InputError, match=str(settings.out)):
        begin(settings.out, settings)


@pytest.mark.parametrize("leftover", [".run.json.tmp", ".lock"])
def test_run_killed_before_its_record_can_start_again(settings, leftover):
    settings.out.mkdir(parents=True)
    (settings.out / leftover).write_text("")
    begin(settings.out, settings)
    assert {p.name for p in settings.out.iterdir()} == {"run.json", ".lock"}


def test_locked_run_is_rejected(settings):
    with (
        open_run(settings.out, settings, INPUTS),
        pytest.raises(InputError, match="another process"),
    ):
        begin(settings.out, replace(settings, epochs=9))
    begin(settings.out, settings)


def test_concurrent_start_only_lock_holder_writes_record(settings, monkeypatch):
    refused = []

    def write_late(path: Path, record: dict) -> None:
        monkeypatch.undo()
        with pytest.raises(InputError, match="another process"):
            begin(settings.out, replace(settings, epochs=9))
        refused.append(9)
        write_json(path, record)

    monkeypatch.setattr("minibert.runtime.folder.write_json", write_late)
    begin(settings.out, settings)
    assert refused == [9]
    assert json.loads((settings.out / "run.json").read_text())["settings"]["epochs"] == 4


def test_lock_is_released_when_the_run_fails(settings):
    with pytest.raises(ZeroDivisionError), open_run(settings.out, settings, INPUTS):
        raise ZeroDivisionError
    begin(settings.out, settings)


def test_file_has_one_writer(tmp_path):
    out = tmp_path / "deep" / "scores.json"
    with only_writer(out), pytest.raises(InputError, match=r"scores\.json: another process"):  # noqa: SIM117
        with only_writer(str(out)):
            pass
    with only_writer(out), only_writer(tmp_path / "other"), only_writer(None):
        pass
    assert not list(out.parent.iterdir())


def test_process_that_does_not_write_opens_nothing(settings, monkeypatch):
    monkeypatch.setattr(distributed, "rank", lambda: 1)
    with open_run(settings.out, settings, INPUTS):
        assert not settings.out.exists()


# Parts computed once ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Score:
    value: float


def test_part_is_computed_once(tmp_path):
    calls = []

    def compute() -> dict:
        calls.append(1)
        return {"loss": Score(0.25)}

    value = once(tmp_path / "part.json", compute)
    assert value == {"loss": {"value": 0.25}}
    assert once(tmp_path / "part.json", compute) == value
    assert calls == [1]


def test_failed_part_is_not_written(tmp_path):
    with pytest.raises(ZeroDivisionError):
        once(tmp_path / "part.json", lambda: 1 / 0)
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("rank", [0, 1])
def test_all_processes_compute_a_part_and_the_first_writes_it(tmp_path, monkeypatch, rank):
    monkeypatch.setattr(distributed, "rank", lambda: rank)
    monkeypatch.setattr(distributed, "broadcast", lambda value: value)
    assert once(tmp_path / "part.json", lambda: rank) == rank
    assert (tmp_path / "part.json").exists() == (rank == 0)


def test_all_processes_return_the_part_of_the_first(tmp_path, monkeypatch):
    messages = iter(
        [False, '{"loss": 0.25}\n']
    )  # the file is missing; what the first process sends
    monkeypatch.setattr(distributed, "rank", lambda: 1)
    monkeypatch.setattr(distributed, "broadcast", lambda value: next(messages))
    assert once(tmp_path / "part.json", lambda: {"loss": 0.5}) == {"loss": 0.25}


# The log ----------------------------------------------------------------------------------------


def steps(path: Path) -> list[int]:
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


@pytest.fixture
def log(tmp_path) -> Path:
    log = Log(tmp_path / "metrics.jsonl", 0)
    for step in range(1, 7):
        log.write(step=step, loss=1 / step, note="ä\u2028\n")
    return tmp_path / "metrics.jsonl"


def test_log_line_is_on_disk_at_once(tmp_path):
    log = Log(tmp_path / "metrics.jsonl", 0)
    for step in (1, 2):
        log.write(step=step)  # the log stays open: nothing but write() itself can flush it
        assert steps(tmp_path / "metrics.jsonl")[-1:] == [step]


def test_log_lines_are_json(log):
    lines = log.read_bytes().split(b"\n")
    assert json.loads(lines[2]) == {"step": 3, "loss": 1 / 3, "note": "ä\u2028\n"}
    assert lines[6:] == [b""]


@pytest.mark.parametrize("step", [0, 1, 4, 6, 99])
def test_log_is_cut_back_to_a_step(log, step):
    Log(log, step).write(step=step + 1)
    assert steps(log) == [s for s in range(1, 7) if s <= step] + [step + 1]


@pytest.mark.parametrize("torn", ['{"step": 7, "lo', '{"step": 3}', "{", "\0\0"])
def test_incomplete_last_line_is_dropped(log, torn):
    whole = log.read_text()
    log.write_text(whole + torn)
    Log(log, 6)
    assert log.read_text() == whole


def test_lines_of_the_same_step_are_kept(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 2}\n{"step": 2, "dev": 1}\n{"step": 3}\n')
    Log(path, 2)
    assert steps(path) == [2, 2]


def test_full_disk_error_names_the_log(tmp_path):
    log = Log(tmp_path / "metrics.jsonl", 0)
    previous = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8, previous[1]))
    try:
        with pytest.raises(InputError, match=r"metrics\.jsonl: cannot be written"):
            log.write(step=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, previous)
