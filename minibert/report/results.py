"""Read the results that ablate.py and prune.py left in a run folder."""

from pathlib import Path

from minibert.files import read_json


def read_ablations(run: str | Path) -> dict[str, dict]:
    """{folder: every part by name, "curves" by order} of each finished study of ablate.py."""
    out = {}
    for folder in sorted(path.parent for path in Path(run).glob("*/curves.png")):
        if not (folder / "single-dev.json").exists():
            continue
        parts = {path.stem: read_json(path) for path in sorted(folder.glob("*-*.json"))}
        curves = {name: parts.pop(name) for name in list(parts) if name.startswith("curve-")}
        out[folder.name] = parts | {
            "curves": {name.removeprefix("curve-"): curve for name, curve in curves.items()}
        }
    return out


def read_prunings(run: str | Path) -> dict[str, dict[str, dict]]:
    """{way: {stage: results.json}} of prune.py, most heads first."""
    out: dict[str, dict[str, dict]] = {}
    for path in sorted(Path(run).glob("*/*/results.json")):
        stage = read_json(path)
        if "selection" in stage:  # not a results.json of train.py
            out.setdefault(path.parts[-3], {})[path.parts[-2]] = stage
    return {
        way: dict(sorted(stages.items(), key=lambda stage: -len(stage[1]["heads"])))
        for way, stages in out.items()
    }
