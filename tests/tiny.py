"""A model of odd sizes with every parameter from N(0, 0.3^2): a wrong formula cannot pass."""

from dataclasses import replace

import torch
from hypothesis import strategies as st

from minibert import BertConfig, BertForTokenClassification
from minibert.tokenizer import Tokenizer

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
# Letters of many scripts, marks, white space of both kinds, what BERT drops, symbols.
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


def randomise(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Every parameter from N(0, 0.3^2), norms and biases too."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            draw = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_(0.3 * draw)
    return model


def tagger_for(pieces: Tokenizer) -> BertForTokenClassification:
    """TINY with the vocabulary of `pieces`, for windows of real text."""
    config = replace(TINY, vocab_size=pieces.size, max_position_embeddings=64)
    return randomise(BertForTokenClassification(config).double()).eval()
