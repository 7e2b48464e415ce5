"""BERT (Devlin et al. 2019), in the order of the paper, with a switch on every attention head.

Shapes: B sequences, L positions, T real tokens of the whole batch (padding left out), D hidden
size, H heads of this layer, K head size.

Real tokens are packed: linear layers and norms see (T, D), and attention runs inside each sequence,
so padding costs nothing and changes nothing. `head_mask` multiplies each head's context, after
attention and before the output projection. Output and gradient are those of scaling the attention
probabilities (Michel et al. 2019, eq. 2), and the fused attention kernel stays in use.
"""

from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minibert.attention import Packing, attend, check_shapes
from minibert.config import ACTIVATIONS, BertConfig
from minibert.layers import Embedding, Linear, init_weights

IGNORED = -100  # the label of a token that is not scored, as in torch and transformers


class Output(NamedTuple):
    last_hidden_state: Tensor  # (B, L, D), zero at padding
    logits: Tensor | None = None  # (B, L, labels)
    loss: Tensor | None = None
    attentions: tuple[Tensor, ...] | None = None  # per layer (B, H, L, L), zero at padding


class Embeddings(nn.Module):
    """Word + position + token type, normalised (section 3 of the paper, figure 2)."""

    def __init__(self, config: BertConfig):
        super().__init__()
        self.word = Embedding(config.vocab_size, config.hidden_size)
        self.position = Embedding(config.max_position_embeddings, config.hidden_size)
        types = config.type_vocab_size
        self.token_type = Embedding(types, config.hidden_size) if types else None
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, words: Tensor, positions: Tensor, types: Tensor | None = None) -> Tensor:
        """Word vectors (T, D) and (T,) tensors of indices (default: all of type 0) -> (T, D)."""
        if self.token_type:
            words = words + self.token_type(torch.zeros_like(positions) if types is None else types)
        elif types is not None:
            raise ValueError("this model has no token types: leave out token_type_ids")
        return self.dropout(self.norm(words + self.position(positions)))


class SelfAttention(nn.Module):
    """Multi-head attention with a factor on each head's context (Vaswani et al. 2017, eq. 1)."""

    def __init__(self, config: BertConfig, heads: tuple[int, ...]):
        super().__init__()
        self.heads = heads  # original indices
        self.head_size = config.head_size
        self.dropout_prob = config.attention_probs_dropout_prob

        width = len(heads) * config.head_size
        self.query = Linear(config.hidden_size, width)
        self.key = Linear(config.hidden_size, width)
        self.value = Linear(config.hidden_size, width)
        self.output = Linear(width, config.hidden_size)

    def forward(self, hidden: Tensor, packing: Packing, factor: Tensor | None = None) -> Tensor:
        """(T, D) -> (T, D). `factor`: (H,), or (T, H) for one row per token."""
        context = self.context(hidden, packing)
        if factor is not None:
            context = context * factor.unsqueeze(-1)
        return self.output(context.flatten(1))  # (T, H, K) -> (T, H*K) -> (T, D)

    def context(self, hidden: Tensor, packing: Packing) -> Tensor:
        """(T, D) -> (T, H, K), the input of the output projection."""
        query = self._split(self.query(hidden))
        key = self._split(self.key(hidden))
        value = self._split(self.value(hidden))
        dropout = self.dropout_prob if self.training else 0.0
        return attend(query, key, value, packing.lengths, dropout)

    def probs(self, hidden: Tensor, packing: Packing) -> Tensor:
        """(T, D) -> (B, H, L, L): the attention probabilities, which the fused kernel hides."""
        query = packing.unpack(self._split(self.query(hidden)))  # (B, L, H, K)
        key = packing.unpack(self._split(self.key(hidden)))
        scores = torch.einsum("bqhk,bjhk->bhqj", query, key) / self.head_size**0.5

        real = packing.unpack(torch.ones_like(packing.token_index)).bool()  # (B, L)
        scores = scores.masked_fill(~real[:, None, None, :], float("-inf"))
        return scores.softmax(-1).masked_fill(~real[:, None, :, None], 0.0)

    def _split(self, projected: Tensor) -> Tensor:
        return projected.unflatten(-1, (len(self.heads), self.head_size))  # (T, H*K) -> (T, H, K)


class Layer(nn.Module):
    """Attention and a feed-forward network, each added to its input and then normalised."""

    def __init__(self, config: BertConfig, layer: int):
        super().__init__()
        self.attention = SelfAttention(config, config.heads(layer))
        self.attention_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.expand = Linear(config.hidden_size, config.intermediate_size)
        self.contract = Linear(config.intermediate_size, config.hidden_size)
        self.output_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.activation = ACTIVATIONS[config.hidden_act]
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, hidden: Tensor, packing: Packing, factor: Tensor | None = None) -> Tensor:
        return self.feed_forward(hidden, self.attention(hidden, packing, factor))

    def feed_forward(self, hidden: Tensor, attended: Tensor) -> Tensor:
        """The layer's input and its attention's output, (T, D) each -> its output (T, D)."""
        hidden = self.attention_norm(hidden + self.dropout(attended))
        expanded = self.expand(hidden, self.activation)
        return self.output_norm(hidden + self.dropout(self.contract(expanded)))


class Bert(nn.Module):
    """The encoder, with random parameters. `load_pretrained` loads trained ones."""

    def __init__(self, config: BertConfig):
        super().__init__()
        self.config = config
        self.embeddings = Embeddings(config)
        layers = nn.ModuleList(Layer(config, i) for i in range(config.num_hidden_layers))
        self.layers = cast(Sequence[Layer], layers)  # torch does not say what a ModuleList holds
        init_weights(self, config.initializer_range)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        head_mask: Tensor | None = None,
        return_attentions: bool = False,
    ) -> Output:
        """Encode a batch.

        input_ids, attention_mask (1 = real token; default: all real), token_type_ids: (B, L).
        head_mask: (layers, heads), or (B, layers, heads) for one mask per sequence, by original
        head index; 1 keeps a head, 0 masks it, values between scale it.
        return_attentions: also return the probabilities, before dropout and head mask.
        Raises ValueError for any other shape, for sequences that are too long, and for token types
        that the model lacks.
        """
        attention_mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        check_shapes(input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids)
        packing = self.packing(attention_mask)
        return self.encode(input_ids, packing, token_type_ids, head_mask, return_attentions)

    def encode(
        self,
        input_ids: Tensor,
        packing: Packing,
        token_type_ids: Tensor | None = None,
        head_mask: Tensor | None = None,
        return_attentions: bool = False,
    ) -> Output:
        """As `forward`, with a packing from `packing`, whose computation waits for the GPU."""
        hidden = self.start(input_ids, packing, token_type_ids)
        states = self.hidden_states(hidden, packing, self.factors(head_mask, packing))

        attentions = []
        for number, hidden in enumerate(states):  # a second name would keep the embeddings
            if return_attentions and number < len(self.layers):
                attentions.append(self.layers[number].attention.probs(hidden, packing))
        return Output(packing.unpack(hidden), attentions=tuple(attentions) or None)

    def packing(self, attention_mask: Tensor) -> Packing:
        """The packing of an attention mask (B, L). Raises ValueError if L exceeds the limit."""
        length, limit = attention_mask.shape[1], self.config.max_position_embeddings
        if length > limit:
            raise ValueError(f"{length} tokens exceed the model's {limit}: cut them into windows")
        return Packing.of(attention_mask)

    def start(
        self, input_ids: Tensor, packing: Packing, token_type_ids: Tensor | None = None
    ) -> Tensor:
        """(B, L) indices -> the first layer's input (T, D)."""
        words = self.embeddings.word(packing.pack(input_ids))
        types = None if token_type_ids is None else packing.pack(token_type_ids)
        return self.embeddings(words, packing.positions, types)

    def hidden_states(
        self, hidden: Tensor, packing: Packing, factors: Sequence[Tensor | None] = ()
    ) -> Iterator[Tensor]:
        """Yield each layer's input and then the last layer's output, each (T, D). If the caller
        stops early, the layers above are not computed. `factors`: from `Bert.factors`."""
        yield hidden
        for layer, factor in zip_longest(self.layers, factors):
            hidden = layer(hidden, packing, factor)
            yield hidden

    def factors(self, head_mask: Tensor | None, packing: Packing) -> list[Tensor | None]:
        """The factors on the heads of each layer: (H,), or (T, H) for one mask per sequence."""
        layers, heads = self.config.num_hidden_layers, self.config.num_attention_heads
        if head_mask is None:
            return [None] * layers
        shape = tuple(head_mask.shape) if isinstance(head_mask, Tensor) else type(head_mask)
        if shape not in ((layers, heads), (packing.shape[0], layers, heads)):
            shapes = f"({layers}, {heads}) or ({packing.shape[0]}, {layers}, {heads})"
            raise ValueError(f"head_mask must be a tensor (layers, heads) = {shapes}, not {shape}")

        head_mask = head_mask.to(self.embeddings.word.weight.dtype)
        factor = head_mask if head_mask.ndim == 2 else head_mask[packing.rows]
        return [factor[..., i, list(layer.attention.heads)] for i, layer in enumerate(self.layers)]


def summed_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """(B, L, labels) and (B, L) -> cross-entropy summed over the labels that are not IGNORED."""
    check_shapes(logits[..., 0], labels=labels)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32)).flatten(0, 1)
    return F.cross_entropy(logits, labels.flatten(), ignore_index=IGNORED, reduction="sum")


class BertForTokenClassification(nn.Module):
    """The encoder and one linear layer, which gives each token a score per label."""

    def __init__(self, config: BertConfig):
        super().__init__()
        self.config = config
        self.bert = Bert(config)
        dropout = config.classifier_dropout
        self.dropout = nn.Dropout(config.hidden_dropout_prob if dropout is None else dropout)
        self.classifier = Linear(config.hidden_size, len(config.labels))
        init_weights(self.classifier, config.initializer_range)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        head_mask: Tensor | None = None,
        labels: Tensor | None = None,
        return_attentions: bool = False,
    ) -> Output:
        """As `Bert.forward`. `labels` (B, L) adds the mean loss over those that are not IGNORED."""
        out = self.bert(input_ids, attention_mask, token_type_ids, head_mask, return_attentions)
        logits = self.classify(out.last_hidden_state)
        if labels is not None:
            out = out._replace(loss=summed_loss(logits, labels) / (labels != IGNORED).sum())
        return out._replace(logits=logits)

    def classify(self, hidden: Tensor) -> Tensor:
        """(B, L, D) -> (B, L, labels)."""
        return self.classifier(self.dropout(hidden))
