"""Tiny audio models of transformers, every parameter random, in folders on disk, and sounds for them."""

from pathlib import Path

import torch
from peers import randomize
from torch import Tensor, nn

SHAPE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
SPECTROGRAM = SHAPE | {
    "patch_size": 4, "frequency_stride": 2, "time_stride": 3, "max_length": 24, "num_mel_bins": 16, "num_labels": 7,
}  # fmt: skip
WAVEFORM = SHAPE | {
    "conv_dim": (16, 24, 16), "conv_kernel": (10, 3, 2), "conv_stride": (5, 2, 2), "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 4, "vocab_size": 11, "classifier_proj_size": 20, "num_labels": 7,
}  # fmt: skip
STABLE = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}


def transformers_audio(folder: Path, name: str, seed: int = 0, **options) -> nn.Module:
    """A tiny model of transformers' class `name`, saved in `folder` as transformers does."""
    import transformers

    cls = getattr(transformers, name)
    tiny = SPECTROGRAM if name.startswith("AST") else WAVEFORM
    model = randomize(cls(cls.config_class(**tiny | options)), seed)
    model.save_pretrained(folder)
    return model


def answer(model: nn.Module, x: Tensor, mask: Tensor | None = None) -> Tensor:
    """Logits, else the last hidden states."""
    with torch.no_grad():
        output = model(x) if mask is None else model(x, attention_mask=mask)
    if isinstance(output, Tensor):
        return output
    return output.logits if "logits" in output else output.last_hidden_state


def noise(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))
