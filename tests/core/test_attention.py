"""All variants of fused attention, and their gradients, against an explicit softmax."""

from itertools import accumulate, pairwise

import pytest
import torch

from minibert.attention import attend, attend_batch, attend_loop, attend_nested

pytestmark = pytest.mark.numeric


def spelled_out(query, key, value, lengths):
    out = []
    for start, end in pairwise([0, *accumulate(lengths)]):
        for head in range(query.shape[1]):
            q, k, v = (x[start:end, head] for x in (query, key, value))
            out.append(torch.softmax(q @ k.T / q.shape[1] ** 0.5, dim=1) @ v)
    heads = query.shape[1]
    sequences = [torch.stack(out[i : i + heads], dim=1) for i in range(0, len(out), heads)]
    return torch.cat(sequences)


WAYS = {
    "loop": attend_loop,
    "nested": attend_nested,
    "chosen": attend,
    "batch": lambda q, k, v, lengths, dropout: attend_batch(q, k, v, len(lengths), dropout),
}


@pytest.mark.filterwarnings("ignore:.*nested tensors is in prototype")
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("lengths", [[5, 1, 8], [4, 4, 4], [6]])
def test_attention_stays_within_each_sequence(way, lengths):
    if way == "batch" and len(set(lengths)) > 1:
        pytest.skip("for sequences of one length")
    torch.manual_seed(0)
    shape = (sum(lengths), 3, 5)
    qkv = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    towards = torch.randn(shape, dtype=torch.float64)
    expected = spelled_out(*qkv, lengths)
    output = WAYS[way](*qkv, lengths, 0.0)
    torch.testing.assert_close(output, expected, rtol=0, atol=1e-12)
    gradients = torch.autograd.grad((expected * towards).sum(), qkv)
    for gradient, expected_gradient in zip(
        torch.autograd.grad((output * towards).sum(), qkv), gradients
    ):
        torch.testing.assert_close(gradient, expected_gradient, rtol=0, atol=1e-12)


@pytest.mark.parametrize("lengths", [[5, 1, 8], [4, 4]])
def test_attention_without_heads_asks_no_kernel(lengths, monkeypatch):
    """torch 2.11 ends the process there, with a division by zero."""
    monkeypatch.setattr("minibert.attention.F", None)
    qkv = [torch.randn(sum(lengths), 0, 5, requires_grad=True) for _ in range(3)]
    context = attend(*qkv, lengths)
    assert context.shape == qkv[0].shape
    assert all(g.shape == context.shape for g in torch.autograd.grad(context.sum(), qkv))


@pytest.mark.parametrize("size", [5, 8, 12, 26, 32])
def test_a_gpu_has_a_kernel_for_some_head_sizes(size, monkeypatch):
    class OnGpu(torch.Tensor):
        is_cuda = True

    chosen = []
    for way in (attend_loop, attend_nested):
        monkeypatch.setattr(
            f"minibert.attention.{way.__name__}", lambda *_, w=way: chosen.append(w)
        )
    attend(*(torch.randn(9, 2, size).as_subclass(OnGpu) for _ in range(3)), [5, 4])
    assert chosen == [attend_loop if size % 8 else attend_nested]
