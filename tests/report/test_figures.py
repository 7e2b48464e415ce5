"""Figures with lines and bands that no other test draws."""

from minibert.evaluation.intervals import Score
from minibert.report import figures
from minibert.report.figures import draw_kept, draw_pareto
from minibert.report.results import PrunedModel


def test_lines_may_have_different_numbers_of_heads(tmp_path):
    lines = {
        # The second interval does not contain its value.
        "gates": {6: Score(0.9, 0.85, 0.95), 18: Score(1.0, 1.01, 1.1)},
        "order": {18: Score(0.8, 0.7, 0.9)},
    }
    random = {6: [0.5, 0.4], 18: [0.7, 0.6]}
    draw_kept(tmp_path / "shares.png", lines, random, 1.0, "share")
    assert (tmp_path / "shares.png").read_bytes().startswith(b"\x89PNG")


def test_pareto_band_holds_random_heads_without_fine_tuning(monkeypatch, tmp_path):
    def model(
        selection: str, heads: int, ap: float, steps: int = 0, documents: int = 9
    ) -> PrunedModel:
        test, dense = Score(ap, ap - 0.1, ap + 0.1), Score(documents / 10, 0.9, 0.9)
        return PrunedModel(
            selection=selection,
            recovered=False if steps else None,
            weight_steps=steps,
            documents=documents,
            heads=heads * ["L0H0"],
            gates=[],
            test={"AP": test},
            dense={"AP": dense},
            share=test,
            resampled=[ap],
            costs={},
        )

    drawn = []
    monkeypatch.setattr(figures, "draw_kept", lambda *arguments: drawn.append(arguments))
    prunings = {
        "chance": {"keep-4": model("random", 4, 0.5), "keep-2": model("random", 2, 0.25)},
        "prune-keep": {"keep-4": model("gates", 4, 0.75)},
        "prune-random-0-recover": {"keep-4": model("random", 4, 0.625, 30)},
        "prune-random-1": {"keep-4": model("random", 4, 0.375)},
        "prune-random-2": {"keep-4": model("random", 4, 0.95, documents=3)},
    }
    draw_pareto(tmp_path / "pareto.png", prunings)

    ((_, lines, random, full, label),) = drawn
    assert random == {4: [0.5, 0.375], 2: [0.25]}
    assert {way: list(points) for way, points in lines.items()} == {
        "keep": [4],
        "random-0-recover": [4],
        "random-2 (3 documents)": [4],
    }
    assert lines["keep"][4].value == 0.75
    assert (full, label) == (0.9, "AP on test")
