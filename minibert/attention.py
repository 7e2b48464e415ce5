"""Packed sequences: where their tokens sit, and fused attention as each device likes it."""

from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class Packing(NamedTuple):
    """Where the T real tokens of a (B, L) batch sit."""

    index: Tensor  # (T,) into the flattened (B * L)
    lengths: list[int]  # real tokens of each of the B sequences
    shape: torch.Size  # (B, L)

    @classmethod
    def of(cls, attention_mask: Tensor) -> "Packing":
        real = attention_mask != 0
        return cls(real.flatten().nonzero().squeeze(1), real.sum(1).tolist(), real.shape)

    def pack(self, padded: Tensor) -> Tensor:
        return padded.flatten(0, 1)[self.index]  # (B, L, ...) -> (T, ...)

    def unpack(self, packed: Tensor) -> Tensor:
        padded = packed.new_zeros(self.shape.numel(), *packed.shape[1:])
        return padded.index_copy(0, self.index, packed).unflatten(0, self.shape)

    def to(self, device: torch.device) -> "Packing":
        return self._replace(index=self.index.to(device, non_blocking=True))

    @property
    def rows(self) -> Tensor:
        """(T,) the sequence of each token."""
        return self.index // self.shape[1]

    @property
    def positions(self) -> Tensor:
        """(T,) the column of each token."""
        return self.index % self.shape[1]


def check_shapes(input_ids: Tensor, **others: Tensor | None) -> None:
    """Raises ValueError for token ids that are not (B, L), and for others of another shape."""
    shape = tuple(input_ids.shape)
    if len(shape) != 2:
        raise ValueError(f"input_ids must be (B, L), not {shape}")
    for name, other in others.items():
        if other is not None and tuple(other.shape) != shape:
            raise ValueError(f"{name} must be (B, L) = {shape}, not {tuple(other.shape)}")


def attend(
    query: Tensor, key: Tensor, value: Tensor, lengths: list[int], dropout: float = 0.0
) -> Tensor:
    """softmax(query key^T / sqrt(K)) value within each sequence, every head on its own: (T, H, K)
    each, with T the sum of the lengths -> (T, H, K)."""
    qkv = (query, key, value)
    if len(set(lengths)) == 1:
        return attend_batch(*qkv, len(lengths), dropout)
    return (attend_nested if query.is_cuda else attend_loop)(*qkv, lengths, dropout)


def attend_batch(
    query: Tensor, key: Tensor, value: Tensor, sequences: int, dropout: float
) -> Tensor:
    """Sequences of one length are an ordinary batch."""
    batch = (x.unflatten(0, (sequences, -1)).transpose(1, 2) for x in (query, key, value))
    context = F.scaled_dot_product_attention(*batch, dropout_p=dropout)  # (B, H, L, K)
    return context.transpose(1, 2).flatten(0, 1)


def attend_loop(
    query: Tensor, key: Tensor, value: Tensor, lengths: list[int], dropout: float
) -> Tensor:
    """A CPU loses nothing by a call for each sequence."""
    contexts = [
        F.scaled_dot_product_attention(*(x.transpose(0, 1)[None] for x in qkv), dropout_p=dropout)
        for qkv in zip(*(x.split(lengths) for x in (query, key, value)))
    ]  # each (1, H, length, K)
    return torch.cat(contexts, dim=2)[0].transpose(0, 1)


def attend_nested(
    query: Tensor, key: Tensor, value: Tensor, lengths: list[int], dropout: float
) -> Tensor:
    """A GPU would wait for the launch of each: there one kernel takes all of a nested tensor."""
    offsets = torch.tensor([0, *accumulate(lengths)], device=query.device)
    nested = (
        torch.nested.nested_tensor_from_jagged(
            x, offsets, min_seqlen=min(lengths), max_seqlen=max(lengths)
        ).transpose(1, 2)
        for x in (query, key, value)
    )  # (B, H, length, K)
    context = F.scaled_dot_product_attention(*nested, dropout_p=dropout)
    return context.transpose(1, 2).values()
