"""Fixtures: a tiny tagger, a batch, a tokenizer and an encoder folder."""

from pathlib import Path

import pytest
import torch
from hypothesis import settings
from tiny import FAMILIES, SPECIAL, TINY, letter_tagger, randomise
from tokenizers.implementations import BertWordPieceTokenizer

from minibert import BertConfig, BertForTokenClassification, save_pretrained
from minibert.data.corpus import SAMPLE, read_documents
from minibert.text.tokenizer import Tokenizer

torch.set_num_threads(1)  # models this small lose more to threads than they gain
settings.register_profile("same", derandomize=True, deadline=None)
settings.load_profile("same")  # the same examples in every run, without a time limit


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whole scripts, and the folder slow, take seconds a test. Without a GPU, its tests skip."""
    gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(gpu)
        if item.path.parent.name in ("scripts", "study", "slow"):
            item.add_marker(pytest.mark.slow)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--kills", type=int, default=12, help="number of kills of each script, in test_faults.py"
    )
    parser.addoption("--precision", choices=["float32", "bf16"], default="float32")


@pytest.fixture
def precision(pytestconfig) -> str:
    """The precision in which the scripts train."""
    return pytestconfig.getoption("--precision")


@pytest.fixture
def tagger() -> BertForTokenClassification:
    return randomise(BertForTokenClassification(TINY).double()).eval()


@pytest.fixture
def batch() -> dict[str, torch.Tensor]:
    """Four sequences of 11, 7, 1 and 9 real tokens, the last padded on the left and inside."""
    generator = torch.Generator().manual_seed(1)
    mask = torch.zeros(4, 11, dtype=torch.long)
    mask[0] = 1
    mask[1, :7] = 1
    mask[2, :1] = 1
    mask[3, 1:5] = mask[3, 6:] = 1
    return {
        "input_ids": torch.randint(0, 53, (4, 11), generator=generator),
        "attention_mask": mask,
        "token_type_ids": torch.randint(0, 3, (4, 11), generator=generator),
    }


@pytest.fixture(params=FAMILIES)
def family_tagger(request) -> BertForTokenClassification:
    """As `tagger`, for each family of encoders."""
    return randomise(BertForTokenClassification(FAMILIES[request.param]).double()).eval()


@pytest.fixture
def family_batch(family_tagger, batch) -> dict[str, torch.Tensor]:
    """As `batch`, without token types where the family has none."""
    if not family_tagger.config.type_vocab_size:
        del batch["token_type_ids"]
    return batch


@pytest.fixture(scope="session")
def pieces(tmp_path_factory) -> Tokenizer:
    """A WordPiece tokenizer with all characters of the sample and a third of its words."""
    texts = [d.text.lower() for d in read_documents(SAMPLE / "train.jsonl")]
    characters = sorted({c for text in texts for c in text if not c.isspace()})
    words = sorted({w for text in texts for w in text.split() if w.isalpha() and len(w) > 3})
    vocabulary = SPECIAL + characters + ["##" + c for c in characters] + words[::3]
    path = tmp_path_factory.mktemp("tokenizer") / "vocab.txt"
    path.write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    return Tokenizer(BertWordPieceTokenizer(str(path))._tokenizer, str(path))


@pytest.fixture(scope="session")
def encoder_folder(tmp_path_factory, pieces) -> Path:
    """A model folder with a small random float32 encoder and a tokenizer for it."""
    return write_encoder(tmp_path_factory.mktemp("encoder"), pieces, "bert")


@pytest.fixture(scope="session", params=FAMILIES)
def family_folder(request, tmp_path_factory, pieces) -> Path:
    """As `encoder_folder`, for each family of encoders."""
    return write_encoder(tmp_path_factory.mktemp(request.param), pieces, request.param)


def write_encoder(folder: Path, pieces: Tokenizer, family: str) -> Path:
    config = BertConfig(
        vocab_size=pieces.size,
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=32,
        max_position_embeddings=128,
        type_vocab_size=0 if family == "distilbert" else 2,
        model_type=family,
    )
    torch.manual_seed(0)
    save_pretrained(BertForTokenClassification(config.with_labels(("O", "I"))).bert, folder)
    pieces.save(folder)
    return folder


@pytest.fixture(scope="session")
def pos_folder(tmp_path_factory) -> Path:
    """A part-of-speech tagger with its own tokenizer: the first letter of a word is its tag, j of
    an adjective, n of a noun, any other of a verb."""
    folder = tmp_path_factory.mktemp("pos")
    letters = "abcdefghijklmnopqrstuvwxyz"
    path = folder / "vocab.txt"
    path.write_text("\n".join([*SPECIAL, *letters, *(f"##{letter}" for letter in letters)]))
    tokenizer = Tokenizer(BertWordPieceTokenizer(str(path))._tokenizer, str(path))
    tags = {len(SPECIAL) + letters.index("j"): "JJ", len(SPECIAL) + letters.index("n"): "NN"}
    save_pretrained(letter_tagger(tags, tokenizer.size), folder)
    tokenizer.save(folder)
    return folder
