"""A figure for which no script has an example in the other tests."""

from minibert.evaluation.intervals import Score
from minibert.report.figures import draw_kept


def test_lines_may_have_different_numbers_of_heads(tmp_path):
    lines = {
        # The second interval does not contain its value.
        "gates": {6: Score(0.9, 0.85, 0.95), 18: Score(1.0, 1.01, 1.1)},
        "order": {18: Score(0.8, 0.7, 0.9)},
    }
    random = {6: [0.5, 0.4], 18: [0.7, 0.6]}
    draw_kept(tmp_path / "shares.png", lines, random, 1.0, "share")
    assert (tmp_path / "shares.png").read_bytes().startswith(b"\x89PNG")
