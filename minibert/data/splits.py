"""Documents -> train, dev and test, with near-duplicates in one split."""

import random
from collections import Counter, defaultdict
from itertools import combinations

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from minibert.data.documents import Document
from minibert.errors import check

SHARES = {"train": 0.7, "dev": 0.1, "test": 0.2}

RUN_LENGTH = 5  # words of a run that two documents may share

BOILERPLATE = 20  # a run that more documents share says nothing about any two of them


def split_documents(documents: list[Document], seed: int = 0) -> dict[str, list[Document]]:
    """70 % train, 10 % dev, 20 % test at random. Near-duplicates stay together: the same story
    printed twice would leak from train into test. Raises InputError for too few documents."""
    groups = near_duplicates(documents)
    few = f"{len(documents)} documents are too few to split into train, dev and test"
    check(len(groups) >= 3, few)

    # The smallest two groups go to dev and test, so that neither is empty or grows too large. Then
    # the largest group first, each to the split that lacks most documents.
    random.Random(seed).shuffle(groups)
    groups.sort(key=len)
    splits = {"train": [], "dev": groups[0], "test": groups[1]}
    for group in reversed(groups[2:]):
        missing = {name: SHARES[name] * len(documents) - len(splits[name]) for name in splits}
        name = max(missing, key=missing.__getitem__)
        splits[name] = splits[name] + group

    place = {document.id: i for i, document in enumerate(documents)}
    return {name: sorted(part, key=lambda d: place[d.id]) for name, part in splits.items()}


def near_duplicates(documents: list[Document]) -> list[list[Document]]:
    """Documents in groups, in their order. Two are near-duplicates if more than half of the shorter
    one's five-word runs are in the other too; a group holds the near-duplicates of each member."""
    # Which documents hold each run, and how many different runs each document has.
    holders: dict[tuple[str, ...], list[int]] = defaultdict(list)
    sizes = []
    for i, document in enumerate(documents):
        forms = document.forms()
        starts = range(max(1, len(forms) - RUN_LENGTH + 1))
        runs = {tuple(forms[start : start + RUN_LENGTH]) for start in starts}
        sizes.append(len(runs))
        for run in runs:
            holders[run].append(i)

    shared = Counter(
        pair
        for numbers in holders.values()
        if len(numbers) <= BOILERPLATE
        for pair in combinations(numbers, 2)
    )

    # Near-duplicates are the edges of a graph, and groups are its connected components.
    edges = [(i, j) for (i, j), count in shared.items() if 2 * count > min(sizes[i], sizes[j])]
    rows, columns = np.array(edges, dtype=np.int64).reshape(-1, 2).T
    graph = coo_array((np.ones(len(edges)), (rows, columns)), shape=(len(documents),) * 2)
    _, components = connected_components(graph, directed=False)

    groups: dict[int, list[Document]] = defaultdict(list)
    for component, document in zip(components.tolist(), documents):
        groups[component].append(document)
    return list(groups.values())
