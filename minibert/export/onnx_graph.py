"""BERT as an ONNX graph, in the order of model.py.

Each layer has the heads that its model has, down to none. Only operators of the ONNX standard are
used, so any engine with opset 20 runs the graph. Batch and length are dynamic. Unlike the model,
the graph computes padding too: attention leaves it out, and the output there has no meaning.
"""

import json
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from minibert.model import Bert, BertForTokenClassification, Embeddings, Layer, SelfAttention

OPSET = 20  # the first with Gelu
IR_VERSION = 9  # the format of files with opset 20
MASKED = -1e9  # is added to the scores of padding, and makes their probabilities 0

# The operator of each activation and its attributes.
ACTIVATIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "gelu": ("Gelu", {}),
    "gelu_new": ("Gelu", {"approximate": "tanh"}),
    "gelu_pytorch_tanh": ("Gelu", {"approximate": "tanh"}),
    "relu": ("Relu", {}),
}


def make_model(model: Bert | BertForTokenClassification) -> onnx.ModelProto:
    """The graph of a float32 model on the CPU.

    Inputs, as optimum names them: input_ids, attention_mask and, where the model has token types,
    token_type_ids; (B, L) of int64.
    Output: logits (B, L, labels), or last_hidden_state (B, L, D) of an encoder. The metadata holds
    JSON: "labels", a list; "heads", the original indices of each layer's heads; "max_length".
    """
    config = model.config
    bert = model.bert if isinstance(model, BertForTokenClassification) else model
    inputs = ["input_ids", "attention_mask"]
    if config.type_vocab_size:
        inputs.append("token_type_ids")

    graph = Graph()
    hidden = add_embeddings(graph, bert.embeddings)
    bias = add_attention_bias(graph)
    for layer in bert.layers:
        hidden = add_layer(graph, hidden, bias, layer, ACTIVATIONS[config.hidden_act])
    output, width = "last_hidden_state", config.hidden_size
    if isinstance(model, BertForTokenClassification):
        output, width = "logits", len(config.labels)
        hidden = add_linear(graph, hidden, model.classifier)
    graph.node("Identity", hidden, name=output)

    proto = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "minibert",
            [tensor_info(name, TensorProto.INT64, "batch", "length") for name in inputs],
            [tensor_info(output, TensorProto.FLOAT, "batch", "length", width)],
            graph.constants,
        ),
        producer_name="minibert",
        ir_version=IR_VERSION,
        opset_imports=[helper.make_opsetid("", OPSET)],
    )
    metadata = {
        "labels": config.labels,
        "heads": [layer.attention.heads for layer in bert.layers],
        "max_length": config.max_position_embeddings,
    }
    helper.set_model_props(proto, {key: json.dumps(value) for key, value in metadata.items()})
    onnx.checker.check_model(proto, full_check=True)
    return proto


def tensor_info(name: str, kind: int, *shape: str | int) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


class Graph:
    """The nodes and constants of an ONNX graph, in the order of computation."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def node(self, operator: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        """Add a node with one output. Returns the output's name."""
        name = name or f"{operator}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [name], name, **attributes))
        return name

    def constant(self, value: Tensor | list[int] | float) -> str:
        """Add a constant: int64 from a list, else float32. Returns its name."""
        name = f"constant_{len(self.constants)}"
        array = np.asarray(value, dtype=np.int64 if isinstance(value, list) else np.float32)
        self.constants.append(numpy_helper.from_array(array, name))
        return name


# The parts of the model. Each takes names of tensors and returns the name of its output ---------


def add_linear(graph: Graph, x: str, module: nn.Linear) -> str:
    product = graph.node("MatMul", x, graph.constant(module.weight.detach().T))
    return graph.node("Add", product, graph.constant(module.bias.detach()))


def add_norm(graph: Graph, x: str, module: nn.LayerNorm) -> str:
    weight, bias = graph.constant(module.weight.detach()), graph.constant(module.bias.detach())
    return graph.node("LayerNormalization", x, weight, bias, axis=-1, epsilon=module.eps)


def add_lookup(graph: Graph, table: nn.Embedding, ids: str) -> str:
    return graph.node("Gather", graph.constant(table.weight.detach()), ids)


def add_embeddings(graph: Graph, embeddings: Embeddings) -> str:
    """-> (B, L, D)."""
    words = add_lookup(graph, embeddings.word, "input_ids")
    table = graph.constant(embeddings.position.weight.detach())
    length = graph.node("Shape", "input_ids", start=1, end=2)
    positions = graph.node("Slice", table, graph.constant([0]), length)

    # The slice of a longer sequence is too short for this sum. The error message names the node.
    limit = f"at most {embeddings.position.num_embeddings} tokens"
    embedded = graph.node("Add", words, positions, name=limit)
    if embeddings.token_type:
        types = add_lookup(graph, embeddings.token_type, "token_type_ids")
        embedded = graph.node("Add", embedded, types)
    return add_norm(graph, embedded, embeddings.norm)


def add_attention_bias(graph: Graph) -> str:
    """-> (B, 1, 1, L): 0 for real tokens, MASKED for padding."""
    mask = graph.node("Unsqueeze", "attention_mask", graph.constant([1, 2]))
    is_real = graph.node("Cast", mask, to=TensorProto.BOOL)
    return graph.node("Where", is_real, graph.constant(0.0), graph.constant(MASKED))


def add_layer(
    graph: Graph, hidden: str, bias: str, layer: Layer, activation: tuple[str, dict[str, Any]]
) -> str:
    """(B, L, D) -> (B, L, D)."""
    attended = add_attention(graph, hidden, bias, layer.attention)
    hidden = add_norm(graph, graph.node("Add", hidden, attended), layer.attention_norm)

    operator, attributes = activation
    expanded = graph.node(operator, add_linear(graph, hidden, layer.expand), **attributes)
    contracted = add_linear(graph, expanded, layer.contract)
    return add_norm(graph, graph.node("Add", hidden, contracted), layer.output_norm)


def add_attention(graph: Graph, hidden: str, bias: str, attention: SelfAttention) -> str:
    """(B, L, D) -> (B, L, D), or (D,) if the layer has no heads."""
    heads, size = len(attention.heads), attention.head_size
    if not heads:
        return graph.constant(attention.output.bias.detach())

    def split(module: nn.Linear, order: list[int]) -> str:
        """(B, L, D) -> (B, L, H, K), with its axes in this order."""
        shape = graph.constant([0, 0, heads, size])  # 0 keeps an axis
        parts = graph.node("Reshape", add_linear(graph, hidden, module), shape)
        return graph.node("Transpose", parts, perm=order)

    query = split(attention.query, [0, 2, 1, 3])  # (B, H, L, K)
    key = split(attention.key, [0, 2, 3, 1])  # (B, H, K, L)
    value = split(attention.value, [0, 2, 1, 3])  # (B, H, L, K)

    scaled = graph.node("Mul", query, graph.constant(size**-0.5))
    scores = graph.node("Add", graph.node("MatMul", scaled, key), bias)
    context = graph.node("MatMul", graph.node("Softmax", scores, axis=-1), value)

    context = graph.node("Transpose", context, perm=[0, 2, 1, 3])  # (B, L, H, K)
    joined = graph.node("Reshape", context, graph.constant([0, 0, heads * size]))
    return add_linear(graph, joined, attention.output)
