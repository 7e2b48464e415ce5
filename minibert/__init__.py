"""A compact BERT with a switch on every attention head: mask it, gate it, prune it, measure it."""

from minibert.config import BertConfig
from minibert.errors import InputError
from minibert.model import Bert, BertForTokenClassification
from minibert.weights import load_pretrained, save_pretrained

__version__ = "0.1.0"
__all__ = [
    "Bert",
    "BertConfig",
    "BertForTokenClassification",
    "InputError",
    "load_pretrained",
    "save_pretrained",
]
