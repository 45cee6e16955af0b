"""Tiny text models of transformers, every parameter random, in folders on disk, and ragged batches for them."""

from pathlib import Path

import torch
from peers import randomize
from torch import Tensor, nn

SHAPE = {
    "vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
    "max_position_embeddings": 40,
}  # fmt: skip
DISTIL = {
    "vocab_size": 99, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64, "max_position_embeddings": 40,
}  # fmt: skip
MODERN = {"num_hidden_layers": 4, "local_attention": 6, "pad_token_id": 0, "cls_token_id": 1, "sep_token_id": 2}
MODERN |= {"bos_token_id": 1, "eos_token_id": 2}
TINY = {
    "Bert": SHAPE,
    "Roberta": SHAPE | {"pad_token_id": 1, "type_vocab_size": 1, "layer_norm_eps": 1e-5},
    "XLMRoberta": SHAPE | {"pad_token_id": 1, "type_vocab_size": 1, "layer_norm_eps": 1e-5},
    "DistilBert": DISTIL,
    "ModernBert": SHAPE | MODERN,
}


def transformers_text(folder: Path, name: str, seed: int = 0, **options) -> nn.Module:
    """A tiny model of transformers' class `name`, saved in `folder` as transformers does."""
    import transformers

    cls = getattr(transformers, name)
    tiny = next(tiny for start, tiny in TINY.items() if name.startswith(start))
    model = randomize(
        cls(cls.config_class(**tiny | {"num_labels": 2 if name.endswith("Answering") else 3} | options)), seed
    )
    model.save_pretrained(folder)
    return model


def ragged(rows=(11, 4, 7), vocab=99, seed=1, side="right", pad=1, types=False) -> dict[str, Tensor]:
    """A batch of rows of these lengths, padded to the longest, without the special ids below 5."""
    draw = torch.Generator().manual_seed(seed)
    longest = max(rows)
    ids = torch.randint(5, vocab, (len(rows), longest), generator=draw)
    place = torch.arange(longest)
    lengths = torch.tensor(rows)[:, None]
    keep = place < lengths if side == "right" else place >= longest - lengths
    batch = {"input_ids": ids.where(keep, torch.tensor(pad)), "attention_mask": keep.long()}
    if types:
        batch["token_type_ids"] = torch.randint(0, 2, ids.shape, generator=draw)
    return batch


def answer(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Logits (start and end side by side), else the last hidden states; zeros at padding."""
    with torch.no_grad():
        output = model(**batch)
    if not isinstance(output, Tensor):
        if "start_logits" in output:
            output = torch.stack([output["start_logits"], output["end_logits"]], -1)
        else:
            output = output["logits"] if "logits" in output else output["last_hidden_state"]
    keep = batch.get("attention_mask")
    return output if output.ndim < 3 or keep is None else output * keep[..., None]
