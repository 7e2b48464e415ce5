"""What every script shares: paths, the encoding of the output, narrow terminals."""

import io
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

import rank
import train
from minibert.hub import find_model
from minibert.runtime import cli


@dataclass(frozen=True)
class Settings:
    out: Path = Path("~/by-default")
    data: str = "sample"
    files: tuple[Path, ...] = ()
    page: Path | None = None
    count: int = 3


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """The home folder; the working folder is another one."""
    (tmp_path / "home").mkdir()
    (tmp_path / "work").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "home"


def test_tilde_is_the_home_folder_in_every_path_option(home):
    received = []
    arguments = ["--out=~/x", "--data=~/{split}.jsonl", "--files", "~/a", "b~", "~no-such-user/c"]
    assert cli.run(received.append, Settings, "", [*arguments, "--page=~"]) == 0
    files = (home / "a", Path("b~"), Path("~no-such-user/c"))
    assert received == [Settings(home / "x", f"{home}/{{split}}.jsonl", files, home)]
    assert cli.run(received.append, Settings, "", ["--count", "4"]) == 0
    assert received[1] == Settings(home / "by-default", count=4)


def test_tilde_in_a_path_object_is_kept(home, monkeypatch):
    """A run in the folder ./~ must not load from the home folder."""
    for folder in (home / "run", Path("~/run")):
        folder.mkdir(parents=True)
    assert find_model(Path("~/run")) == Path("~/run")
    assert find_model("~/run") == home / "run"


@pytest.mark.parametrize(("encoding", "shown"), [("ascii", "W?rme ?"), ("latin-1", "Wärme ?")])
def test_characters_missing_in_the_output_encoding_are_replaced(monkeypatch, encoding, shown):
    out = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", out)
    assert cli.run(lambda _: print("Wärme 熱"), Settings, "", []) == 0
    assert out.buffer.getvalue().decode(encoding) == f"{shown}\n"


@pytest.mark.parametrize("columns", [1, 2, 3, 5, 6])
@pytest.mark.parametrize("arguments", [(train, "--help"), (rank, "extract", "--help")])
def test_help_terminates_in_a_narrow_terminal(monkeypatch, capsys, columns, arguments):
    def stop_waiting(*_):
        raise TimeoutError

    monkeypatch.setenv("COLUMNS", str(columns))
    script, *options = arguments
    previous = signal.signal(signal.SIGALRM, stop_waiting)
    signal.alarm(60)
    try:
        with pytest.raises(SystemExit) as stop:
            script.main(options)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)
    assert stop.value.code == 0
    assert "--model" in capsys.readouterr().out
