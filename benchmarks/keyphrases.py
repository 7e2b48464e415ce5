"""Keyphrases per second, beside KeyBERT with the same model, and beside the bare forward pass.

python -m benchmarks.keyphrases --data FILE. KeyBERT embeds each document and each of its n-grams;
ours reads the attention of one forward pass over the document.
"""

import sys
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from statistics import median

import torch

from benchmarks.workload import machine
from minibert.data.batches import collate, make_batches, make_windows
from minibert.data.corpus import read_documents
from minibert.errors import InputError
from minibert.heads.costs import take_turns
from minibert.hub import DEFAULT_MODEL, find_model
from minibert.keyphrases.ranker import Ranker, RankSettings
from minibert.runtime import cli


@dataclass(frozen=True)
class Settings:
    data: Path
    """JSONL of texts."""

    documents: int = 40

    rounds: int = 5

    threads: int = 1


def run(settings: Settings) -> None:
    if not find_spec("keybert"):
        raise InputError("the peer is missing: pip install keybert")
    from keybert import KeyBERT
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(settings.threads)
    documents = read_documents(settings.data)[: settings.documents]
    texts = [document.text for document in documents]
    ranker = Ranker(RankSettings(top=10))
    peer = KeyBERT(SentenceTransformer(str(find_model(DEFAULT_MODEL)), device="cpu"))

    def ours() -> None:
        for document, analysis in zip(documents, ranker.analyse(documents)):
            ranker.keyphrases(document, *analysis)

    @torch.no_grad()
    def forward() -> None:
        windows = make_windows(documents, ranker.tokenizer, ranker.max_length)
        for group in make_batches(windows, 4096):
            batch = collate(group)
            ranker.bert(batch.input_ids, batch.attention_mask)

    def theirs(words: int) -> None:
        peer.extract_keywords(
            texts, keyphrase_ngram_range=(1, words), stop_words="english", top_n=10
        )

    jobs = {
        "ours": ours,
        "forward pass alone": forward,
        "KeyBERT, single words": lambda: theirs(1),
        "KeyBERT, one to three words": lambda: theirs(3),
    }
    seconds = take_turns(jobs, settings.rounds)

    print(f"{len(texts)} documents, {machine()}, {settings.threads} thread(s), medians")
    for name, times in seconds.items():
        ratio = median(time / ours for time, ours in zip(times, seconds["ours"]))
        print(f"{name:30}{len(texts) / median(times):8.2f} documents/s, {ratio:5.2f}x our time")


main = partial(cli.run, run, Settings, __doc__)

if __name__ == "__main__":
    sys.exit(main())
