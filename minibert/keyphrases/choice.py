"""Which heads and which score to use: read from names or files, and recorded in files."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from minibert.config import BertConfig, Head, head_name, parse_head
from minibert.errors import InputError, check
from minibert.files import read_json
from minibert.phrases.features import FEATURES, PhraseScore

Kind = Literal["keyphrases", "tags", "counted"]

THESE = "these heads"
NO_ATTENTION, ALL_HEADS, BEST_HEAD = "without attention", "all heads", "best head on dev"
UNIFORM = "uniform weights"
RANDOM = "random heads"  # the row of all draws; a draw has a number behind it
LARGEST = 1e100  # bound of the weights of heads and features: sums stay finite


def shipped(kind: Kind) -> Path:
    """The file of rank.py fit for DEFAULT_MODEL that comes with the package."""
    return Path(__file__).parent / f"minilm-{kind}.json"


def fitted_record(source: str | Path) -> dict[str, Any] | None:
    """What rank.py fit wrote to a file; None for any other `source` of heads (see `read_heads`).
    Raises InputError for a file that is not readable, or of an older form."""
    record = read_json(source) if str(source).endswith(".json") else None
    if not isinstance(record, dict):
        return None
    is_old = "candidates" in record and "weights" not in record
    check(not is_old, f"{source}: has no weights of features, an older form; run rank.py fit")
    return record if "weights" in record else None


def read_score(
    source: str | Path, config: BertConfig, kind: Kind, model: str | None = None
) -> PhraseScore:
    """The score that a file of rank.py fit records. Any other `source` of heads (see `read_heads`)
    gets the weights of the shipped score of this kind, and no contrast heads.

    Raises InputError as `read_heads` does, and for a file of an older form.
    """
    heads, record = read_heads(source, config, model), fitted_record(source)
    if record is None:
        return PhraseScore(heads, {}, read_json(shipped(kind))["weights"])
    return parse_score(source, record, config)


def read_controls(source: str | Path, config: BertConfig, kind: Kind) -> dict[str, PhraseScore]:
    """The controls that a file of rank.py fit records, by name: the same score with no heads, other
    heads and random ones, fitted to the same documents. For any other `source` of heads only the
    shipped score without attention."""
    record = fitted_record(source)
    if record is not None:
        controls = record.get("controls", {})
    else:
        source = shipped(kind)
        controls = {NO_ATTENTION: read_json(source)["controls"][NO_ATTENTION]}
    check(isinstance(controls, dict), f'{source}: "controls" must be an object')
    return {name: parse_score(source, control, config) for name, control in controls.items()}


def parse_score(source: str | Path, record: Any, config: BertConfig) -> PhraseScore:
    """The score in a record of `score_record`. Raises InputError for anything else."""
    check(isinstance(record, dict), f"{source}: a score must be an object; run rank.py fit again")
    heads, contrast = (
        _parse_heads(str(source), record.get(name, {})) for name in ("heads", "contrast")
    )
    for group in filter(None, (heads, contrast)):
        _check_heads(str(source), group, config)

    weights = record.get("weights")
    is_known = isinstance(weights, dict) and weights.keys() <= set(FEATURES)
    check(is_known, f'{source}: "weights" must be of the features {", ".join(FEATURES)}')
    are_numbers = all(type(w) in (int, float) and abs(w) < LARGEST for w in weights.values())
    check(are_numbers, f"{source}: a weight of a feature is no number; run rank.py fit again")
    return PhraseScore(heads, contrast, weights)


def score_record(score: PhraseScore) -> dict[str, dict[str, float]]:
    """A score as JSON."""
    heads, contrast = (
        {head_name(head): weight for head, weight in group.items()}
        for group in (score.heads, score.contrast)
    )
    return {"heads": heads, "contrast": contrast, "weights": dict(score.weights)}


def read_heads(
    source: str | Path, config: BertConfig, model: str | None = None
) -> dict[Head, float]:
    """Heads with their weights. `source` is one of

    - "all";
    - names, as in "L5H10,L4H2";
    - a JSON file with "heads", names or {name: weight}, as rank.py fit and prune.py write it;
    - an order of ablate.py with ":12" behind its path: its last, most important 12 heads.

    Raises InputError for anything else, for a head outside the model's layers and heads, and for a
    file of rank.py fit that records another model than `model` (folder or Hub id).
    """
    source = str(source)
    if source == "all":
        return dict.fromkeys(config.present_heads, 1.0)

    path, _, count = source.rpartition(":")
    if path and count.isdigit():
        named = _end_of_order(source, path, int(count))
    elif source.endswith(".json"):
        named = _recorded_heads(source, model)
    else:
        named = source.replace(",", " ").split()

    heads = _parse_heads(source, named)
    _check_heads(source, heads, config)
    return heads


def full_name(model: str) -> str:
    """The model in any working directory: an absolute path, or a Hub id."""
    folder = os.path.expanduser(model)
    return os.path.realpath(folder) if os.path.isdir(folder) else model


def _recorded_heads(path: str, model: str | None) -> Any:
    """What a JSON file has as "heads"; None if it has none."""
    record = read_json(path)
    if not isinstance(record, dict):
        return None
    chosen_for = record.get("model")
    check(
        not model or not chosen_for or full_name(str(chosen_for)) == full_name(model),
        f"{path}: its heads were chosen for {chosen_for}, not for {model}: "
        "choose others with rank.py fit, or name heads, as in --heads L3H7,L5H10",
    )
    return record.get("heads")


def _end_of_order(source: str, path: str, count: int) -> list[str]:
    """The last `count` heads of an order of ablate.py."""
    order = read_json(path)
    check(isinstance(order, list), f"{source}: names no heads, such as L3H7")
    is_in_range = 1 <= count <= len(order)
    check(is_in_range, f"{source}: it ranks {len(order)} heads; take 1 to {len(order)}")
    return order[-count:]


def _parse_heads(source: str, named: Any) -> dict[Head, float]:
    """{head: weight} from names, or from {name: weight}."""
    try:
        weights = named if isinstance(named, Mapping) else dict.fromkeys(named, 1.0)
        return {parse_head(name): float(weight) for name, weight in weights.items()}
    except (AttributeError, OverflowError, TypeError, ValueError):
        raise InputError(f"{source}: names no heads, such as L3H7") from None


def _check_heads(source: str, heads: Mapping[Head, float], config: BertConfig) -> None:
    are_positive = heads and all(0 < weight < LARGEST for weight in heads.values())
    check(are_positive, f"{source}: no heads, or weights that are not above 0, or too large")
    layers, width = config.num_hidden_layers, config.num_attention_heads
    for layer, head in heads:
        check(
            0 <= layer < layers and 0 <= head < width,
            f"{source}: the model has no {head_name((layer, head))}: it has {layers} layers of "
            f"{width} heads; the list belongs to another model",
        )
