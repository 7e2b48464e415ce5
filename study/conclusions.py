"""The sentences of the page, each with its evidence from the results."""

from itertools import combinations

from minibert.evaluation.intervals import Change
from minibert.keyphrases.choice import ALL_HEADS, BEST_HEAD, NO_ATTENTION, THESE, UNIFORM
from minibert.report.results import from_json
from study.claims import Claim, Evidence, above_draws, apart, change, correlation, difference
from study.outcomes import TAGGER, Case, Outcomes, Shares

PAGERANK = "PageRank of these"  # as a way to rank keyphrases, and to weight words in search
AS_GOOD = 0.01  # of the dense score: a way that is at most so far behind is as good
GOALS = {1 / 4: ("A quarter", 0.98), 1 / 6: ("A sixth", 0.96), 1 / 12: ("A twelfth", 0.94)}


# Which heads matter? ----------------------------------------------------------------------------


def single_heads(outcomes: Outcomes) -> list[Claim]:
    """Whether ways to measure the importance of heads are correlated."""
    attention = Claim("A head's gradient is correlated with how well it attends to keyphrases")
    gradients = Claim("A head's gradient is correlated with what masking it costs")
    means = Claim("What masking a head costs is correlated between zero and mean ablation")
    pairs = Claim(
        "Masking two of the heads with the smallest gradients costs more than the sum, in the mean"
    )
    for case in outcomes.cases("importance"):
        by_seed = outcomes.by_seed("importance", case)
        for seed, importance in by_seed.items():
            if "attention" in importance:
                evidence = correlation(importance["attention"], importance["gradient"])
                attention.add(f"{case.title} seed {seed}", evidence)
        zero, mean = (outcomes.effects(case, way) for way in ("zero", "mean"))
        if 0 in by_seed and zero:
            gradients.add(case.title, correlation(by_seed[0]["gradient"], zero))
        if zero and mean:
            means.add(case.title, correlation(zero, mean))
    for case in outcomes.cases("pairs"):
        effect = from_json(Change, outcomes.get("pairs", case)["difference"])
        pairs.add(case.title, change(effect, 1e6))
    return [attention, gradients, means, pairs]


def agreement(outcomes: Outcomes) -> list[Claim]:
    """Whether the importance of heads by gradients is correlated between taggers, and whether it is
    within layers: some layers matter more than others for every task."""
    claims = []
    for within in (False, True):
        too = ", within layers too" if within else ""
        between = "The gradients of heads are correlated between "
        seeds = Claim(f"{between}seeds{too}")
        collections = Claim(f"{between}collections of keyphrases{too}")
        speech = Claim(f"{between}keyphrases and part of speech{too}")
        claims += [seeds, collections, speech]

        cases = outcomes.cases("importance")
        for case in cases:
            for (first, a), (second, b) in combinations(outcomes.gradients(case).items(), 2):
                seeds.add(f"{case.title} seeds {first} and {second}", correlation(a, b, within))

        for one, other in combinations(cases, 2):
            if one.encoder != other.encoder:
                continue
            gradients = [outcomes.mean_gradients(case) for case in (one, other)]
            if {one.subject, other.subject} == {"inspec-bio", "inspec-pos"}:
                speech.add(f"{one.title} and {other.title}", correlation(*gradients, within))
            elif "inspec-pos" not in (one.subject, other.subject):
                collections.add(f"{one.title} and {other.title}", correlation(*gradients, within))
    return claims


# Which heads can go? ----------------------------------------------------------------------------


def frozen(outcomes: Outcomes) -> list[Claim]:
    """Which choices of heads are better than others, with weights as they are."""
    level = Claim("Gates are less than one point behind the gradient order")
    better = Claim("Gates keep more of the score than the gradient order")
    single = Claim("The gradient order keeps more than the order by masking each head")
    means = Claim("Heads ordered by mean ablation keep more than heads ordered by zero ablation")
    gates_random = Claim("Gates keep more than random heads")
    gradient_random = Claim("The gradient order keeps more than random heads")
    half = Claim("Half of the heads, chosen by gates, keep at least 98 % of the score")

    for case in outcomes.cases("frozen", "gradient"):
        gates = outcomes.shares(case, "gates")
        gradient, zero, mean = (
            outcomes.shares(case, "frozen", way) for way in ("gradient", "zero", "mean")
        )
        compare(level, case, gates, gradient, AS_GOOD)
        compare(better, case, gates, gradient)
        compare(single, case, gradient, zero)
        compare(means, case, mean, zero)

        for claim, shares in ((gates_random, gates), (gradient_random, gradient)):
            for share, by_seed in shares.items():
                values = {seed: float(v[0]) for seed, v in by_seed.items()}
                draws = outcomes.draws(case, share)
                if values.keys() & draws.keys():
                    claim.add(case.heads(share), above_draws(values, draws))
        if 1 / 2 in gates:
            half.add(case.title, difference(gates[1 / 2], 0.98))
    return [level, better, gates_random, gradient_random, single, means, half]


def tuned(outcomes: Outcomes) -> list[Claim]:
    """The same after fine-tuning."""
    gates_random = Claim("After fine-tuning, heads chosen by gates keep more than random ones")
    gradient_random = Claim("After fine-tuning, heads by gradients keep more than random ones")
    gradients = Claim("After fine-tuning, heads chosen by gates keep more than heads by gradients")
    scratch = Claim("A sixth of the heads, fine-tuned, are better than a tagger from scratch")
    goals = {
        share: Claim(
            f"{name} of the heads, fine-tuned, keep at least {100 * goal:.0f} % of the score"
        )
        for share, (name, goal) in GOALS.items()
    }

    for case in outcomes.cases("recovered", "gates"):
        gates, gradient, random = (
            outcomes.shares(case, "recovered", way) for way in ("gates", "gradient", "random")
        )
        compare(gates_random, case, gates, random, least=2)  # one draw says nothing about others
        compare(gradient_random, case, gradient, random, least=2)
        compare(gradients, case, gates, gradient)
        compare(scratch, case, gates, outcomes.shares(case, "scratch"))
        for share, claim in goals.items():
            if share in gates:
                claim.add(case.title, difference(gates[share], GOALS[share][1]))
    return [gates_random, gradient_random, gradients, scratch, *goals.values()]


def compare(
    claim: Claim, case: Case, first: Shares, second: Shares, margin: float = 0.0, least: int = 1
) -> None:
    """Add, for each number of heads, that `first` keeps more than `second` less the margin, where
    both have at least so many seeds in common."""
    for share in first:
        others = {seed: values - margin for seed, values in second.get(share, {}).items()}
        if len(first[share].keys() & others.keys()) >= least:
            claim.add(case.heads(share), difference(first[share], others))


# What are the heads good for? -------------------------------------------------------------------


def keyphrases(outcomes: Outcomes) -> list[Claim]:
    """Whether the chosen heads rank keyphrases better than each control."""
    sentences = {
        NO_ATTENTION: "Attention adds to occurrences, position and length",
        ALL_HEADS: "Chosen heads, less contrast heads, rank keyphrases better than all heads",
        BEST_HEAD: "Chosen heads rank keyphrases better than the best head of dev",
        UNIFORM: "Chosen heads rank keyphrases better than uniform weights under their score",
        "first candidates": "The score with chosen heads is better than the first candidates",
        "frequency": "The score with chosen heads is better than frequency",
        "TextRank": "The score with chosen heads is better than TextRank",
        PAGERANK: "Chosen heads rank better than PageRank of them under their score",
    }
    claims = {way: Claim(sentence) for way, sentence in sentences.items()}
    random = Claim("Chosen heads rank keyphrases better than random heads")
    tagger = Claim("Chosen heads of an untrained encoder rank better than the trained tagger")
    for case in outcomes.ranked_cases:
        for way, effect in outcomes.above(case).items():
            if way in claims:
                claims[way].add(case.title, change(effect))
        scores = {way: values["F1@10"] for way, values in outcomes.ranked(case).items()}
        draws = outcomes.get("ranked", case)["F1@10 of random heads"]
        random.add(case.title, above_draws({0: scores[THESE].value}, {0: draws}))
        if TAGGER in scores:
            tagger.add(case.title, apart(scores[THESE], scores[TAGGER]))
    return [*claims.values(), random, tagger]


def search(outcomes: Outcomes) -> list[Claim]:
    """Whether the heads for keyphrases help search, against BM25 and random heads, and whether
    PageRank of them, and all heads, do."""
    claims = []
    for measure in ("nDCG@10", "MAP", "R@100"):
        subjects = {
            THESE: "The heads for keyphrases raise",
            PAGERANK: "PageRank of the heads for keyphrases raises",
            ALL_HEADS: "All heads raise",
        }
        bm25 = {way: Claim(f"{verb} {measure} above BM25") for way, verb in subjects.items()}
        random = Claim(f"The heads for keyphrases raise {measure} more than random heads")
        for case in outcomes.cases("searched"):
            ways, record = outcomes.searched(case), outcomes.get("searched", case)
            for way, claim in bm25.items():
                gain = ways[way][measure].value - ways[record["baseline"]][measure].value
                p = record["test"][way][f"p {measure}"]
                claim.add(case.title, Evidence(gain, p, f"{100 * gain:+.1f}, p {p:.3f}"))
            draws = record["random heads"][measure]
            random.add(case.title, above_draws({0: ways[THESE][measure].value}, {0: draws}))
        claims += [*bm25.values(), random]
    return claims
