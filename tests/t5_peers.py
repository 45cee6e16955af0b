"""Tiny T5 models of transformers, every parameter random, in folders on disk, and ragged batches for them."""

from pathlib import Path

import torch
from peers import randomize
from torch import Tensor, nn

TINY = {
    "vocab_size": 99, "d_model": 32, "d_kv": 12, "d_ff": 48, "num_layers": 2, "num_decoder_layers": 3, "num_heads": 4,
    "dropout_rate": 0.0, "decoder_start_token_id": 0,
}  # fmt: skip
V1_1 = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}

# name of a case: (transformers' class, its options)
CASES = {
    "t5": ("T5ForConditionalGeneration", {}),
    "t5 v1.1": ("T5ForConditionalGeneration", V1_1),
    "t5 gated, tied": ("T5ForConditionalGeneration", {"feed_forward_proj": "gated-silu"}),
    "t5 exact gelu": ("T5ForConditionalGeneration", {"feed_forward_proj": "gelu"}),
    "t5 buckets": (
        "T5ForConditionalGeneration", {"relative_attention_num_buckets": 16, "relative_attention_max_distance": 40}
    ),
    "t5 hidden states": ("T5Model", {}),
    "t5 encoder": ("T5EncoderModel", V1_1),
    "mt5": ("MT5ForConditionalGeneration", {"tie_word_embeddings": False}),
    "mt5 tied": ("MT5ForConditionalGeneration", {}),
    "mt5 hidden states": ("MT5Model", {}),
    "mt5 encoder": ("MT5EncoderModel", {}),
}  # fmt: skip


def peer(folder: Path, name: str, seed: int = 0, **options) -> nn.Module:
    """A tiny model of transformers, saved in `folder`; an untied head has weights of its own."""
    import transformers

    kind, own = CASES[name]
    cls = getattr(transformers, kind)
    options = TINY | own | options
    model = cls(cls.config_class(**options))
    if options.get("tie_word_embeddings") is False and hasattr(model, "lm_head"):
        model.lm_head.weight = nn.Parameter(torch.empty(model.lm_head.weight.shape))
    randomize(model, seed)
    model.save_pretrained(folder)
    return model


def batch(source=(11, 4, 7), target=(6, 3, 5), seed=1, side="right") -> dict[str, Tensor]:
    """Ragged rows of both sides; those of the decoder are padded on the right."""
    random = torch.Generator().manual_seed(seed)
    result = {}
    for prefix, lengths, right in (("", source, side == "right"), ("decoder_", target, True)):
        ids = torch.randint(3, 99, (len(lengths), max(lengths)), generator=random)
        place, count = torch.arange(max(lengths)), torch.tensor(lengths)[:, None]
        keep = place < count if right else place >= max(lengths) - count
        result |= {f"{prefix}input_ids": ids * keep, f"{prefix}attention_mask": keep.long()}
    return result


def outputs(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """Logits, else hidden states; zeros at padding."""
    if not hasattr(model, "decoder") or model.decoder is None:
        inputs = {name: value for name, value in inputs.items() if not name.startswith("decoder_")}
    with torch.no_grad():
        output = model(**inputs)
    if not isinstance(output, Tensor):
        output = output.logits if "logits" in output else output.last_hidden_state
    keep = inputs.get("decoder_attention_mask", inputs["attention_mask"])
    return output * keep[..., None]
