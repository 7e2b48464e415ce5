"""The tables of the page, as rows of cells, and its figures."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from minibert.evaluation.intervals import Change, Score, interval
from minibert.evaluation.metrics import Array, main_measure
from minibert.keyphrases.choice import ALL_HEADS, BEST_HEAD, NO_ATTENTION, THESE
from minibert.output.numbers import percent
from minibert.report import figures
from minibert.report.results import from_json
from study.claims import change
from study.outcomes import TAGGER, Case, Outcomes, Shares
from study.plan import ENCODERS, HEADS, KINDS, PRUNED_TASKS, SHARES, TASKS, budgets

Rows = list[list[str]]

ORDERS = {"gradient": "gradients", "zero": "masking each", "mean": "mean ablation of each"}
WAYS = ("gates", "gradient", "random")  # to choose the heads that are fine-tuned
BASELINES = ("word prior", "no stop words", "word's commonest label")
SPLITS = ("train", "dev", "test")
SHOWN = ("F1@10", "F1@O", "P@10")


def as_markdown(rows: Rows) -> str:
    first, *others = ["| " + " | ".join(cells) + " |" for cells in rows]
    return "\n".join([first, "|" + "---|" * len(rows[0]), *others])


def taggers(outcomes: Outcomes) -> Rows:
    rows = [["task", "measure", "minibert", *BASELINES]]
    for case in outcomes.cases("tagger"):
        runs = [run["scores"] for run in outcomes.by_seed("tagger", case).values()]
        for measure in (main_measure(runs[0]["minibert"]), "entity F1"):
            if measure in runs[0]["minibert"]:
                systems = [
                    [run[system][measure] for run in runs if measure in run.get(system, {})]
                    for system in ("minibert", *BASELINES)
                ]
                rows.append([case.title, measure, *map(seeds_cell, systems)])
    return rows


def seeds_cell(scores: Sequence[Mapping[str, float]]) -> str:
    """The mean over seeds of a score, that of the ends of its intervals, and the range of seeds."""
    if not scores:
        return ""
    score = Score(*(statistics.mean(s[end] for s in scores) for end in ("value", "low", "high")))
    values = [s["value"] for s in scores]
    low, high = (f"{100 * value:.1f}" for value in (min(values), max(values)))
    return percent(score) + (f"; {low} to {high}" if low != high else "")


def documents(outcomes: Outcomes) -> Rows:
    """How many documents each task has, as far as it was run, and what computed it."""
    rows = [["task", *SPLITS, "seeds", "computed on"]]
    for case in outcomes.cases("tagger"):
        runs = outcomes.by_seed("tagger", case)
        counts = next(iter(runs.values()))["documents"]
        machines = [f"{seed}: {', '.join(outcomes.machines(case, seed))}" for seed in runs]
        numbers = [*(counts[split] for split in SPLITS), len(runs)]
        rows.append([case.title, *map(str, numbers), "; ".join(machines)])
    return rows


# Masking ----------------------------------------------------------------------------------------


def single_heads(outcomes: Outcomes) -> Rows:
    rows = [["task", "replaced by", "heads", "raise the loss", "lower it", "confirmed on test"]]
    for way in ("zero", "mean"):
        for case in outcomes.cases("single", way):
            rows.append([case.title, way, *count_effects(outcomes.get("single", case, way=way))])
    return rows


def count_effects(single: Mapping[str, Any]) -> list[str]:
    """The number of heads; how many of them raise the loss on dev significantly, and lower it; how
    many of both do the same on test, significantly."""
    dev, test = (from_json(dict[str, Change], single[split]) for split in ("dev", "test"))
    significant = {head: effect.value for head, effect in dev.items() if effect.significant}
    raised = sum(value > 0 for value in significant.values())
    confirmed = sum(
        test[head].significant and test[head].value * value > 0
        for head, value in significant.items()
    )
    of_all = f"{confirmed} of {len(significant)}"
    return [str(len(dev)), str(raised), str(len(significant) - raised), of_all]


def pairs(outcomes: Outcomes) -> Rows:
    rows = [["task", "pairs", "sum of both losses", "loss of both", "more than the sum", "less"]]
    for case in outcomes.cases("pairs"):
        result = outcomes.get("pairs", case)
        effects = from_json(dict[str, Change], result["pairs"]).values()
        more = sum(effect.significant and effect.value > 0 for effect in effects)
        less = sum(effect.significant and effect.value < 0 for effect in effects)
        losses = [from_json(Score, result[name]) for name in ("sum", "both")]
        cells = [f"{s.value:.4f} [{s.low:.4f}, {s.high:.4f}]" for s in losses]
        rows.append([case.title, str(len(effects)), *cells, str(more), str(less)])
    return rows


# Pruning ----------------------------------------------------------------------------------------


def frozen(outcomes: Outcomes, case: Case) -> Rows:
    """Shares of the dense score with weights as they are."""
    ways = {"gates": outcomes.shares(case, "gates")}
    ways |= {
        f"order by {name}": outcomes.shares(case, "frozen", way) for way, name in ORDERS.items()
    }
    rows = share_rows(case, ways)
    if outcomes.draws(case, SHARES[0]):
        rows[0].append("random heads")
        for cells, share in zip(rows[1:], SHARES):
            draws = [100 * d for draws in outcomes.draws(case, share).values() for d in draws]
            cells.append(f"{min(draws):.1f} to {max(draws):.1f} ({len(draws)} draws)")
    return rows


def tuned(outcomes: Outcomes, case: Case) -> Rows:
    """Shares of the dense score after fine-tuning."""
    ways = {way: outcomes.shares(case, "recovered", way) for way in WAYS}
    return share_rows(case, ways | {"from scratch": outcomes.shares(case, "scratch")})


def share_rows(case: Case, ways: Mapping[str, Shares]) -> Rows:
    """A row for each number of heads that one of the ways has, a column for each way."""
    ways = {way: shares for way, shares in ways.items() if shares}
    rows = [["heads kept", *ways]]
    for share, keep in zip(SHARES, budgets(case.encoder)):
        if any(share in shares for shares in ways.values()):
            rows.append([str(keep), *(share_cell(s.get(share, {})) for s in ways.values())])
    return rows


def share_cell(by_seed: Mapping[int, Array]) -> str:
    """The mean over seeds in percent, its interval, and the lowest and the highest seed."""
    if not by_seed:
        return ""
    seeds = [100 * values[0] for values in by_seed.values()]
    several = f"; {len(seeds)} seeds, {min(seeds):.1f} to {max(seeds):.1f}"
    span = several if len(seeds) > 1 else "; 1 seed"
    return percent(interval(mean_of(by_seed))) + span


def mean_of(by_seed: Mapping[int, Array]) -> Array:
    return np.mean([*by_seed.values()], axis=0)


def draw_kept(outcomes: Outcomes, case: Case, folder: Path) -> str:
    """Draw the shares by number of heads. Returns the name of the file in `folder`."""
    ways = {"gates": outcomes.shares(case, "gates")}
    ways["gradients"] = outcomes.shares(case, "frozen", "gradient")
    ways |= {f"{way}, fine-tuned": outcomes.shares(case, "recovered", way) for way in WAYS}
    lines = {
        way: {
            round(share * HEADS[case.encoder]): interval(mean_of(by_seed))
            for share, by_seed in shares.items()
        }
        for way, shares in ways.items()
        if shares
    }
    random = {}
    for share, keep in zip(SHARES, budgets(case.encoder)):
        if draws := outcomes.draws(case, share):
            random[keep] = [draw for of_seed in draws.values() for draw in of_seed]
    name = f"study-kept-{case.encoder}-{case.subject}.png"
    figures.draw_kept(folder / name, lines, random, 1.0, "share of the dense score on test")
    return name


# Keyphrases -------------------------------------------------------------------------------------


def fits(outcomes: Outcomes) -> Rows:
    controls = (NO_ATTENTION, ALL_HEADS, BEST_HEAD)
    rows = [["encoder", "kind", "dev", "heads", "contrast heads", "F1@10 on dev", *controls]]
    for encoder, title in ENCODERS.items():
        for kind in KINDS:
            if fit := outcomes.get("fit", Case(encoder, kind)):
                scores = [fit["F1@10"], *(fit["controls"][name]["F1@10"] for name in controls)]
                heads = [", ".join(fit[name]) for name in ("heads", "contrast")]
                documents = str(sum(fit["data"].values()))
                cells = [f"{100 * score:.1f}" for score in scores]
                rows.append([title, kind, documents, *heads, *cells])
    return rows


def ranked(outcomes: Outcomes, case: Case) -> Rows:
    rows = [["way", *SHOWN, "F1@10, these heads less it"]]
    above = outcomes.above(case)
    for way, scores in outcomes.ranked(case).items():
        difference = change(above[way]).text if way in above else ""
        rows.append([way, *(percent(scores[measure]) for measure in SHOWN), difference])
    return rows


# Beside published figures -----------------------------------------------------------------------

PUBLISHED = (
    (
        "Inspec, F1@10: SAMRank, mean of the heads of BERT-base",
        "36.7",
        "inspec-bio",
        "F1@10",
        ALL_HEADS,
    ),
    ("Inspec, F1@10: SAMRank, best head, chosen on test", "40.0", "inspec-bio", "F1@10", THESE),
    ("Inspec, F1@10: Attention-Seeker, 8 billion parameters", "40.1", "inspec-bio", "F1@10", THESE),
    ("Inspec, F1@10: KBIR, large, supervised", "41", "inspec-bio", "F1@10", TAGGER),
    ("500N-KPCrowd, P@10: YAKE", "45.6", "kpcrowd500", "P@10", THESE),
    ("500N-KPCrowd, P@10: tf-idf of words", "47.8", "kpcrowd500", "P@10", THESE),
)


def published(outcomes: Outcomes) -> Rows:
    """Figures of others beside ours on the same collection."""
    rows = [["what", "published", "here", "by"]]
    for what, figure, task, measure, way in PUBLISHED:
        case = Case("minilm", task)
        if case in outcomes.ranked_cases and way in outcomes.ranked(case):
            rows.append([what, figure, percent(outcomes.ranked(case)[way][measure]), way])
    return rows + published_prunings(outcomes)


def published_prunings(outcomes: Outcomes) -> Rows:
    """The published shares of the dense score that fine-tuned models with fewer heads keep, beside
    ours."""
    rows = []
    for share, figure in {1 / 4: "94.7", 1 / 6: "93.4"}.items():
        for task in PRUNED_TASKS:
            shares = outcomes.shares(Case("minilm", task), "recovered", "gates")
            if share in shares:
                what = f"{share:.0%} of the heads, fine-tuned: Greedy-Gnorm, BERT-base, MNLI"
                here = f"{share_cell(shares[share])} ({TASKS[task].title})"
                rows.append([what, figure, here, "gates"])
    return rows
