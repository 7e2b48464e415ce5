"""Atomic writes: whole files after an error or a kill, and nothing left beside them."""

import os
from pathlib import Path

import pytest
import torch

from minibert.errors import InputError
from minibert.files import atomic_path, write_text
from minibert.weights import write_tensors


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_interrupted_write_keeps_the_old_file(tmp_path, error):
    write_text(tmp_path / "x.json", "old")
    with pytest.raises(error), atomic_path(tmp_path / "x.json") as temporary:  # noqa: PT012
        temporary.write_text("half of the n")
        raise error
    assert (tmp_path / "x.json").read_text() == "old"
    assert names(tmp_path) == ["x.json"]


def test_write_is_atomic(tmp_path):
    write_text(tmp_path / "deep" / "x", "old")
    with atomic_path(tmp_path / "deep" / "x") as temporary:
        temporary.write_text("new")
        assert (tmp_path / "deep" / "x").read_text() == "old"
        # a rename across disks is a copy
        assert temporary.is_relative_to(tmp_path / "deep")
    assert (tmp_path / "deep" / "x").read_text() == "new"
    assert names(tmp_path / "deep") == ["x"]


def test_reader_of_the_old_file_reads_it_to_the_end(tmp_path):
    """The new file takes the name of the old one, whose content does not change."""
    write_text(tmp_path / "x", "old")
    with (tmp_path / "x").open() as reader:
        write_text(tmp_path / "x", "new")
        assert reader.read() == "old"
    assert (tmp_path / "x").read_text() == "new"


def test_next_write_removes_what_a_killed_write_left(tmp_path):
    (tmp_path / ".x.tmp").write_text("half")
    write_text(tmp_path / "x", "new")
    assert names(tmp_path) == ["x"]
    assert (tmp_path / "x").read_text() == "new"


def test_next_write_removes_what_safetensors_left(tmp_path):
    (tmp_path / ".tmpQf8w2K").write_bytes(b"half")  # a name as safetensors gives
    write_tensors(tmp_path / "x.safetensors", {"t": torch.ones(2)})
    assert names(tmp_path) == ["x.safetensors"]


def test_permissions_follow_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "text", "")
        write_tensors(tmp_path / "tensors", {"t": torch.ones(2)})
    finally:
        os.umask(before)
    assert {oct(path.stat().st_mode & 0o777) for path in tmp_path.iterdir()} == {"0o640"}


def test_folder_in_place_of_the_file_is_rejected(tmp_path):
    (tmp_path / "x").mkdir()
    with pytest.raises(InputError, match="x: cannot be written"):
        write_text(tmp_path / "x", "new")
    assert names(tmp_path) == ["x"]
