"""Linear layers and embeddings. torch would draw parameters for each new one, for nothing: these
draw none, and `init_weights` draws all of them once, as BERT's were, if no weights are loaded.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minibert.config import Activation

# oneDNN's kernel for a linear layer with its activation. It is private, so it may be missing.
HAS_KERNEL = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
HAS_BF16 = HAS_KERNEL and torch.ops.mkldnn._is_mkldnn_bf16_supported()
KERNEL_DTYPES = {torch.float32: HAS_KERNEL, torch.bfloat16: HAS_BF16}


class Linear(nn.Linear):
    def reset_parameters(self) -> None: ...

    def forward(self, x: Tensor, activation: Activation | None = None) -> Tensor:
        """(..., in_features) -> (..., out_features), through `activation` if there is one."""
        if activation in (None, F.gelu) and self._has_kernel(x):
            name = "gelu" if activation else "none"
            return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, name, [], "none")
        output = super().forward(x)
        return activation(output) if activation else output

    def _has_kernel(self, x: Tensor) -> bool:
        """Whether one kernel computes all of it: on a CPU, without gradient, not compiled."""
        fits = x.is_cpu and self.weight.is_cpu and x.dtype == self.weight.dtype and self.in_features
        exists = KERNEL_DTYPES.get(x.dtype) and torch.backends.mkldnn.enabled
        needs_torch = torch.is_grad_enabled() or torch.is_autocast_enabled("cpu")
        return bool(fits and exists and not needs_torch and not torch.compiler.is_compiling())


class Embedding(nn.Embedding):
    def reset_parameters(self) -> None: ...


def init_weights(model: nn.Module, std: float) -> None:
    """Draw weights from N(0, std^2) and set biases to 0. Layer norms keep torch's 1 and 0."""
    for module in model.modules():
        # Weights on meta are about to be loaded. Drawing there imports SymPy: 1 s, 70 MB.
        if isinstance(module, nn.Linear | nn.Embedding) and not module.weight.is_meta:
            nn.init.normal_(module.weight, std=std)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)
