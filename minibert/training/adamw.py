"""AdamW with both moments in bf16, which take half the memory."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

SLICE = 2**20  # numbers updated at a time, so that float32 copies stay small


class AdamWBf16(torch.optim.Optimizer):
    """AdamW (Loshchilov and Hutter 2019) that stores both moments in bf16.

    They are computed in float32 and rounded stochastically, with the exact value as the mean.
    Rounded to the nearest, the second moment, which changes by 0.1 % a step, would hardly ever
    change. The draws depend on the step alone, so several processes make the same update.
    """

    def __init__(
        self,
        params: list[dict[str, Any]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
    ):
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Update every parameter that has a gradient. `closure` is ignored."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["step"] = torch.tensor(0.0)
                    state["exp_avg"] = torch.zeros_like(parameter, dtype=torch.bfloat16)
                    state["exp_avg_sq"] = torch.zeros_like(parameter, dtype=torch.bfloat16)
                self._update(parameter, parameter.grad, state, group)

    def _update(
        self, parameter: Tensor, grad: Tensor, state: dict[str, Tensor], group: dict[str, Any]
    ) -> None:
        state["step"] = state["step"].cpu() + 1  # a checkpoint may have put it on a GPU
        beta1, beta2 = group["betas"]
        step = float(state["step"])
        rate = group["lr"] / (1 - beta1**step)  # with the bias correction of the first moment
        generator = torch.Generator(parameter.device).manual_seed(int(step))

        moments = state["exp_avg"], state["exp_avg_sq"]
        for weight, gradient, mean, square in _slices(parameter, grad, *moments):
            gradient = gradient.float()
            exact_mean = mean.float().lerp_(gradient, 1 - beta1)
            exact_square = square.float().lerp_(gradient.square(), 1 - beta2)
            mean.copy_(rounded(exact_mean, generator))
            square.copy_(rounded(exact_square, generator))

            # The update uses the exact moments; only what is stored is rounded.
            denominator = (exact_square / (1 - beta2**step)).sqrt_().add_(group["eps"])
            weight.mul_(1 - group["lr"] * group["weight_decay"])  # decoupled decay
            weight.sub_(rate * exact_mean / denominator)


def _slices(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Views of SLICE numbers at a time, the same numbers of each tensor."""
    return zip(*(tensor.view(-1).split(SLICE) for tensor in tensors))


def rounded(x: Tensor, generator: torch.Generator) -> Tensor:
    """float32 -> bf16: one of the two neighbours at random, so that the mean is `x`."""
    # bf16 is the upper half of float32. A random lower half carries into it with the probability
    # of rounding up.
    noise = torch.randint(2**16, x.shape, generator=generator, dtype=torch.int32, device=x.device)
    return ((x.contiguous().view(torch.int32) + noise) & -(2**16)).view(torch.float32).bfloat16()
