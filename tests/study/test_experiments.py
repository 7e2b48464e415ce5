"""Every experiment once, on a tiny model and a few short documents, and the page of them."""

import json

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score
from tiny import randomise

import ablate
from minibert import BertConfig, save_pretrained
from minibert.config import head_name, parse_head
from minibert.data.corpus import SAMPLE
from minibert.evaluation.tagger import in_keyphrase, predict
from minibert.heads.ablation import masks_without
from minibert.model import Bert
from minibert.training.trained import load_run
from study import conclusions, experiments, plan, tables
from study.claims import Claim
from study.experiments import KINDS
from study.folder import Study, machine, split_file
from study.outcomes import Case, Outcomes
from study.page import make_page
from study.plan import TASKS, Experiment, Recovery, Settings, Size

LAYERS, WIDTH = 6, 2  # heads of a layer
SEEDS = 2
TINY = Size(
    documents={("minilm", "inspec-bio"): plan.Counts(4, 2, 3)},
    seeds={"minilm": SEEDS, "e5": 1},
    draws=3,
    paired=3,
    steps=3,
    recover={
        "kpcrowd500": Recovery((2, 1, 3), 5e-4, 2),
        "inspec-bio": Recovery((1, 1, 1), 5e-4, 2),
    },
    searched={"minilm": ("ir_cranfield",), "e5": ()},
    corpus=10,
)
WORDS = 40  # of a document
TIES = 2e-3  # in AP: float32 ranks two words of nearly the same log-odds one way or the other


def write_lines(path, objects) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(value) + "\n" for value in objects), encoding="utf-8")


def short_documents(split: str) -> list[dict]:
    """The beginnings of documents of the sample."""
    lines = (SAMPLE / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()[:6]
    documents = []
    for document in map(json.loads, lines):
        text = " ".join(document["text"].split()[:WORDS])
        phrases = [phrase for phrase in document["keyphrases"] if phrase.lower() in text.lower()]
        phrases = phrases or [text.split()[3].strip(".,")]
        documents.append({"id": document["id"], "text": text, "keyphrases": phrases})
    return documents


def write_collections(data) -> None:
    for split in ("train", "dev", "test"):
        documents = short_documents(split)
        for task in TASKS.values():
            if task.kind:
                write_lines(split_file(data / task.data, split), documents)
        tagged = [
            {
                "id": d["id"],
                "words": ["a", "red", "bridge", "falls"],
                "labels": ["D", "J", "N", "V"],
            }
            for d in documents
        ]
        write_lines(split_file(data / TASKS["inspec-pos"].data, split), tagged)

    documents = [document for split in ("train", "dev") for document in short_documents(split)]
    folder = data / "ir_cranfield"
    write_lines(folder / "corpus.jsonl", documents)
    queries = [
        {"id": f"q{i}", "text": " ".join(d["text"].split()[:5])} for i, d in enumerate(documents)
    ]
    write_lines(folder / "queries.jsonl", queries)
    judged = "".join(f"q{i}\t{d['id']}\t1\n" for i, d in enumerate(documents))
    (folder / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\n" + judged)


@pytest.fixture(scope="module")
def study(tmp_path_factory, pieces):
    """A study all of whose experiments with MiniLM ran, on a tiny encoder."""
    path = tmp_path_factory.mktemp("study")
    write_collections(path / "data")
    config = BertConfig(
        vocab_size=pieces.size,
        hidden_size=24,
        num_hidden_layers=LAYERS,
        num_attention_heads=WIDTH,
        intermediate_size=8,
        max_position_embeddings=128,
    )
    save_pretrained(randomise(Bert(config)), path / "encoder")
    pieces.save(path / "encoder")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "FULL", TINY)
        patch.setattr(ablate, "RESAMPLES", 20)
        patch.setattr(experiments, "RESAMPLES", 20)
        patch.setitem(plan.HEADS, "minilm", LAYERS * WIDTH)
        for name, task in [*TASKS.items()]:
            patch.setitem(TASKS, name, task._replace(epochs=1))
        patch.setattr(Study, "encoder", lambda self, name: str(path / "encoder"))

        small = Study(Settings(path / "data", out=path / "out"))
        small.copy_parts()
        for experiment in plan.experiments(TINY, ["minilm"]):
            small.write(experiment.name, 1.5, KINDS[experiment.kind](small, experiment))
        yield small


@pytest.fixture
def outcomes(study) -> Outcomes:
    return Outcomes(study)


PRUNED = Case("minilm", "kpcrowd500")


def ap(run, mask=None) -> float:
    """Average precision on test, by scikit-learn."""
    tagger = load_run(run)
    test, names = tagger.splits["test"], tagger.model.config.labels
    gold = np.concatenate(in_keyphrase(test.targets, names))
    return average_precision_score(gold, predict(tagger.model, test, mask).log_odds[0])


def test_the_smaller_collection_has_the_first_documents(study):
    run = study.tagger(Experiment("tagger", "minilm", "inspec-bio"))
    counts = {name: len(split.documents) for name, split in load_run(run).splits.items()}
    assert counts == {"train": 4, "dev": 2, "test": 3}
    assert study.results("tagger-minilm-inspec-bio-0")["documents"] == counts
    corpus = (study.collection("ir_cranfield") / "corpus.jsonl").read_text().splitlines()
    judged = (study.collection("ir_cranfield") / "qrels.tsv").read_text().splitlines()[1:]
    assert {line.split()[1] for line in judged} == {json.loads(line)["id"] for line in corpus}
    assert len(corpus) == 10


@pytest.mark.parametrize("seed", range(SEEDS))
@pytest.mark.parametrize("way", ["gradient", "zero"])
def test_scores_with_heads_masked_in_an_order(study, seed, way):
    if way == "zero" and seed > 0:
        pytest.skip("heads are masked alone in the first tagger only")
    run = study.tagger(Experiment("tagger", "minilm", "kpcrowd500", seed=seed))
    result = study.results(f"frozen-{way}-minilm-kpcrowd500-{seed}")
    assert result["dense"][0] == pytest.approx(ap(run), abs=TIES)

    if way == "gradient":
        values = study.results(f"importance-minilm-kpcrowd500-{seed}")["gradient"]
    else:
        single = study.results(f"single-zero-minilm-kpcrowd500-{seed}")["dev"]
        values = {head: effect["value"] for head, effect in single.items()}
    least_first = sorted(values, key=values.get)
    config = load_run(run).model.config
    for keep in (6, 3, 2, 1):
        masked = [parse_head(name) for name in least_first[: 12 - keep]]
        expected = ap(run, masks_without(config, [masked])[0])
        assert result["models"][str(keep)]["test"][0] == pytest.approx(expected, abs=TIES)


def test_random_draws_differ_and_are_divided_among_the_seeds(study):
    draws = {}
    for seed in range(SEEDS):
        of_seed = study.results(f"frozen-random-minilm-kpcrowd500-{seed}")["draws"]
        assert not draws.keys() & of_seed.keys()
        draws |= of_seed
    assert sorted(draws) == ["0", "1", "2"]

    run = study.tagger(Experiment("tagger", "minilm", "kpcrowd500", seed=1))
    config = load_run(run).model.config
    orders = {tuple(experiments.random_order(config, draw)) for draw in range(3)}
    assert len(orders) == 3
    masked = experiments.random_order(config, 1)[: 12 - 3]
    expected = ap(run, masks_without(config, [masked])[0])
    assert draws["1"]["3"] == pytest.approx(expected, abs=TIES)


def test_gates_keep_exact_numbers_and_their_order_ends_with_the_last_heads(study):
    result = study.results("gates-minilm-kpcrowd500-0")
    heads_by_number = {int(keep): model["heads"] for keep, model in result["models"].items()}
    assert {keep: len(heads) for keep, heads in heads_by_number.items()} == {6: 6, 3: 3, 2: 2, 1: 1}
    assert sorted(result["order"]) == [f"L{layer}H{head}" for layer in range(6) for head in (0, 1)]
    times = [sum(head in heads for heads in heads_by_number.values()) for head in result["order"]]
    assert times == sorted(times)

    run = study.tagger(Experiment("tagger", "minilm", "kpcrowd500"))
    config = load_run(run).model.config
    for keep, heads in heads_by_number.items():
        masked = [head for head in config.present_heads if head_name(head) not in heads]
        expected = ap(run, masks_without(config, [masked])[0])
        score = result["models"][str(keep)]["test"][0]
        assert score == pytest.approx(expected, abs=TIES)


@pytest.mark.parametrize(("way", "seed"), [("gates", 1), ("gradient", 0), ("random", 1)])
def test_every_way_is_fine_tuned_for_as_many_steps(study, way, seed):
    result = study.results(f"recovered-{way}-minilm-kpcrowd500-{seed}")["models"]
    assert {keep: model["steps"] for keep, model in result.items()} == {"3": 2, "2": 3, "1": 6}
    heads = [set(model["heads"]) for model in result.values()]
    assert heads[0] > heads[1] > heads[2]

    run = study.tagger(Experiment("tagger", "minilm", "kpcrowd500", seed=seed))
    if way == "gates":
        order = study.results(f"gates-minilm-kpcrowd500-{seed}")["order"]
    elif way == "gradient":
        values = study.results(f"importance-minilm-kpcrowd500-{seed}")["gradient"]
        order = sorted(values, key=values.get)
    else:
        order = [head_name(h) for h in experiments.random_order(load_run(run).model.config, seed)]
    assert heads[0] == set(order[-3:])


def test_a_tagger_from_scratch_has_the_size_of_the_pruned_one(study):
    run = study.folder / "minilm" / "inspec-bio-0-scratch"
    heads = study.results("gates-minilm-inspec-bio-0")["order"][-2:]
    config = BertConfig.load(run / "config.json")
    assert [head_name(head) for head in config.present_heads] == sorted(heads)
    models = study.results("scratch-minilm-inspec-bio-0")["models"]
    assert models["2"]["test"][0] == pytest.approx(ap(run), abs=TIES)
    start = BertConfig.load(study.folder / "minilm" / "inspec-bio-0-random-weights" / "config.json")
    assert start.present_heads == config.present_heads


def test_pairs_are_compared_with_the_sum_of_single_losses(study):
    result = study.results("pairs-minilm-semeval2017-0")
    values = study.results("importance-minilm-semeval2017-0")["gradient"]
    assert result["heads"] == sorted(values, key=values.get)[:3]

    tagger = load_run(study.tagger(Experiment("tagger", "minilm", "semeval2017")))
    dev, config = tagger.splits["dev"], tagger.model.config
    words = sum(map(len, dev.targets))

    def loss(*names: str) -> float:
        mask = masks_without(config, [[parse_head(name) for name in names]])[0]
        return predict(tagger.model, dev, mask).loss.sum() / words

    assert len(result["pairs"]) == 3
    sums, both = [], []
    for pair, effect in result["pairs"].items():
        first, second = pair.split()
        sums.append(loss(first) + loss(second) - 2 * loss())
        both.append(loss(first, second) - loss())
        assert effect["value"] == pytest.approx(both[-1] - sums[-1], abs=1e-6)
    assert result["sum"]["value"] == pytest.approx(np.mean(sums), abs=1e-6)
    assert result["both"]["value"] == pytest.approx(np.mean(both), abs=1e-6)
    expected = np.mean(both) - np.mean(sums)
    assert result["difference"]["value"] == pytest.approx(expected, abs=1e-6)


def test_results_hold_no_path_of_this_machine(study):
    for file in study.settings.results.glob("*.json"):
        assert str(study.folder.parent) not in file.read_text(), file.name
    fit = study.results("fit-minilm-keyphrases-0")
    assert [*fit["data"]] == ["inspec-bio", "semeval2017"]
    assert fit["model"] == "minilm"


def test_a_run_is_loaded_where_the_computing_is_done(study, monkeypatch):
    asked = []
    monkeypatch.setattr(
        experiments, "choose_device", lambda name: asked.append(name) or torch.device("meta")
    )
    tagger = experiments.load(study.tagger(Experiment("tagger", "minilm", "kpcrowd500")))
    assert asked == ["auto"]
    assert all(parameter.is_meta for parameter in tagger.model.parameters())


def test_page_says_what_computed_each_seed(study):
    outcomes = Outcomes(study)
    for experiment, record in outcomes.records.items():
        assert record["machine"] == machine()
        record["machine"] = "a GPU" if experiment.seed else f"that of {experiment.kind}"
    computed = {row[0]: row[-1] for row in tables.documents(outcomes)}["500N-KPCrowd"]
    first, second = computed.split("; ")
    assert second == "1: a GPU"
    assert "that of gates" in first
    assert "that of ranked" not in first


def test_ranking_goes_on_from_results_alone(study):
    """The files of rank.py lie outside the results, which may come from another machine."""
    (study.folder / "ranked" / "fit-minilm-tags-0.json").write_text("{}")
    again = KINDS["ranked"](study, Experiment("ranked", "minilm", "kpcrowd500"))
    assert again == study.results("ranked-minilm-kpcrowd500-0")


# The page ---------------------------------------------------------------------------------------


def test_shares_are_of_the_dense_score_of_the_same_seed(study, outcomes):
    shares = outcomes.shares(PRUNED, "frozen", "gradient")
    assert [*shares] == [*plan.SHARES]
    for share, keep in zip(plan.SHARES, (6, 3, 2, 1)):
        for seed in range(SEEDS):
            record = study.results(f"frozen-gradient-minilm-kpcrowd500-{seed}")
            expected = np.divide(record["models"][str(keep)]["test"], record["dense"])
            np.testing.assert_allclose(shares[share][seed], expected)
    draws = outcomes.draws(PRUNED, 1 / 2)
    assert {seed: len(of_seed) for seed, of_seed in draws.items()} == {0: 2, 1: 1}
    first = study.results("frozen-random-minilm-kpcrowd500-0")["draws"]["0"]["6"]
    dense = study.results("frozen-gradient-minilm-kpcrowd500-0")["dense"][0]
    assert first / dense in draws[0]


def test_gradients_are_averaged_over_the_seeds(outcomes):
    by_seed = [outcomes.get("importance", PRUNED, seed)["gradient"] for seed in range(SEEDS)]
    means = outcomes.mean_gradients(PRUNED)
    assert [*means] == [*by_seed[0]]
    for head, mean in means.items():
        assert mean == pytest.approx(np.mean([of_seed[head] for of_seed in by_seed]))
    assert means != by_seed[0]


def test_every_system_of_a_tagger_has_its_number(outcomes):
    header, *rows = tables.taggers(outcomes)
    shown = {(row[0], row[1]): dict(zip(header, row)) for row in rows}
    for case in outcomes.cases("tagger"):
        for system, scores in outcomes.get("tagger", case)["scores"].items():
            for measure in scores.keys() & {"AP", "entity F1"} or {"accuracy"}:
                assert shown[case.title, measure][system], (case, system, measure)


def test_ways_are_compared_on_the_seeds_that_both_have(outcomes):
    gradient, zero = (outcomes.shares(PRUNED, "frozen", way) for way in ("gradient", "zero"))
    claim = Claim("It is so")
    conclusions.compare(claim, PRUNED, gradient, zero, margin=0.01)
    assert len(claim.cases) == 4
    expected = 100 * (gradient[1 / 2][0] - zero[1 / 2][0] + 0.01)[0]
    evidence = claim.cases["500N-KPCrowd 6 heads"]
    assert evidence.direction == pytest.approx(expected)

    alone = Claim("It is so")  # the order by masking each head has one seed
    conclusions.compare(alone, PRUNED, gradient, zero, least=2)
    assert not alone.cases


def test_page_shows_every_result(study):
    page = make_page(study)
    assert "\n\n\n\n" not in page
    scores = [
        100 * study.results(f"tagger-minilm-kpcrowd500-{seed}")["scores"]["minibert"]["AP"]["value"]
        for seed in range(SEEDS)
    ]
    mean = f"{np.mean(scores):.1f}"
    assert f"| 500N-KPCrowd | AP | {mean}" in page

    # Every table has as many cells in each row, and each sentence a verdict.
    for block in page.split("\n\n"):
        rows = [line for line in block.splitlines() if line.startswith("|")]
        assert len({row.count("|") for row in rows}) <= 1, block
    sentences = [line for line in page.splitlines() if line.startswith("- ") and "**" in line]
    assert len(sentences) > 20
    for name in ("study-kept-minilm-kpcrowd500.png", "study-kept-minilm-inspec-bio.png"):
        assert f"]({name})" in page
        assert (study.settings.page.parent / name).stat().st_size


def test_page_is_made_from_whatever_results_exist(study, monkeypatch):
    planned = plan.experiments(TINY, ["minilm"])
    exists = {experiment.name for experiment in planned}
    monkeypatch.setattr(tables, "draw_kept", lambda *_: "figure.png")

    def page(names: set[str]) -> str:
        def read(self, study):
            self.planned = planned
            self.records = {e: study.record(e.name) for e in planned if e.name in names}
            self._results = {e.name: record["result"] for e, record in self.records.items()}

        monkeypatch.setattr(Outcomes, "__init__", read)
        return make_page(study)

    assert f"of which 0 of {len(planned)} are done" in " ".join(page(set()).split())
    kinds = {(experiment.kind, experiment.way) for experiment in planned}
    for kind in kinds:
        page({e.name for e in planned if (e.kind, e.way) != kind})
        page({e.name for e in planned if (e.kind, e.way) == kind})
    for seed in range(SEEDS):
        page(exists - {e.name for e in planned if e.seed == seed})
