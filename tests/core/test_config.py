"""config.json: fields that are read, values that are rejected, and messages with the key."""

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import get_type_hints

import pytest
from tiny import FAMILIES, TINY

import ablate
import prune
import rank
from minibert import BertConfig, InputError
from minibert.keyphrases.ranker import RankSettings
from minibert.training.settings import TrainSettings

GOOD = {
    "model_type": "bert",
    "vocab_size": 100,
    "hidden_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 20,
}
DISTILBERT = {
    "model_type": "distilbert",
    "vocab_size": 100,
    "dim": 12,
    "n_layers": 2,
    "n_heads": 3,
    "hidden_dim": 20,
}
ELECTRA = GOOD | {"model_type": "electra", "embedding_size": 12}
REQUIRED = [key for key in GOOD if key != "model_type"]


@pytest.fixture
def load(tmp_path):
    def load(base: dict = GOOD, **changes) -> BertConfig:
        path = tmp_path / "config.json"
        path.write_text(json.dumps(base | changes))
        return BertConfig.load(path)

    return load


def test_missing_fields_have_berts_defaults(load):
    config = load()
    assert [getattr(config, key) for key in REQUIRED] == [100, 12, 2, 3, 20]
    assert (config.max_position_embeddings, config.type_vocab_size) == (512, 2)
    assert (config.hidden_act, config.layer_norm_eps) == ("gelu", 1e-12)
    assert (config.hidden_dropout_prob, config.attention_probs_dropout_prob) == (0.1, 0.1)
    assert (config.classifier_dropout, config.initializer_range) == (None, 0.02)
    assert (config.labels, config.pruned_heads, config.head_size) == ((), {}, 4)


def test_all_fields_are_read(load):
    changes = {
        "max_position_embeddings": 7,
        "type_vocab_size": 1,
        "hidden_act": "relu",
        "layer_norm_eps": 1e-5,
        "hidden_dropout_prob": 0,  # a whole number for a float
        "attention_probs_dropout_prob": 0.2,
        "classifier_dropout": 0.0,
        "initializer_range": 1,
    }
    config = load(**changes, id2label={"1": "B", "0": "A"}, pruned_heads={"1": [2, 0]})
    assert {key: getattr(config, key) for key in changes} == changes
    assert config.labels == ("A", "B")
    assert (config.heads(0), config.heads(1)) == ((0, 1, 2), (1,))


def test_keys_of_distilbert_are_read(load):
    """transformers ignores some of BERT's keys there. It has no other epsilon, no token types."""
    ignored = {"layer_norm_eps": 1e-5, "type_vocab_size": 2, "intermediate_size": 7}
    config = load(DISTILBERT, **ignored, hidden_act="relu", sinusoidal_pos_embds=True)
    sizes = {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3}
    sizes |= {"intermediate_size": 20, "vocab_size": 100, "type_vocab_size": 0}
    assert config == BertConfig(**sizes, model_type="distilbert")

    config = load(DISTILBERT, activation="relu", dropout=0.3, attention_dropout=0.2)
    assert (config.hidden_act, config.hidden_dropout_prob) == ("relu", 0.3)
    assert config.attention_probs_dropout_prob == 0.2


def test_aliases_of_distilbert_take_precedence(load, tmp_path):
    """As in transformers' DistilBertConfig, in either order of the keys."""
    aliases = {"hidden_size": 8, "num_hidden_layers": 5, "num_attention_heads": 2}
    expected = (8, 5, 2)
    for raw in (DISTILBERT | aliases, aliases | DISTILBERT):
        (tmp_path / "config.json").write_text(json.dumps(raw | {"vocab_size": 100}))
        config = BertConfig.load(tmp_path / "config.json")
        sizes = (config.hidden_size, config.num_hidden_layers, config.num_attention_heads)
        assert sizes == expected


@pytest.mark.parametrize("key", ["dim", "n_layers", "n_heads", "hidden_dim"])
def test_missing_or_wrong_size_of_distilbert_is_rejected(key, load, tmp_path):
    with pytest.raises(InputError, match=r"config\.json: config: \w+ must be .*, not '12'"):
        load(DISTILBERT, **{key: "12"})
    (tmp_path / "config.json").write_text(
        json.dumps({k: v for k, v in DISTILBERT.items() if k != key})
    )
    with pytest.raises(InputError, match=rf": missing {key}: is this a config.json of distilbert"):
        BertConfig.load(tmp_path / "config.json")


def test_electra_is_read_without_embedding_projection(load):
    config = load(ELECTRA)
    assert config == replace(load(), model_type="electra")
    for size in (128, "12", None):
        with pytest.raises(InputError, match=r"embedding_size is .*, not hidden_size: minibert"):
            load(ELECTRA, embedding_size=size)


@pytest.mark.parametrize(("name", "value"), [("type_vocab_size", 2), ("layer_norm_eps", 1e-5)])
def test_fields_that_distilbert_does_not_have_are_rejected(name, value):
    with pytest.raises(InputError, match=f"{name} must be .* for distilbert, not {value}"):
        replace(FAMILIES["distilbert"], **{name: value})


def test_irrelevant_keys_are_ignored(load):
    assert load(transformers_version="4.8.2", pad_token_id=3, use_cache=False) == load()


@pytest.mark.parametrize("key", REQUIRED)
def test_missing_size_is_named(key, tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({k: v for k, v in GOOD.items() if k != key}))
    with pytest.raises(InputError, match=rf"config\.json: missing {key}\b"):
        BertConfig.load(path)


WRONG = [
    *((key, value) for key in REQUIRED for value in ("12", 12.0, None, True, 0, -4, [12])),
    ("max_position_embeddings", 0),
    ("type_vocab_size", 0),
    ("type_vocab_size", False),
    ("hidden_act", "swish"),
    ("hidden_act", None),
    ("hidden_act", ["gelu"]),
    ("layer_norm_eps", 0),
    ("layer_norm_eps", 1),
    ("layer_norm_eps", -1e-12),
    ("layer_norm_eps", "1e-12"),
    ("layer_norm_eps", float("nan")),
    ("hidden_dropout_prob", 1.0),
    ("hidden_dropout_prob", -0.1),
    ("hidden_dropout_prob", float("nan")),
    ("hidden_dropout_prob", None),
    ("attention_probs_dropout_prob", 1),
    ("attention_probs_dropout_prob", "0.1"),
    ("classifier_dropout", 2),
    ("classifier_dropout", False),
    ("initializer_range", "small"),
    ("initializer_range", -0.02),
    ("initializer_range", float("nan")),
    ("hidden_size", 13),  # not a multiple of three heads
    ("num_attention_heads", 5),
    ("id2label", {"0": "A", "2": "C"}),
    ("id2label", {"1": "A"}),
    ("id2label", {"0": 7}),
    ("id2label", {"zero": "A"}),
    ("id2label", ["A", "B"]),
    ("id2label", "A"),
    ("id2label", 2),
    ("id2label", []),
    ("id2label", False),
    ("id2label", {"0": "A", "00": "B"}),
    ("id2label", {"0": "A", " 1": "B"}),
    ("vocab_size", 2**31),
    ("pruned_heads", {"0": 1}),
    ("pruned_heads", {"0": ["1"]}),
    ("pruned_heads", {"1_0": [1]}),
    ("pruned_heads", {"first": [1]}),
    ("pruned_heads", {"2": [0]}),
    ("pruned_heads", {"-1": [0]}),
    ("pruned_heads", {"0": [3]}),
    ("pruned_heads", {"0": [-1]}),
    ("pruned_heads", [[0, 1]]),
]


@pytest.mark.parametrize(("key", "value"), WRONG)
def test_wrong_value_is_rejected_by_name(key, value, load):
    with pytest.raises(InputError, match=rf"config\.json: .*\b{key}\b"):
        load(**{key: value})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("model_type", name) for name in ("roberta", "xlm-roberta", "albert", "mpnet", ["bert"])),
        ("model_type", None),
        ("position_embedding_type", "relative_key"),
        ("is_decoder", True),
        ("add_cross_attention", True),
        ("quantization_config", {"quant_method": "gptq"}),
    ],
)
def test_unsupported_architecture_is_rejected(key, value, load):
    with pytest.raises(InputError, match=rf"config\.json: {key} is "):
        load(**{key: value})


def test_refusal_lists_the_families_that_load(load):
    known = "minibert loads 'bert', 'distilbert', 'electra'"
    with pytest.raises(InputError, match=rf"config\.json: model_type is 'modernbert'; {known}$"):
        load(model_type="modernbert")


def test_defaults_written_by_transformers_are_accepted(load):
    fixed = {"position_embedding_type": "absolute", "is_decoder": False}
    assert load(**fixed, add_cross_attention=False, id2label=None, pruned_heads={}) == load()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"classifier_dropout": 0.0, "hidden_act": "gelu_new", "layer_norm_eps": 3e-7},
        {"pruned_heads": {0: [4, 1], 2: [0, 1, 2, 3, 4]}},
        {"id2label": {}},
        {"id2label": {i: f"é{i}" for i in range(12)}},  # "10" sorts before "2"
    ],
)
@pytest.mark.parametrize("family", FAMILIES)
def test_round_trip(family, changes, tmp_path):
    if family == "distilbert":
        changes = {k: v for k, v in changes.items() if k != "layer_norm_eps"}
    config = replace(FAMILIES[family], **changes)
    path = tmp_path / "config.json"
    path.write_text(config.to_json("BertForTokenClassification"), encoding="utf-8")
    assert BertConfig.load(path) == config


def test_to_json_has_the_keys_of_transformers():
    text = json.loads(TINY.with_labels(("O", "I")).to_json("BertForTokenClassification"))
    assert text["architectures"] == ["BertForTokenClassification"]
    assert text["model_type"] == "bert"
    assert text["id2label"] == {"0": "O", "1": "I"}
    assert text["label2id"] == {"O": 0, "I": 1}
    assert "pruned_heads" not in text


def test_to_json_has_the_keys_of_each_family():
    texts = {name: json.loads(config.to_json("X")) for name, config in FAMILIES.items()}
    assert texts["electra"] == texts["bert"] | {"model_type": "electra", "embedding_size": 30}
    assert texts["distilbert"] == {
        "architectures": ["X"],
        "model_type": "distilbert",
        "vocab_size": 53,
        "dim": 30,
        "n_layers": 3,
        "n_heads": 5,
        "hidden_dim": 37,
        "max_position_embeddings": 19,
        "activation": "gelu",
        "dropout": 0.1,
        "attention_dropout": 0.1,
        "initializer_range": 0.02,
        "id2label": {"0": "O", "1": "B", "2": "I"},
        "label2id": {"O": 0, "B": 1, "I": 2},
    }


@pytest.mark.parametrize(
    "content", [b"{", b"", b"\xff\xfe\x00", b"[]", b"3", b"null", b'"bert"', b"[" * 100_000]
)
def test_file_without_json_object_is_rejected(content, tmp_path):
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"config\.json: (not readable as|expected a) JSON"):
        BertConfig.load(path)


@pytest.mark.parametrize("value", ["x" * 10_000, [[[["x"] * 99] * 99] * 99]])
def test_message_shortens_long_values(value, load):
    with pytest.raises(InputError, match=r"hidden_act .*(not one of gelu|must be .*\.\.\.)"):
        load(hidden_act=value)


def test_missing_file_is_rejected(tmp_path):
    with pytest.raises(InputError, match=r"config\.json: not readable"):
        BertConfig.load(tmp_path / "config.json")


@pytest.mark.parametrize("key", ["vocab_size", "hidden_dropout_prob", "hidden_act"])
def test_constructor_checks_values(key):
    with pytest.raises(InputError, match=f"config: {key}"):
        BertConfig(**{**vars(TINY), key: []})


# Settings ---------------------------------------------------------------------------------------

SETTINGS = {
    RankSettings: {},
    TrainSettings: {},
    ablate.AblateSettings: {"run": Path("run")},
    prune.PruneSettings: {"run": Path("run"), "keep": (1,)},
    rank.Extract: {},
    rank.Fit: {"data": (Path("x.jsonl"),)},
    rank.Evaluate: {"data": Path("x.jsonl")},
    rank.Search: {"data": Path("data")},
}


@pytest.mark.parametrize("kind", SETTINGS, ids=lambda kind: kind.__name__)
def test_settings_check_every_field(kind):
    given = SETTINGS[kind]
    kind(**given)
    types = get_type_hints(kind)  # without what tyro adds
    for field in fields(kind):
        for wrong in (object(), [1], b"x", float("nan")):
            if isinstance(wrong, float) and types[field.name] in (float, int | None):
                continue  # a number: whether it is in range, the class itself checks
            with pytest.raises(InputError, match=f"^{field.name} must be "):
                kind(**given | {field.name: wrong})


@pytest.mark.parametrize(
    ("kind", "name", "value", "why"),
    [
        (RankSettings, "kind", "news", "one of keyphrases, tags, counted, not 'news'"),
        (RankSettings, "weights", "textrank", "one of received, pagerank, tagger"),
        (RankSettings, "top", "10", r"int \| None"),
        (TrainSettings, "precision", "float16", "one of auto, float32, bf16, fp16"),
        (TrainSettings, "plan", "layer-wise", "one of auto, plain, layerwise"),
        (TrainSettings, "labels", "IO", "one of io, bio, given"),
        (TrainSettings, "epochs", 2.5, "int, not 2.5"),
        (TrainSettings, "epochs", True, "int, not True"),
        (TrainSettings, "freeze_embeddings", 1, "bool, not 1"),
        (ablate.AblateSettings, "orders", ("single", "best"), "('single', 'best')"),
        (ablate.AblateSettings, "orders", "single", "not 'single'"),
        (prune.PruneSettings, "keep", (4, 1.5), "(4, 1.5)"),
    ],
)
def test_wrong_choice_is_rejected_with_the_choices(kind, name, value, why):
    with pytest.raises(InputError) as caught:
        kind(**SETTINGS[kind] | {name: value})
    assert str(caught.value).startswith(f"{name} must be ")
    assert why.replace("\\", "") in str(caught.value)


def test_str_and_path_are_converted():
    settings = RankSettings(model=Path("a/b"), idf="x.jsonl")
    assert (settings.model, settings.idf) == ("a/b", Path("x.jsonl"))
    assert RankSettings(idf=None).idf is None
    assert TrainSettings(learning_rate=1).learning_rate == 1  # a whole number for a float
