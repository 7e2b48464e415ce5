import pytest

from minibert.evaluation.duration import describe_seconds


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "about 1 s"),
        (39.6, "about 40 s"),
        (89.4, "about 89 s"),
        (90, "about 2 min"),
        (200, "about 3 min"),
        (5399, "about 90 min"),
        (5400, "about 1.5 h"),
        (8000, "about 2.2 h"),
    ],
)
def test_durations_in_words(seconds, text):
    assert describe_seconds(seconds) == text
