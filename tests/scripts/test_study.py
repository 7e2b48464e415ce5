"""The page of the study, from small collections: rank.py runs, the rest is made up."""

import json
import shutil

import pytest
from tiny import randomise

import rank
from minibert import load_pretrained, save_pretrained
from minibert.data.corpus import SAMPLE
from minibert.evaluation.intervals import Change, Score
from study import study
from study.study import COLLECTIONS, Settings, Study, claims

WAYS = ("all heads", "uniform weights", "without attention", "PageRank of these")
WAYS += ("first candidates", "frequency", "TextRank")


def values(first: float, highest_draw: float) -> dict:
    return {
        "these heads": {"F1@10": Score(first, 0.0, 1.0)},
        "random heads": {"F1@10": Score(0.2, 0.1, highest_draw)},
    }


@pytest.mark.parametrize(
    ("way", "broken"),
    [
        ("", ""),
        ("without attention", "adds"),
        ("all heads", "choice"),
        ("uniform weights", "choice"),
        ("draws", "choice"),
        ("first candidates", "score"),
        ("frequency", "score"),
        ("TextRank", "score"),
        ("PageRank of these", "PageRank"),
    ],
)
def test_a_claim_holds_where_all_its_differences_are_above_zero(way, broken):
    above = dict.fromkeys(WAYS, Change(0.1, 0.01, 0.2, 0.001, True))
    above[way] = Change(0.1, -0.01, 0.2, 0.05, False)
    result = claims(values(0.3, 0.31 if way == "draws" else 0.29), above)
    assert len(result) == 4
    for claim, holds in result.items():
        assert holds != bool(broken and broken in claim)


@pytest.fixture
def finished(encoder_folder, tmp_path, monkeypatch) -> Study:
    """A study whose experiments with rank.py ran, on a tiny model."""
    settings = Settings(tmp_path / "data", tmp_path / "runs", (0,), page=tmp_path / "study.md")
    small, encoder = Study(settings), tmp_path / "encoder"
    shutil.copytree(encoder_folder, encoder)
    save_pretrained(randomise(load_pretrained(encoder), seed=1), encoder)  # heads that differ
    for number, name in enumerate(COLLECTIONS):
        (small.data / name).mkdir(parents=True)
        for split in ("dev", "test"):
            lines = (SAMPLE / f"{split}.jsonl").read_text().splitlines(True)[number::4]
            (small.data / name / f"{split}.jsonl").write_text("".join(lines))
        save_pretrained(load_pretrained(encoder, ("O", "I")), small.tagger(name))
        shutil.copy(encoder / "tokenizer.json", small.tagger(name))
        (small.tagger(name) / "results.json").write_text('{"threshold": -1e9}')

    def call(self, log, script, *words):
        words = [*map(str, words)]
        words += [] if "--model" in words else ["--model", str(encoder)]
        assert rank.main(words) == 0, log

    monkeypatch.setattr(Study, "call", call)
    monkeypatch.setattr(Study, "ablate", lambda *_: None)
    monkeypatch.setattr(Study, "prune", lambda *_: None)
    study.run_experiments(small, 1)
    return small


def test_page_has_every_row_of_the_runs(finished, monkeypatch):
    share = (0.9, 0.8, 1.0)
    pruned = {keep: dict.fromkeys(("gates", "gates, recovered"), share) for keep in (36, 18)}
    for shares in pruned.values():
        shares |= dict.fromkeys(("gradient order", "single-head order"), share)
    ablated = {"answers": ["an answer"], "orders": [["order"], ["single"]], "heads": "h.png"}
    made_up = {
        "trained": {"minibert": [50.0]},
        "ablated": ablated | {"curves": "c.png"},
        "pruned": {"shares": pruned, "chance": {36: [0.5], 18: [0.4]}, "figure": "p.png"},
    }
    for name, value in made_up.items():
        monkeypatch.setattr(Study, name, lambda *_, value=value: value)
    page = study.make_page(finished)
    lines = page.splitlines()

    # The score is fitted to the dev documents of all collections of a kind.
    for kind in ("keyphrases", "tags"):
        record = json.loads((finished.out / f"fit-{kind}.json").read_text())
        names = [name for name, collection in COLLECTIONS.items() if collection.kind == kind]
        assert [*record["data"]] == [str(finished.data / name / "dev.jsonl") for name in names]
        count = sum(record["data"].values())
        (row,) = [line for line in lines if line.startswith(f"| {kind} | {count} | ")]
        assert f"| {100 * record['F1@10']:.1f} |" in row
        assert f" {', '.join(record['heads'])} |" in row

    for name, collection in COLLECTIONS.items():
        record = json.loads((finished.out / f"ranked-{name}.json").read_text())
        start = lines.index(f"### {collection.title} ({collection.kind})")
        table = [line for line in lines[start:] if line.startswith("| ")][1 : 1 + 10]
        assert [row.split(" | ")[0][2:] for row in table] == [*record["test"]]
        assert {len(row.split("|")) for row in table} == {7}
        for row in table[1:-1]:
            change = record["F1@10 above"][row.split(" | ")[0][2:]]
            assert row.endswith(
                f"{100 * change['value']:+.1f} [{100 * change['low']:+.1f}, "
                f"{100 * change['high']:+.1f}] |"
            )

    # One cell a collection says whether a sentence holds.
    verdicts = [line for line in lines if line.endswith(("hold |", "holds |"))]
    assert len(verdicts) == 4
    expected = [ranked["claims"] for ranked in finished.results()["ranked"].values()]
    for line in verdicts:
        claim, *cells = line.strip("| ").split(" | ")
        assert cells == ["holds" if c[claim] else "does not hold" for c in expected]
    assert "\n\n\n\n" not in page
