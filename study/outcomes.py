"""What the experiments computed, read for the page. A missing result leaves out its row or case."""

import statistics
from collections import defaultdict
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from minibert.evaluation.intervals import Change, Score
from minibert.evaluation.metrics import Array
from minibert.report.results import from_json
from study.folder import Study
from study.plan import (
    ENCODERS,
    HEADS,
    KEYPHRASES,
    SEARCHES,
    SHARES,
    TASKS,
    UNTRAINED,
    EncoderName,
    Experiment,
    budgets,
    experiments,
)

TAGGER = "the trained tagger"  # as a way to rank keyphrases

Shares = dict[float, dict[int, Array]]
"""{share of heads kept: {seed: (1 + R,) the share of the dense score that is left}}"""


class Case(NamedTuple):
    """An encoder, and what it is used for: a task, a kind of keyphrases, or a search."""

    encoder: EncoderName

    subject: str

    @property
    def title(self) -> str:
        title = TASKS[self.subject].title if self.subject in TASKS else SEARCHES[self.subject]
        return title if self.encoder == "minilm" else f"{title}, {self.encoder}"

    def heads(self, share: float) -> str:
        """The title with a number of heads that are kept."""
        return f"{self.title} {round(share * HEADS[self.encoder])} heads"


class Outcomes:
    def __init__(self, study: Study):
        self.planned = experiments(study.size, [*ENCODERS])
        self.records = {
            experiment: study.record(experiment.name)
            for experiment in self.planned
            if study.file(experiment.name).exists()
        }
        self._results = {
            experiment.name: record["result"] for experiment, record in self.records.items()
        }

    def get(self, kind: str, case: Case, seed: int = 0, way: str = "") -> Any:
        """The result of an experiment; None if it is missing."""
        return self._results.get(Experiment(kind, *case, way, seed).name)

    def by_seed(self, kind: str, case: Case, way: str = "") -> dict[int, Any]:
        """{seed: result} of an experiment."""
        seeds = {
            e.seed
            for e in self.records
            if (e.kind, e.encoder, e.subject, e.way) == (kind, *case, way)
        }
        return {seed: self.get(kind, case, seed, way) for seed in sorted(seeds)}

    def cases(self, kind: str, way: str = "") -> list[Case]:
        """Those in which an experiment is done."""
        cases = [Case(e.encoder, e.subject) for e in self.planned]
        return [case for case in dict.fromkeys(cases) if self.by_seed(kind, case, way)]

    def machines(self, case: Case, seed: int) -> list[str]:
        """What computed the experiments with a tagger, except rank.py's, which use the CPU."""
        trained = [e for e in self.records if e.kind not in (*UNTRAINED, "marked")]
        records = [
            self.records[e] for e in trained if (e.encoder, e.subject, e.seed) == (*case, seed)
        ]
        return sorted({record.get("machine", "not recorded") for record in records})

    # Masking ------------------------------------------------------------------------------------

    def effects(self, case: Case, way: str) -> dict[str, float]:
        """{head: change of the loss on dev when it is masked}; empty if that was not measured."""
        single = self.get("single", case, way=way) or {"dev": {}}
        return {head: change["value"] for head, change in single["dev"].items()}

    def gradients(self, case: Case) -> dict[int, dict[str, float]]:
        """{seed: {head: importance by gradients on dev}}"""
        return {seed: r["gradient"] for seed, r in self.by_seed("importance", case).items()}

    def mean_gradients(self, case: Case) -> dict[str, float]:
        """{head: importance by gradients on dev, mean over the seeds}"""
        by_seed = [*self.gradients(case).values()]
        return {head: statistics.mean(of_seed[head] for of_seed in by_seed) for head in by_seed[0]}

    # Pruning ------------------------------------------------------------------------------------

    def shares(self, case: Case, kind: str, way: str = "") -> Shares:
        """What is left of the dense score on test. `kind` and `way` of experiments: frozen (heads
        kept with weights as they are, in an order), gates, recovered (fine-tuned) or scratch."""
        shares: Shares = defaultdict(dict)
        dense = self.by_seed("frozen", case, "gradient")
        for seed, result in self.by_seed(kind, case, way).items():
            for share, keep in zip(SHARES, budgets(case.encoder)):
                if seed in dense and (model := result["models"].get(str(keep))):
                    share_left = np.array(model["test"]) / np.array(dense[seed]["dense"])
                    shares[share][seed] = share_left
        return dict(shares)

    def draws(self, case: Case, share: float) -> dict[int, list[float]]:
        """{seed: the shares of the dense score that its draws of random heads leave}"""
        keep = str(round(share * HEADS[case.encoder]))
        dense = self.by_seed("frozen", case, "gradient")
        return {
            seed: [draw[keep] / dense[seed]["dense"][0] for draw in result["draws"].values()]
            for seed, result in self.by_seed("frozen", case, "random").items()
            if seed in dense
        }

    # Keyphrases and search ----------------------------------------------------------------------

    @cached_property
    def ranked_cases(self) -> list[Case]:
        return [case for case in self.cases("ranked") if case.subject in KEYPHRASES]

    def ranked(self, case: Case) -> dict[str, dict[str, Score]]:
        """{way: {measure: score}} of keyphrases on test, the trained tagger among the ways."""
        test = self.get("ranked", case)["test"]
        if marked := self.get("marked", case):
            test = test | {TAGGER: marked["test"]["tagger"]}
        return from_json(dict[str, dict[str, Score]], test)

    def above(self, case: Case) -> dict[str, Change]:
        """{way: how much the F1@10 of the chosen heads is above it}"""
        return from_json(dict[str, Change], self.get("ranked", case)["F1@10 above"])

    def searched(self, case: Case) -> dict[str, dict[str, Score]]:
        """{way: {measure: score}}"""
        return {
            way: {m: from_json(Score, v) for m, v in values.items() if not isinstance(v, float)}
            for way, values in self.get("searched", case)["test"].items()
        }
