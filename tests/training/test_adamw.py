"""AdamW with moments in bf16, against the exact one."""

import torch

from minibert.training.adamw import SLICE, AdamWBf16, rounded


def test_stochastic_rounding_is_unbiased():
    exact = torch.tensor([1.001, -3.0e-5, 0.0, 1.5, 7.7e8])
    generator = torch.Generator().manual_seed(0)
    draws = torch.stack([rounded(exact, generator).float() for _ in range(4000)])
    spacing = 2.0 ** (torch.floor(torch.log2(exact.abs().clamp(min=1e-30))) - 7)
    assert ((draws - exact).abs() < spacing).all()
    error = (draws.mean(0) - exact).abs() / spacing
    assert error.max() < 0.04  # the standard error is 0.008
    assert draws[:, 3].unique().tolist() == [1.5]  # exact in bf16
    assert len(draws[:, 0].unique()) == 2


def trained(optimizer_of, steps: int, shape: tuple[int, ...]) -> torch.Tensor:
    """A weight after steps towards a target, with noisy gradients."""
    torch.manual_seed(1)
    weight = torch.randn(shape, requires_grad=True)
    target, noise = torch.randn(shape), torch.Generator().manual_seed(2)
    optimizer = optimizer_of([{"params": [weight]}])
    for _ in range(steps):
        scale = torch.rand(shape, generator=noise) + 0.5
        weight.grad = (weight.detach() - target) * scale
        optimizer.step()
    return weight.detach()


def test_update_equals_adamw_within_rounding():
    for shape, steps, tolerance in (((3, 5), 1, 1e-6), ((7, 11), 200, 0.02)):
        exact = trained(lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.1), steps, shape)
        bf16 = trained(lambda p: AdamWBf16(p, 0.01, weight_decay=0.1), steps, shape)
        torch.testing.assert_close(bf16, exact, rtol=0, atol=tolerance)


def test_slices_cover_a_large_weight():
    moved = trained(lambda p: AdamWBf16(p, 0.01), 1, (3, SLICE // 2))
    torch.manual_seed(1)
    start = torch.randn(3, SLICE // 2)
    assert ((moved - start).abs() > 1e-4).float().mean() > 0.99


def test_second_moment_accumulates_changes_below_bf16_resolution():
    """After n gradients of 1 it is 1 - 0.999^n. Rounding to nearest would leave it near 0.25."""
    weight = torch.zeros(256, requires_grad=True)
    optimizer = AdamWBf16([{"params": [weight]}])
    torch.manual_seed(0)
    for _ in range(1500):
        weight.grad = torch.ones(256)
        optimizer.step()
    mean = optimizer.state[weight]["exp_avg_sq"].float().mean().item()
    assert abs(mean - (1 - 0.999**1500)) < 0.02
