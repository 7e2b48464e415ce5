"""A gate on every head that training can close for good (Louizos, Welling and Kingma 2018; on
heads: Voita et al. 2019)."""

from math import log

import torch
from torch import Tensor, nn

from minibert.config import BertConfig

TEMPERATURE = 1 / 3  # beta; Louizos et al. take 2/3, Voita et al. 1/3: sharper


STRETCH = (-0.1, 1.1)  # (gamma, zeta), theirs: past 0 and 1, so that both are hit exactly


START = 2.5  # log_alpha of a new gate: its fixed value is 1, 96 % of its draws are above 0


LIMIT = 6.0  # of |log_alpha|: far enough out to be decided, near enough to come back


class HardConcreteGates(nn.Module):
    """A random factor in [0, 1] for every head, exactly 0 or 1 with probabilities above zero, and
    with a gradient: a stretched and clipped binary concrete variable.

    `log_alpha` (layers, heads) is the log-odds before stretching. A head that the model no longer
    has is never open.
    """

    def __init__(self, config: BertConfig):
        super().__init__()
        present = torch.zeros(config.num_hidden_layers, config.num_attention_heads)
        for head in config.present_heads:
            present[head] = 1
        self.present: Tensor
        self.register_buffer("present", present)
        self.log_alpha = nn.Parameter(torch.full_like(present, START))

    def sample(self, count: int) -> Tensor:
        """(count, layers, heads) independent draws (eq. 10 and 11)."""
        uniform = torch.rand(count, *self.log_alpha.shape, device=self.log_alpha.device)
        noise = torch.logit(uniform, eps=1e-6)
        return self._stretch(torch.sigmoid((noise + self.log_alpha) / TEMPERATURE))

    def fixed(self) -> Tensor:
        """(layers, heads) the values to use after training (eq. 13): exactly 0 where log_alpha is
        at most -2.398, exactly 1 where it is at least 2.398."""
        return self._stretch(torch.sigmoid(self.log_alpha))

    def open_probability(self, softness: float = 1.0) -> Tensor:
        """(layers, heads) the chance that a draw is not 0 (eq. 12); its sum is the expected number
        of open heads, which the penalty is on. With a `softness` above 1 a stand-in that is less
        steep, whose gradient also moves gates that are far open."""
        low, high = STRETCH
        odds = self.log_alpha - TEMPERATURE * log(-low / high)
        return torch.sigmoid(odds / softness) * self.present

    def expected(self) -> float:
        """How many heads a draw opens on average."""
        return self.open_probability().sum().item()

    def _stretch(self, concrete: Tensor) -> Tensor:
        low, high = STRETCH
        return (concrete * (high - low) + low).clamp(0, 1) * self.present

    @torch.no_grad()
    def warm_start(self, values: list[list[float]]) -> None:
        """Take up gates from earlier training, each within START, so that none has far to go."""
        self.log_alpha.copy_(torch.tensor(values)).clamp_(-START, START)

    @torch.no_grad()
    def clamp_(self) -> None:
        """Keep every log_alpha within reach of its gradient."""
        self.log_alpha.clamp_(-LIMIT, LIMIT)
