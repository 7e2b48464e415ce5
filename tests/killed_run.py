"""killed_run.py ENCODER OUT STEP: train a little, and die by SIGKILL after STEP (never, if -1)."""

import os
import signal
import sys
from pathlib import Path

import torch

from minibert import load_pretrained
from minibert.data import SAMPLE, make_split, read_documents
from minibert.tokenizer import Tokenizer
from minibert.training import TrainSettings, fit

encoder, out, kill_at = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
torch.manual_seed(0)
torch.set_num_threads(1)
model = load_pretrained(encoder, ("O", "I"))
tokenizer = Tokenizer.load(encoder, model.config.vocab_size)
split = make_split(read_documents(SAMPLE / "dev.jsonl")[:7], tokenizer, "io", ("O", "I"), 64)
settings = TrainSettings(out=out, epochs=3, batch_size=6, learning_rate=1e-2, device="cpu")


def die(step: int, *_: float) -> None:
    if step == kill_at:
        os.kill(os.getpid(), signal.SIGKILL)


fit(model, split, split, settings, die, save_every=0.0)
