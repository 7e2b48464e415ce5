"""What the report says of an ablation, by hand."""

from minibert.report.tables import ablation_answers


def part(*heads: tuple[float, bool]) -> dict:
    """Heads of one layer: what silencing each does to the loss, and whether it is told."""
    names = [f"L{i // 2}H{i % 2}" for i in range(len(heads))]
    return {
        "full": {"loss": {"value": 0.5}, "AP": {"value": 0.8}},
        "heads": {
            name: {
                "loss": {"value": x, "significant": told},
                "AP": {"value": -x, "significant": told},
            }
            for name, (x, told) in zip(names, heads)
        },
    }


def test_the_answers_count_what_is_told_from_noise():
    gaze = {f"L{i // 2}H{i % 2}": {"AP": ap} for i, ap in enumerate((0.1, 0.4, 0.3, 0.2))}
    dev, test, agreement, layers, looks = ablation_answers(
        {
            "single-dev": part((0.3, True), (0.2, False), (-0.1, True), (-0.2, False)),
            "single-test": part((0.3, True), (0.2, True), (-0.1, True), (0.4, False)),
            "alone-dev": part((0.3, True), (0.2, True), (0.1, True), (0.4, True)),
            "alone-test": part((0.08, True), (0.04, True), (0.02, True), (0.4, True)),
            "attention-dev": gaze,
            "attention-test": {name: {"AP": 2 * x["AP"]} for name, x in gaze.items()},
        }
    )
    assert "of 4 heads, silencing one raises the loss for 1 and lowers it for 1; for 2 no" in dev
    assert "raises the loss for 2 and lowers it for 1; for 1 no" in test
    assert agreement.endswith(": -0.20")  # ranks 4 3 2 1 and 3 2 1 4: 1 - 6 * 12 / 60
    assert layers.endswith("AP on test: L0H1 -5.0 %, L1H0 -2.5 %")
    assert "best in L0H1 by dev: AP on test 80.0 (median head 50.0)" in looks
