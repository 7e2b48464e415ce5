"""Packed sequences, and fused attention within each of them."""

from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class Packing(NamedTuple):
    """The places of the T real tokens in a batch (B, L)."""

    token_index: Tensor  # (T,) into the flattened (B * L)
    lengths: list[int]  # real tokens of each of the B sequences
    shape: torch.Size  # (B, L)

    @classmethod
    def of(cls, attention_mask: Tensor) -> "Packing":
        real = attention_mask != 0
        return cls(real.flatten().nonzero().squeeze(1), real.sum(1).tolist(), real.shape)

    def pack(self, padded: Tensor) -> Tensor:
        return padded.flatten(0, 1)[self.token_index]  # (B, L, ...) -> (T, ...)

    def unpack(self, packed: Tensor) -> Tensor:
        """(T, ...) -> (B, L, ...), zero at padding."""
        padded = packed.new_zeros(self.shape.numel(), *packed.shape[1:])
        return padded.index_copy(0, self.token_index, packed).unflatten(0, self.shape)

    def to(self, device: torch.device) -> "Packing":
        return self._replace(token_index=self.token_index.to(device, non_blocking=True))

    @property
    def rows(self) -> Tensor:
        """(T,) the sequence of each token."""
        return self.token_index // self.shape[1]

    @property
    def positions(self) -> Tensor:
        """(T,) the column of each token."""
        return self.token_index % self.shape[1]


def check_shapes(input_ids: Tensor, **others: Tensor | None) -> None:
    """Raises ValueError unless token ids are (B, L) and all others have the same shape."""
    shape = tuple(input_ids.shape)
    if len(shape) != 2:
        raise ValueError(f"input_ids must be (B, L), not {shape}")
    for name, other in others.items():
        if other is not None and tuple(other.shape) != shape:
            raise ValueError(f"{name} must be (B, L) = {shape}, not {tuple(other.shape)}")


def attend(
    query: Tensor, key: Tensor, value: Tensor, lengths: list[int], dropout: float = 0.0
) -> Tensor:
    """softmax(query key^T / sqrt(K)) value, for each head within each sequence: (T, H, K) each, the
    sequences one after another -> (T, H, K)."""
    if not query.shape[1]:  # no heads: torch 2.11 would divide by their number
        return query * key * value
    if len(set(lengths)) == 1:
        return attend_batch(query, key, value, len(lengths), dropout)
    has_kernel = query.is_cuda and query.shape[2] % 8 == 0  # for nested tensors
    attend_ragged = attend_nested if has_kernel else attend_loop
    return attend_ragged(query, key, value, lengths, dropout)


def attend_batch(
    query: Tensor, key: Tensor, value: Tensor, sequences: int, dropout: float
) -> Tensor:
    """Sequences of one length form an ordinary batch."""

    def batch(packed: Tensor) -> Tensor:
        return packed.unflatten(0, (sequences, -1)).transpose(1, 2)  # (T, H, K) -> (B, H, L, K)

    context = F.scaled_dot_product_attention(
        batch(query), batch(key), batch(value), dropout_p=dropout
    )
    return context.transpose(1, 2).flatten(0, 1)


def attend_loop(
    query: Tensor, key: Tensor, value: Tensor, lengths: list[int], dropout: float
) -> Tensor:
    """One call per sequence: as fast as any other way on a CPU."""
    contexts = []
    for sequence in zip(query.split(lengths), key.split(lengths), value.split(lengths)):
        q, k, v = (x.transpose(0, 1)[None] for x in sequence)  # (1, H, length, K)
        context = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout)
        contexts.append(context[0].transpose(0, 1))
    return torch.cat(contexts)


def attend_nested(
    query: Tensor, key: Tensor, value: Tensor, lengths: list[int], dropout: float
) -> Tensor:
    """One kernel for all sequences: a GPU would wait for the launch of one call per sequence."""
    offsets = torch.tensor([0, *accumulate(lengths)]).to(query.device, non_blocking=True)

    def nest(packed: Tensor) -> Tensor:
        nested = torch.nested.nested_tensor_from_jagged(
            packed, offsets, min_seqlen=min(lengths), max_seqlen=max(lengths)
        )
        return nested.transpose(1, 2)  # (B, H, length, K)

    context = F.scaled_dot_product_attention(nest(query), nest(key), nest(value), dropout_p=dropout)
    return context.transpose(1, 2).values()
