"""AdamW with its moments in half the memory."""

from collections.abc import Iterator

import torch
from torch import Tensor

SLICE = 2**20  # numbers updated at a time: float32 copies of more never exist


class AdamWBf16(torch.optim.Optimizer):
    """AdamW (Loshchilov and Hutter 2019) that keeps both moments in bf16.

    They are computed in float32 and rounded at random, up or down, right on average: rounded to the
    nearest, the second moment, which changes by 0.1 % a step, would hardly ever move. The draws
    depend on the number of the step alone, so several processes make the same update.
    """

    def __init__(
        self,
        params: list[dict],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
    ):
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    state = self.state[parameter]
                    if not state:
                        state["step"] = torch.tensor(0.0)
                        for moment in ("exp_avg", "exp_avg_sq"):
                            state[moment] = torch.zeros_like(parameter, dtype=torch.bfloat16)
                    self._update(parameter, state, group)

    def _update(self, parameter: Tensor, state: dict[str, Tensor], group: dict) -> None:
        state["step"] += 1
        first, second = group["betas"]
        step = float(state["step"])
        rate = group["lr"] / (1 - first**step)
        generator = torch.Generator(parameter.device).manual_seed(int(step))
        for weight, gradient, mean, square in _slices(
            parameter, parameter.grad, state["exp_avg"], state["exp_avg_sq"]
        ):
            gradient = gradient.float()
            exact_mean = mean.float().lerp_(gradient, 1 - first)
            exact_square = square.float().lerp_(gradient.square(), 1 - second)
            mean.copy_(rounded(exact_mean, generator))
            square.copy_(rounded(exact_square, generator))
            spread = (exact_square / (1 - second**step)).sqrt_().add_(group["eps"])
            weight.mul_(1 - group["lr"] * group["weight_decay"])
            weight.sub_(rate * exact_mean / spread)


def _slices(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    return zip(*(tensor.view(-1).split(SLICE) for tensor in tensors))


def rounded(x: Tensor, generator: torch.Generator) -> Tensor:
    """float32 -> bf16, to one of its two neighbours at random, with the mean `x`."""
    noise = torch.randint(2**16, x.shape, generator=generator, dtype=torch.int32, device=x.device)
    return ((x.contiguous().view(torch.int32) + noise) & -(2**16)).view(torch.float32).bfloat16()
