"""Heads, scores and controls in files, and what is refused."""

import json
from dataclasses import replace
from typing import get_args

import pytest
from tiny import TINY

from minibert import InputError
from minibert.keyphrases.choice import (
    NO_ATTENTION,
    Kind,
    parse_score,
    read_controls,
    read_heads,
    read_score,
    score_record,
    shipped,
)
from minibert.phrases.features import COUNTED, FEATURES, PhraseScore


def test_heads_are_read_from_names_and_files(tmp_path):
    assert read_heads("all", TINY) == dict.fromkeys([(i, h) for i in range(3) for h in range(5)], 1)
    assert read_heads("L2H4, L0H1", TINY) == {(2, 4): 1, (0, 1): 1}
    chosen, order = tmp_path / "chosen.json", tmp_path / "order.json"
    chosen.write_text(json.dumps({"heads": {"L1H3": 2, "L0H0": 1}}))
    assert read_heads(str(chosen), TINY) == {(1, 3): 2, (0, 0): 1}
    chosen.write_text(json.dumps({"heads": ["L1H3"]}))
    assert read_heads(str(chosen), TINY) == {(1, 3): 1}
    order.write_text(json.dumps(["L0H0", "L0H1", "L2H2", "L1H1"]))
    assert read_heads(f"{order}:2", TINY) == {(2, 2): 1, (1, 1): 1}
    for count in (0, 5):
        with pytest.raises(InputError, match="take 1 to 4"):
            read_heads(f"{order}:{count}", TINY)


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("L3H0", "no L3H0: it has 3 layers of 5 heads"),
        ("L0H5", "another model"),
        ("heads", "names no heads"),
        ("", "no heads"),
        ("L1", "names no heads"),
        ("gone.json", "not readable"),
        ("gone.json:3", "not readable"),
    ],
)
def test_invalid_head_lists_are_rejected(source, why):
    with pytest.raises(InputError, match=why):
        read_heads(source, TINY)


NUMBERS = ["0", "-1", "NaN", "Infinity", "1e200", "1" + 400 * "0", '"x"', "null", "[1]"]
WRONG_HEADS = [f'{{"heads": {{"L0H0": {number}}}}}' for number in NUMBERS]


@pytest.mark.parametrize(
    "text", [*WRONG_HEADS, '{"heads": "L0H0"}', '{"heads": 3}', '{"heads": {}}', '["L0H0"]', "{}"]
)
def test_files_without_heads_are_rejected(tmp_path, text):
    path = tmp_path / "heads.json"
    path.write_text(text)
    with pytest.raises(InputError, match="heads"):
        read_heads(str(path), TINY)


# Scores -----------------------------------------------------------------------------------------

WEIGHTS = dict(zip(FEATURES, [0.5, -0.25, 1.5, -1.0, 2.0, 0.125, -0.75]))
SCORE = PhraseScore({(0, 1): 1.0, (2, 4): 0.5}, {(1, 1): 2.0}, WEIGHTS)
CONTROLS = {
    NO_ATTENTION: PhraseScore({}, {}, dict.fromkeys(COUNTED, 0.5)),
    "random heads 1": PhraseScore({(1, 3): 1.0}, {(0, 0): 1.0}, WEIGHTS),
}


@pytest.fixture
def write(tmp_path):
    """Writes a file of rank.py fit with some fields changed; returns its path."""

    def write(**changes):
        record = score_record(SCORE) | {
            "model": "some/model",
            "candidates": "content",
            "controls": {name: score_record(control) for name, control in CONTROLS.items()},
        }
        path = tmp_path / "fit.json"
        record |= changes
        path.write_text(json.dumps({k: v for k, v in record.items() if v is not None}))
        return path

    return write


def test_a_fit_is_read_as_it_was_written(write):
    path = write()
    for source in (path, str(path)):
        assert read_score(source, TINY, "tags", "some/model") == SCORE
        assert read_controls(source, TINY, "tags") == CONTROLS
    assert read_score(path, TINY, "keyphrases") == SCORE  # whatever the kind and the model


@pytest.mark.parametrize("score", [SCORE, *CONTROLS.values(), PhraseScore({}, {}, {})])
def test_records_of_scores_are_their_inverse(score):
    record = json.loads(json.dumps(score_record(score)))
    assert parse_score("x.json", record, TINY) == score


@pytest.mark.parametrize("kind", get_args(Kind))
def test_shipped_scores_fit_the_default_model(kind):
    """Their form alone: the numbers are those of a fit. MiniLM has 6 layers of 12 heads."""
    path = shipped(kind)
    config = replace(TINY, hidden_size=24, num_hidden_layers=6, num_attention_heads=12)
    record = json.loads(path.read_text())
    score = read_score(path, config, kind, record["model"])
    assert score_record(score)["heads"] == record["heads"]
    assert score.weights == record["weights"]
    control = read_controls(path, config, kind)[NO_ATTENTION]
    assert not control.heads
    assert not control.contrast


@pytest.mark.parametrize("kind", get_args(Kind))
@pytest.mark.parametrize("source", ["all", "L2H4,L0H1", "heads.json", "order.json:2"])
def test_other_heads_have_the_weights_of_the_kind(tmp_path, kind, source):
    """No contrast heads: those of the shipped score belong to another model."""
    (tmp_path / "heads.json").write_text('{"heads": {"L1H3": 2}}')
    (tmp_path / "order.json").write_text('["L0H0", "L2H2", "L1H1"]')
    source = str(tmp_path / source) if ".json" in source else source
    record = json.loads(shipped(kind).read_text())
    score = read_score(source, TINY, kind)
    assert score == PhraseScore(read_heads(source, TINY), {}, record["weights"])
    controls = read_controls(source, TINY, kind)
    without = record["controls"][NO_ATTENTION]
    assert controls == {NO_ATTENTION: PhraseScore({}, {}, without["weights"])}


def test_kinds_have_their_own_files():
    for kind in get_args(Kind):
        assert shipped(kind).name == f"minilm-{kind}.json"


def test_fit_of_an_older_form_is_rejected(write):
    with pytest.raises(InputError, match=r"fit\.json: has no weights of features, an older form"):
        read_score(write(weights=None), TINY, "keyphrases")
    without = write(weights=None, candidates=None)  # as prune.py writes it
    assert read_score(without, TINY, "keyphrases").heads == SCORE.heads


def test_fit_of_another_model_is_rejected(write):
    with pytest.raises(InputError, match=r"chosen for some/model, not for other/model: .* fit"):
        read_score(write(), TINY, "keyphrases", "other/model")


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"heads": {"L3H0": 1}}, "no L3H0: it has 3 layers of 5 heads"),
        ({"heads": {}}, "no heads"),
        ({"contrast": {"L0H5": 1}}, "no L0H5: it has 3 layers of 5 heads"),
        ({"contrast": ["L0"]}, "names no heads"),
        ({"contrast": 3}, "names no heads"),
        ({"contrast": {"L0H0": -1}}, "not above 0"),
        ({"weights": {"attention": 1, "luck": 2}}, '"weights" must be of the features occurrences'),
        ({"weights": [1, 2]}, '"weights" must be of the features'),
        *(
            ({"weights": {"attention": wrong}}, "a weight of a feature is no number; run rank")
            for wrong in ("1", [1], {}, True, float("nan"), float("-inf"), -1e200, 10**400)
        ),
        ({"weights": {"attention": 1, "words": None}}, "a weight of a feature is no number"),
    ],
)
def test_wrong_scores_are_rejected(write, changes, why):
    """In the score itself, and in a control."""
    with pytest.raises(InputError, match=rf"fit\.json: .*{why}"):
        read_score(write(**changes), TINY, "keyphrases")
    if changes == {"heads": {}}:
        return  # a control may have none
    control = score_record(SCORE) | changes
    with pytest.raises(InputError, match=rf"fit\.json: .*{why}"):
        read_controls(write(controls={"x": control}), TINY, "keyphrases")


@pytest.mark.parametrize("controls", [[], "x", {"x": []}, {"x": {"heads": ["L0H0"]}}, {"x": 1}])
def test_wrong_controls_are_rejected(write, controls):
    with pytest.raises(InputError, match=r"fit\.json: .*(object|features)"):
        read_controls(write(controls=controls), TINY, "keyphrases")


def test_a_score_without_controls_has_none(write):
    assert read_controls(write(controls=None), TINY, "keyphrases") == {}
