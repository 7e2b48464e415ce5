"""Random initial parameters, drawn as BERT's were, and only where no weights are loaded.

torch would draw the parameters of each new layer by its own rules, for nothing. These layers draw
none, and `init_weights` draws all of them once.
"""

from torch import nn


class Linear(nn.Linear):
    def reset_parameters(self) -> None: ...


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
