"""The loop that users of transformers write: one full evaluation for each masked head.

ablation_peer.py MODEL WINDOWS BATCH_SIZE prints the version of transformers. Then it reads lists of
(layer, head) from standard input, runs the loop over each, and prints for each head the sum of the
logits' absolute values. transformers 4 takes `head_mask`. transformers 5 does not, so there the
head's columns of the output projection are set to zero.
"""

import json
import os
import sys

import torch
import transformers

MODEL, WINDOWS, BATCH = sys.argv[1], sys.argv[2], int(sys.argv[3])
OLD = transformers.__version__.startswith("4.")

transformers.utils.logging.disable_progress_bar()
torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
model = transformers.AutoModelForTokenClassification.from_pretrained(
    MODEL, attn_implementation="eager" if OLD else "sdpa"
).eval()
with open(WINDOWS) as file:
    windows = json.load(file)
layers, heads = model.config.num_hidden_layers, model.config.num_attention_heads
size = model.config.hidden_size // heads


def evaluate(head_mask: torch.Tensor | None = None) -> float:
    total = 0.0
    for start in range(0, len(windows), BATCH):
        batch = windows[start : start + BATCH]
        length = max(map(len, batch))
        ids = torch.tensor([w + [0] * (length - len(w)) for w in batch])
        mask = torch.tensor([[1] * len(w) + [0] * (length - len(w)) for w in batch])
        masking = {"head_mask": head_mask} if head_mask is not None else {}
        logits = model(ids, attention_mask=mask, **masking).logits
        total += float(logits[mask.bool()].double().abs().sum())
    return total


def without(layer: int, head: int) -> float:
    if OLD:
        mask = torch.ones(layers, heads)
        mask[layer, head] = 0
        return evaluate(mask)

    weight = model.bert.encoder.layer[layer].attention.output.dense.weight
    columns = slice(head * size, (head + 1) * size)
    original = weight[:, columns].clone()
    weight[:, columns] = 0
    total = evaluate()
    weight[:, columns] = original
    return total


print(json.dumps(transformers.__version__), flush=True)
with torch.no_grad():
    for line in sys.stdin:
        print(json.dumps([without(layer, head) for layer, head in json.loads(line)]), flush=True)
