"""Gates on heads that training can close (Louizos, Welling and Kingma 2018; Voita et al. 2019)."""

from math import log

import torch
from torch import Tensor, nn

from minibert.config import BertConfig

TEMPERATURE = 1 / 3  # beta; Louizos et al. take 2/3, Voita et al. the sharper 1/3
STRETCH = (-0.1, 1.1)  # (gamma, zeta) of both papers: beyond 0 and 1, so that both are reached
START = 2.5  # log_alpha of a new gate: its fixed value is 1, and 96 % of its samples are above 0
LIMIT = 6.0  # of |log_alpha|: the gate is open or closed, and its gradient can still move it


class HardConcreteGates(nn.Module):
    """A random factor in [0, 1] for every head: a stretched and clipped binary concrete variable.

    It is exactly 0 or 1 with probabilities above zero, and has a gradient. `log_alpha` (layers,
    heads) is the log-odds before stretching. The gate of a pruned head is always 0.
    """

    present: Tensor  # (layers, heads) 1 for each head that is not pruned

    def __init__(self, config: BertConfig):
        super().__init__()
        present = torch.zeros(config.num_hidden_layers, config.num_attention_heads)
        for head in config.present_heads:
            present[head] = 1
        self.register_buffer("present", present)
        self.log_alpha = nn.Parameter(torch.full_like(present, START))

    def sample(self, count: int) -> Tensor:
        """(count, layers, heads) independent samples (eq. 10 and 11)."""
        uniform = torch.rand(count, *self.log_alpha.shape, device=self.log_alpha.device)
        noise = torch.logit(uniform, eps=1e-6)
        return self._stretch(torch.sigmoid((noise + self.log_alpha) / TEMPERATURE))

    def fixed(self) -> Tensor:
        """(layers, heads) the values to use after training (eq. 13): exactly 0 for log_alpha of at
        most -2.398, exactly 1 from 2.398 on."""
        return self._stretch(torch.sigmoid(self.log_alpha))

    def open_probability(self, softness: float = 1.0) -> Tensor:
        """(layers, heads) the probability that a sample is not 0 (eq. 12).

        The penalty is on its sum, the expected number of open heads. A `softness` above 1 gives a
        less steep surrogate, whose gradient also moves gates that are far open.
        """
        low, high = STRETCH
        log_odds = self.log_alpha - TEMPERATURE * log(-low / high)
        return torch.sigmoid(log_odds / softness) * self.present

    def expected(self) -> float:
        """The expected number of open heads in a sample."""
        return self.open_probability().sum().item()

    def _stretch(self, concrete: Tensor) -> Tensor:
        low, high = STRETCH
        return (concrete * (high - low) + low).clamp(0, 1) * self.present

    @torch.no_grad()
    def warm_start(self, values: list[list[float]]) -> None:
        """Start from log_alpha of earlier training, clamped to +-START, so each gate can move."""
        self.log_alpha.copy_(torch.tensor(values)).clamp_(-START, START)

    @torch.no_grad()
    def clamp_(self) -> None:
        """Keep every |log_alpha| at most LIMIT, where its gradient has not vanished."""
        self.log_alpha.clamp_(-LIMIT, LIMIT)
