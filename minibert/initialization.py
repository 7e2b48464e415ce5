"""Random initial parameters, drawn as BERT's were, and only where no weights are loaded.

torch draws the parameters of each new layer by rules of its own. That draw would be thrown away,
so these layers leave their parameters as they are, and `init_weights` draws them once.
"""

from torch import nn


class Linear(nn.Linear):
    def reset_parameters(self) -> None:
        """Draw nothing."""


class Embedding(nn.Embedding):
    def reset_parameters(self) -> None:
        """Draw nothing."""


def init_weights(model: nn.Module, std: float) -> None:
    """Draw weights from N(0, std^2) and set biases to 0. Layer norms keep torch's 1 and 0."""
    for module in model.modules():
        if not isinstance(module, nn.Linear | nn.Embedding):
            continue

        # Weights on meta are about to be loaded. To draw there imports SymPy: 1 s, 70 MB.
        if module.weight.is_meta:
            continue
        nn.init.normal_(module.weight, std=std)
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)
