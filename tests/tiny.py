"""A model of odd sizes with all parameters from N(0, 0.3^2), so that a wrong formula fails."""

from dataclasses import replace

import torch
from hypothesis import strategies as st

from minibert import BertConfig, BertForTokenClassification
from minibert.text.tokenizer import Tokenizer

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
# Letters of many scripts, marks, white space, characters that BERT drops, symbols.
TEXT = st.text("aBT3é深カﷺ가İह\u093f\u0301-/'()[]+*#.,:\u2014\u2026\u200b\x07\x1c \n\u00a0👍\ufe0f")
TINY = BertConfig(
    vocab_size=53,
    hidden_size=30,
    num_hidden_layers=3,
    num_attention_heads=5,
    intermediate_size=37,
    max_position_embeddings=19,
    type_vocab_size=3,
    id2label={0: "O", 1: "B", 2: "I"},
)
FAMILIES = {
    "bert": TINY,
    "distilbert": replace(TINY, model_type="distilbert", type_vocab_size=0),
    "electra": replace(TINY, model_type="electra"),
}


def randomise(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Draw all parameters from N(0, 0.3^2), also those of norms and biases."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            draw = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_(0.3 * draw)
    return model


def letter_tagger(tags: dict[int, str], vocab_size: int) -> BertForTokenClassification:
    """A tagger in windows of 19 pieces that gives the pieces in `tags` these tags, all others VB,
    whatever stands around them."""
    labels = ("VB", *tags.values())
    config = replace(TINY, vocab_size=vocab_size).with_labels(labels)
    model = BertForTokenClassification(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.fill_(float("norm.weight" in name))  # each layer only adds 0
        word = model.bert.embeddings.word.weight
        word[:, 0] = 1
        for i, piece in enumerate(tags, 1):
            word[piece, 0], word[piece, i] = 0, 1
        model.classifier.weight[:, : len(labels)] = torch.eye(len(labels))
    return model


def assert_equal(model: torch.nn.Module, other: torch.nn.Module) -> None:
    """The same parameters and buffers, bit by bit."""
    state, expected = model.state_dict(), other.state_dict()
    assert state.keys() == expected.keys()
    for name, tensor in state.items():
        assert torch.equal(tensor, expected[name]), name


def tagger_for(pieces: Tokenizer) -> BertForTokenClassification:
    """TINY with the vocabulary of `pieces`, for windows of real text."""
    config = replace(TINY, vocab_size=pieces.size, max_position_embeddings=64)
    return randomise(BertForTokenClassification(config).double()).eval()
