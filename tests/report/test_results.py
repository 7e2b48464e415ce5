"""Results as JSON and back."""

import json
from dataclasses import asdict

import pytest

from minibert.evaluation.intervals import Change, Score
from minibert.heads.gate_training import GateProgress
from minibert.report.results import Ablation, Curve, HeadEffects, PrunedModel, from_json

SCORE, CHANGE = Score(0.5, 0.25, 0.75), Change(0.1, -0.2, 0.3, 0.04, True)
SPLITS = ("dev", "test")
EFFECTS = HeadEffects({"AP": SCORE}, {"L0H1": {"AP": CHANGE}})


@pytest.mark.parametrize(
    "value",
    [
        Ablation(
            {"dev": EFFECTS},
            {"dev": EFFECTS},
            {"dev": {"L0H1": {"AP": 0.5}}},
            {"single": Curve([0, 6], {"AP": [0.5, 0.25]}, SCORE, 6)},
        ),
        PrunedModel(
            "gates",
            None,
            60,
            22,
            ["L0H1"],
            [GateProgress(1, 0.5, 0.25, 3.5, 3, 2, 1)],
            {"AP": SCORE},
            {"AP": SCORE},
            SCORE,
            [0.5, 0.25],
            {},
        ),
    ],
)
def test_json_gives_equal_dataclasses(value):
    assert from_json(type(value), json.loads(json.dumps(asdict(value)))) == value


def test_unknown_keys_are_ignored_and_missing_ones_are_errors():
    assert from_json(Score, {"value": 1, "low": 0, "high": 2, "p": 3}) == Score(1, 0, 2)
    with pytest.raises(KeyError, match="high"):
        from_json(Score, {"value": 1, "low": 0})


def test_study_collects_its_curves_from_its_parts():
    effects, curve = asdict(EFFECTS), asdict(Curve([0, 6], {"AP": [0.5, 0.25]}, SCORE, 6))
    parts = {f"{name}-{split}": effects for name in ("single", "alone") for split in SPLITS}
    parts |= {f"attention-{split}": {"L0H1": {"AP": 0.5}} for split in SPLITS}
    parts |= {"order-single": ["L0H1"], "curve-single": curve, "curve-random-0": curve}
    study = Ablation.from_parts(parts)
    assert [*study.curves] == ["single", "random-0"]
    assert study.curves["single"].area == SCORE
