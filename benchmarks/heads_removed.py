"""A forward pass with fewer heads, beside the whole model and the speed-up that FLOPs allow.

python -m benchmarks.heads_removed. The same share of the heads of each layer is removed. What a
task loses is in docs/study.md.
"""

import sys
from dataclasses import dataclass
from functools import partial

import torch

from benchmarks.workload import Lengths, Workload, markdown
from minibert.heads.costs import compare_costs
from minibert.pruning import prune
from minibert.runtime import cli

SHARES = (1 / 2, 1 / 6)  # of the heads of each layer


@dataclass(frozen=True)
class Settings(Workload):
    lengths: tuple[Lengths, ...] = ("mixed",)

    documents: int = 8


def run(settings: Settings) -> None:
    torch.set_num_threads(settings.threads)
    dense = settings.model()
    models = {"all": dense}
    layers, heads = dense.config.num_hidden_layers, dense.config.num_attention_heads
    for share in SHARES:
        mask = torch.zeros(layers, heads)
        mask[:, : round(share * heads)] = 1
        models[f"{int(mask.sum())} of {mask.numel()}"] = prune(dense, mask)

    rows = [["heads", "tokens/s", "attention faster", "model faster", "FLOPs allow"]]
    windows = settings.split(settings.lengths[0], dense.config).windows
    for name, cost in compare_costs(models, windows, settings.rounds).items():
        ratios = (cost.attention_speedup, cost.speedup, cost.allowed_speedup)
        rows.append([name, f"{cost.tokens_per_second:,.0f}", *(f"{r:.2f}" for r in ratios)])
    print(f"{settings.describe()}\n\n{markdown(rows)}")


main = partial(cli.run, run, Settings, __doc__)

if __name__ == "__main__":
    sys.exit(main())
