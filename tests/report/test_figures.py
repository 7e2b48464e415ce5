"""Figures that no script draws."""

from minibert.report import figures
from minibert.report.figures import draw_kept, draw_pareto


def test_shares_of_ways_that_stop_at_different_numbers_of_heads(tmp_path):
    shares = {"gates": {6: (0.9, 0.85, 0.95), 18: (1.0, 1.01, 1.1)}, "order": {18: (0.8, 0.7, 0.9)}}
    draw_kept(tmp_path / "shares.png", shares, {6: [0.5, 0.4], 18: [0.7, 0.6]}, 1.0, "share")
    assert (tmp_path / "shares.png").read_bytes().startswith(b"\x89PNG")


def test_pareto_band_holds_random_heads_without_fine_tuning(monkeypatch, tmp_path):
    def stage(selection: str, kept: int, ap: float, recovered: bool | None = None) -> dict:
        score = {"value": ap, "low": ap - 0.1, "high": ap + 0.1}
        record = {"selection": selection, "recovered": recovered, "heads": kept * ["L0H0"]}
        return record | {"test": {"AP": score}, "dense": {"AP": {"value": 0.9}}}

    drawn = []
    monkeypatch.setattr(figures, "draw_kept", lambda *arguments: drawn.append(arguments))
    ways = {
        "chance": {"keep-4": stage("random", 4, 0.5), "keep-2": stage("random", 2, 0.25)},
        "prune-keep": {"keep-4": stage("gates", 4, 0.75)},
        "prune-random-0-recover": {"keep-4": stage("random", 4, 0.625, False)},
        "prune-random-1": {"keep-4": stage("random", 4, 0.375)},
    }
    draw_pareto(tmp_path / "pareto.png", ways)

    ((_, lines, random, full, label),) = drawn
    assert random == {4: [0.5, 0.375], 2: [0.25]}
    assert {way: list(points) for way, points in lines.items()} == {
        "keep": [4],
        "random-0-recover": [4],
    }
    assert lines["keep"][4][0] == 0.75
    assert (full, label) == (0.9, "AP on test")
