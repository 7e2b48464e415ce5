"""Values of transformers for a tiny BERT. Run this file to rewrite golden.safetensors."""

from pathlib import Path

import torch
from tiny import randomise
from torch import Tensor

GOLDEN = Path(__file__).parent / "golden.safetensors"
LAYERS, HEADS = 3, 5
ONE = 1  # the layer whose attention output is recorded separately


# The output projection of a layer, and the norm after it.
OUTPUT = {
    "bert": (
        "encoder.layer.{}.attention.output.dense",
        "encoder.layer.{}.attention.output.LayerNorm",
    ),
    "distilbert": ("transformer.layer.{}.attention.out_lin", "transformer.layer.{}.sa_layer_norm"),
}
OUTPUT["electra"] = OUTPUT["bert"]


def theirs(hidden_act: str = "gelu", seed: int = 0, family: str = "bert"):
    """A tagger of transformers in float64, of odd sizes, all parameters from N(0, 0.3^2)."""
    from transformers import AutoConfig, AutoModelForTokenClassification

    sizes = {
        "hidden_size": 30,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "intermediate_size": 37,
        "type_vocab_size": 3,
        "hidden_act": hidden_act,
    }
    if family == "distilbert":
        sizes = {"dim": 30, "n_layers": LAYERS, "n_heads": HEADS, "hidden_dim": 37}
        sizes |= {"activation": hidden_act}
    elif family == "electra":
        sizes |= {"embedding_size": 30}
    config = AutoConfig.for_model(
        family,
        **sizes,
        vocab_size=53,
        max_position_embeddings=19,
        id2label={0: "O", 1: "B", 2: "I"},
        label2id={"O": 0, "B": 1, "I": 2},
    )
    model = AutoModelForTokenClassification.from_config(config, attn_implementation="eager")
    model.config.architectures = [type(model).__name__]
    return randomise(model.double().eval(), seed)


def make_inputs(seed: int = 0, family: str = "bert") -> dict[str, Tensor]:
    """Padding on the right, nowhere, on the left, inside. Some tokens are not scored."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.ones(5, 11, dtype=torch.long)
    mask[0, 7:] = 0
    mask[2, :4] = 0
    mask[3, 4:6] = mask[3, 8] = 0
    mask[4, 1:] = 0
    labels = torch.randint(0, 3, (5, 11), generator=generator)
    scored = (torch.rand(5, 11, generator=generator) < 0.7) & (mask == 1)
    head_mask = torch.rand(LAYERS, HEADS, generator=generator, dtype=torch.float64)
    head_mask[0, 2], head_mask[1, 0], head_mask[2, 1:4] = 0, 1, 0
    inputs = {
        "input_ids": torch.randint(0, 53, (5, 11), generator=generator),
        "attention_mask": mask,
        "token_type_ids": torch.randint(0, 3, (5, 11), generator=generator),
        "labels": labels.masked_fill(~scored, -100),
        "head_mask": head_mask,
        "head_masks": torch.rand(5, LAYERS, HEADS, generator=generator, dtype=torch.float64),
    }
    return {k: v for k, v in inputs.items() if (k, family) != ("token_type_ids", "distilbert")}


def masked(model, head_mask: Tensor, **inputs: Tensor):
    """transformers' output after scaling the columns of each head in the output projection."""
    family = model.config.model_type
    name = f"{family}.{OUTPUT[family][0]}.weight"
    size = model.config.hidden_size // model.config.num_attention_heads
    weights = dict(model.named_parameters())
    scaled = {
        name.format(i): weights[name.format(i)].detach() * row.repeat_interleave(size)
        for i, row in enumerate(head_mask)
    }
    return torch.func.functional_call(model, scaled, kwargs=inputs)


def expectations(model, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """All intermediate values of transformers, at the T real tokens only."""
    real = inputs["attention_mask"].bool()
    given = {k: v for k, v in inputs.items() if not k.startswith("head_mask")}
    parts: dict[str, Tensor] = {}

    def keep(name: str, of_input: bool = False):
        def hook(_, arguments, output):
            parts[name] = arguments[0] if of_input else output

        return hook

    base = model.base_model
    projection, norm = (base.get_submodule(n.format(ONE)) for n in OUTPUT[model.config.model_type])
    hooks = [
        base.embeddings.register_forward_hook(keep("embeddings")),
        projection.register_forward_hook(keep("context", of_input=True)),
        projection.register_forward_hook(keep("attention")),
        norm.register_forward_hook(keep("attention_norm")),
    ]
    with torch.no_grad():
        out = model(**given, output_hidden_states=True, output_attentions=True)
        for hook in hooks:
            hook.remove()
        alone = [
            masked(model, one, **{k: v[i : i + 1] for k, v in given.items()}).logits[0]
            for i, one in enumerate(inputs["head_masks"])
        ]
        plain = model(input_ids=inputs["input_ids"]).logits
    head_mask = inputs["head_mask"].clone().requires_grad_()
    masked_out = masked(model, head_mask, **given)
    masked_out.loss.backward()
    hidden = torch.stack(out.hidden_states)  # (layers + 1, B, L, D)
    probs = torch.stack(out.attentions).transpose(2, 3)  # (layers, B, query, H, key)
    return {name: part[real].detach() for name, part in parts.items()} | {
        "hidden_states": hidden[:, real].clone(),
        "attentions": probs[:, real].clone(),  # (layers, T, H, L)
        "logits": out.logits[real],
        "plain_logits": plain,  # (B, L, labels): of the ids alone, each of them real
        "loss": out.loss,
        "masked_logits": masked_out.logits[real].detach(),
        "masked_loss": masked_out.loss.detach(),
        "masked_alone_logits": torch.stack(alone)[real],
        "head_mask_gradient": head_mask.grad,
    }


def write(path: Path) -> None:
    from safetensors.torch import save_file

    model, inputs = theirs(), make_inputs()
    groups = {
        "weights": dict(model.state_dict()),
        "inputs": inputs,
        "expected": expectations(model, inputs),
    }
    tensors = {f"{group}/{k}": v for group, values in groups.items() for k, v in values.items()}
    save_file(
        {k: v.contiguous() for k, v in tensors.items()},
        path,
        {"config": model.config.to_json_string()},
    )


def read(path: Path) -> tuple[dict[str, dict[str, Tensor]], str]:
    """The three groups of tensors, and the text of transformers' config.json."""
    from safetensors import safe_open

    groups: dict[str, dict[str, Tensor]] = {"weights": {}, "inputs": {}, "expected": {}}
    with safe_open(path, "pt") as file:
        for key in file.keys():  # noqa: SIM118
            group, _, name = key.partition("/")
            groups[group][name] = file.get_tensor(key)
        return groups, file.metadata()["config"]


if __name__ == "__main__":
    write(GOLDEN)
