"""A compact BERT with a switch on every attention head: mask it, gate it, prune it, measure it."""

from minibert.config import BertConfig as BertConfig
from minibert.errors import InputError as InputError
from minibert.model import Bert as Bert
from minibert.model import BertForTokenClassification as BertForTokenClassification
from minibert.weights import load_pretrained as load_pretrained
from minibert.weights import save_pretrained as save_pretrained

__version__ = "0.1.0"
