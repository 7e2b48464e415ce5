"""A value with its 95 % interval, as tables and sentences show it."""

from minibert.evaluation.intervals import Change, Score


def signed(change: Score | Change) -> str:
    """A change with its sign and its 95 % interval."""
    return f"{change.value:+.4f} [{change.low:+.4f}, {change.high:+.4f}]"


def points(change: Change) -> str:
    """A change of a measure from 0 to 1, in percentage points, and its 95 % interval."""
    value, low, high = (f"{100 * x:+.1f}" for x in (change.value, change.low, change.high))
    return f"{value} [{low}, {high}]"


def difference(change: Change) -> str:
    """The same with a word for the direction: "4.3 points [0.3, 9.0] above"."""
    value, low, high = (100 * x for x in (change.value, change.low, change.high))
    if value < 0:
        return f"{-value:.1f} points [{-high:.1f}, {-low:.1f}] below"
    return f"{value:.1f} points [{low:.1f}, {high:.1f}] above"


def with_interval(score: Score) -> str:
    return f"{score.value:.3f} [{score.low:.3f}, {score.high:.3f}]"


def percent(score: Score) -> str:
    return f"{100 * score.value:.1f} [{100 * score.low:.1f}, {100 * score.high:.1f}]"
