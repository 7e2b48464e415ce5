"""Figures that no script draws."""

from minibert.report.figures import draw_kept


def test_shares_of_ways_that_stop_at_different_numbers_of_heads(tmp_path):
    shares = {"gates": {6: (0.9, 0.85, 0.95), 18: (1.0, 1.01, 1.1)}, "order": {18: (0.8, 0.7, 0.9)}}
    draw_kept(tmp_path / "shares.png", shares, {6: [0.5, 0.4], 18: [0.7, 0.6]}, 1.0, "share")
    assert (tmp_path / "shares.png").read_bytes().startswith(b"\x89PNG")
