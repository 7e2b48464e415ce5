"""The fused kernel of linear layers gives what two separate operations give."""

import pytest
import torch
from tiny import TINY, randomise
from torch.nn import functional as F

from minibert import Bert, layers
from minibert.layers import Linear

pytestmark = pytest.mark.numeric

needs_kernel = pytest.mark.skipif(not layers.HAS_KERNEL, reason="this torch has no fused kernel")


def make_linear(inputs: int = 37, outputs: int = 29) -> Linear:
    linear = Linear(inputs, outputs)
    torch.nn.init.normal_(linear.weight, std=0.3)
    torch.nn.init.normal_(linear.bias, std=0.3)
    return linear


@pytest.fixture
def kernel_calls(monkeypatch) -> list[str]:
    """The activation of each call of the kernel."""
    calls = []
    kernel = torch.ops.mkldnn._linear_pointwise

    def record(x, weight, bias, activation, scalars, algorithm):
        calls.append(activation)
        return kernel(x, weight, bias, activation, scalars, algorithm)

    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", record)
    return calls


@needs_kernel
@pytest.mark.parametrize("shape", [(53, 37), (1, 37), (3, 11, 37), (0, 37)])
@pytest.mark.parametrize("activation", [None, F.gelu])
def test_kernel_equals_torch(kernel_calls, shape, activation):
    linear, x = make_linear(), torch.randn(shape)
    with torch.no_grad():
        fused = linear(x, activation)
        expected = x.double() @ linear.weight.double().T + linear.bias.double()
    if activation:
        expected = 0.5 * expected * (1 + torch.erf(expected / 2**0.5))
    assert kernel_calls == ["gelu" if activation else "none"]
    torch.testing.assert_close(fused.double(), expected, atol=2e-6, rtol=0)


@needs_kernel
def test_columns_and_repeated_rows(kernel_calls):
    linear, columns = make_linear(), torch.randn(37, 8).T
    with torch.no_grad():
        for x in (columns, columns[:1].expand(5, 37)):
            torch.testing.assert_close(linear(x), x @ linear.weight.T + linear.bias)
    assert len(kernel_calls) == 2


def switched_off(monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)
    return torch.no_grad()


def operator_missing(monkeypatch):
    monkeypatch.setattr(layers, "KERNEL_DTYPES", {torch.float32: False, torch.bfloat16: False})
    return torch.no_grad()


def with_gradient(monkeypatch):
    return torch.enable_grad()


def under_autocast(monkeypatch):
    return torch.autocast("cpu", torch.bfloat16)


@needs_kernel
@pytest.mark.parametrize(
    "situation", [switched_off, operator_missing, with_gradient, under_autocast]
)
def test_fallback_where_the_kernel_does_not_fit(kernel_calls, monkeypatch, situation):
    linear, x = make_linear(), torch.randn(53, 37)
    with torch.no_grad():
        fused = linear(x, F.gelu)
        with situation(monkeypatch):
            plain = linear(x, F.gelu)
    assert kernel_calls == ["gelu"]
    is_rounded = situation is under_autocast
    torch.testing.assert_close(plain.float(), fused, atol=0.05 if is_rounded else 2e-6, rtol=0)
    assert plain.requires_grad == (situation is with_gradient)
    assert plain.dtype == (torch.bfloat16 if is_rounded else torch.float32)


@torch.no_grad()
def test_other_activations_types_and_layers_without_inputs(kernel_calls):
    linear, x = make_linear(), torch.randn(5, 37)
    torch.testing.assert_close(linear(x, F.relu), linear(x).clamp(min=0))
    double = make_linear().double()
    expected = F.gelu(x.double() @ double.weight.T + double.bias)
    torch.testing.assert_close(double(x.double(), F.gelu), expected, atol=1e-12, rtol=0)
    empty = make_linear(0)
    torch.testing.assert_close(empty(x[:, :0]), empty.bias.expand(5, 29))
    assert set(kernel_calls) <= {"none"}


@torch.no_grad()
def test_what_does_not_fit_is_refused_as_by_torch(kernel_calls):
    x, linear = torch.randn(5, 37), make_linear()
    with pytest.raises(RuntimeError, match="same dtype"):
        linear(x.bfloat16())
    with torch.device("meta"):
        unloaded = Linear(37, 29)
    with pytest.raises(RuntimeError, match="meta"):
        unloaded(x)
    assert kernel_calls == []


@torch.no_grad()
def test_bf16_is_close_to_float32():
    linear, x = make_linear(), torch.randn(53, 37)
    rounded = make_linear().to(torch.bfloat16)
    rounded.load_state_dict(linear.state_dict())
    torch.testing.assert_close(
        rounded(x.bfloat16(), F.gelu).float(), linear(x, F.gelu), atol=0.1, rtol=0.02
    )


@needs_kernel
@torch.no_grad()
def test_compiled_model_leaves_the_kernel_to_the_compiler(batch):
    """torch's own compiler fails at the kernel."""
    operators = []

    def compiler(graph, _):
        operators.extend(str(node.target) for node in graph.graph.nodes)
        return graph.forward

    model = randomise(Bert(TINY)).eval()
    compiled = torch.compile(model, backend=compiler)(**batch).last_hidden_state
    torch.testing.assert_close(compiled, model(**batch).last_hidden_state, atol=1e-5, rtol=0)
    assert any("linear" in name for name in operators)
    assert not any("mkldnn" in name for name in operators)
