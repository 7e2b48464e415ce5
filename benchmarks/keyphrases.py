"""Keyphrases per second, beside KeyBERT with the same model, and beside the bare forward pass.

python -m benchmarks.keyphrases. KeyBERT embeds each document and each of its n-grams;
ours reads the attention of one forward pass over the document. Without KeyBERT its rows are left
out.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from statistics import median

import torch

from benchmarks.workload import markdown, ratio
from minibert.data.batches import chunks, collate, make_batches
from minibert.data.corpus import SAMPLE, read_documents
from minibert.data.documents import Document
from minibert.heads.costs import take_turns
from minibert.hub import DEFAULT_MODEL, find_model
from minibert.keyphrases.ranker import Ranker, RankSettings
from minibert.runtime import cli


@dataclass(frozen=True)
class Settings:
    data: Path = SAMPLE / "test.jsonl"
    """JSONL of texts."""

    documents: int = 40

    rounds: int = 5

    threads: int = 1


def run(settings: Settings) -> None:
    torch.set_num_threads(settings.threads)
    documents = read_documents(settings.data)[: settings.documents]
    jobs = {
        "ours": partial(rank, Ranker(RankSettings(top=10)), documents),
        "ours, --diversity 0.5": partial(
            rank, Ranker(RankSettings(top=10, diversity=0.5)), documents
        ),
        "forward pass alone": partial(forward, Ranker(RankSettings()), documents),
    }
    if find_spec("keybert"):
        jobs |= keybert_jobs([document.text for document in documents])
    seconds = take_turns(jobs, settings.rounds)

    rows = [["", "time / ours", "documents/s"]]
    for name, times in seconds.items():
        speed = len(documents) / median(times)
        rows.append([name, ratio(times, seconds["ours"]), f"{speed:.2f}"])
    print(
        f"{len(documents)} documents, {settings.threads} thread(s), medians of {settings.rounds} "
        f"rounds\n\n{markdown(rows)}"
    )


def rank(ranker: Ranker, documents: Sequence[Document]) -> None:
    for part in chunks(documents):
        for analysis in ranker.analyse(part):
            ranker.keyphrases(analysis)


@torch.no_grad()
def forward(ranker: Ranker, documents: Sequence[Document]) -> None:
    for group in make_batches(ranker.windows(documents), 4096):
        batch = collate(group)
        ranker.bert(batch.input_ids, batch.attention_mask)


def keybert_jobs(texts: list[str]) -> dict[str, Callable[[], object]]:
    """KeyBERT with the same model."""
    from keybert import KeyBERT
    from sentence_transformers import SentenceTransformer

    peer = KeyBERT(SentenceTransformer(str(find_model(DEFAULT_MODEL)), device="cpu"))
    extract = partial(peer.extract_keywords, texts, stop_words="english", top_n=10)
    return {
        "KeyBERT, single words": partial(extract, keyphrase_ngram_range=(1, 1)),
        "KeyBERT, one to three words": partial(extract, keyphrase_ngram_range=(1, 3)),
    }


main = partial(cli.run, run, Settings, __doc__)

if __name__ == "__main__":
    sys.exit(main())
