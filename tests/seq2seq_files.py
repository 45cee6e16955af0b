"""Tiny encoder-decoders of transformers in folders on disk, every parameter random, and how they are compared."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from peers import error, randomize
from torch import Tensor, nn

import zoo

BART = dict(
    d_model=32, encoder_layers=2, decoder_layers=3, encoder_attention_heads=4, decoder_attention_heads=8,
    encoder_ffn_dim=48, decoder_ffn_dim=40, max_position_embeddings=40, bos_token_id=0, eos_token_id=1,
    decoder_start_token_id=3, forced_eos_token_id=1,
)  # fmt: skip
T5 = dict(d_model=32, d_kv=12, d_ff=48, num_layers=2, num_decoder_layers=3, num_heads=4, decoder_start_token_id=3)
# Start of the names of classes: sizes of tiny models, for a vocabulary of any size and any padding token.
TINY = {"Bart": BART, "MBart": BART, "Marian": BART, "T5": T5, "MT5": T5}


def seq2seq_folder(folder: Path, name: str, seed: int = 0, **options) -> nn.Module:
    """A tiny model of transformers' class `name`; fixed tables keep their values."""
    import transformers

    cls = getattr(transformers, name)
    model = cls(cls.config_class(**options))
    fixed = {key: value.clone() for key, value in model.state_dict().items() if "embed_positions" in key}
    randomize(model, seed)
    if "Marian" in name:
        model.load_state_dict(fixed, strict=False)
    if hasattr(model, "final_logits_bias"):
        model.final_logits_bias.normal_(generator=torch.Generator().manual_seed(seed + 1))
    model.save_pretrained(folder)
    return model.eval()


def ragged(vocab: int, seed: int = 3) -> dict[str, Tensor]:
    """Three rows with padding on the right, where the positions of transformers count columns."""
    generator = torch.Generator().manual_seed(seed)
    source, target = (torch.randint(4, vocab, (3, n), generator=generator) for n in (11, 7))
    keep = torch.ones_like(source)
    keep[1, 6:], keep[2, 9:] = 0, 0
    return {"input_ids": source, "attention_mask": keep, "decoder_input_ids": target}


def scores_of(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Logits, else the decoder's hidden states."""
    with torch.no_grad():
        output = model(**batch)
    if isinstance(output, Tensor):
        return output
    return output.logits if hasattr(output, "logits") else output.last_hidden_state


def export_and_compare(ours: zoo.Model, theirs: nn.Module, folder: Path, batch: dict[str, Tensor]) -> nn.Module:
    """Export to transformers' format, load with transformers and compare; nothing may be missing or left over."""
    zoo.export(ours, folder)
    again, info = type(theirs).from_pretrained(folder, output_loading_info=True, dtype=ours.dtype)
    odd = {kind: [name for name in names if "embed_positions" not in name] for kind, names in info.items() if names}
    assert not any(odd.values()), odd
    assert error(scores_of(again.eval(), batch), scores_of(theirs, batch)) <= (
        1e-5 if ours.dtype is torch.float32 else 1e-9
    )
    return again


def check_training(ours: zoo.Model, theirs: nn.Module, start: int, bound: float) -> None:
    """20 steps of AdamW on the same batches give equal losses."""
    batch = ragged(50)
    labels = batch["decoder_input_ids"].clone()
    batch["decoder_input_ids"] = torch.cat([torch.full((3, 1), start), labels[:, :-1]], 1)
    losses: list[list[float]] = []
    for model in (ours.train(), theirs.train()):
        trained = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=3e-3)
        losses.append([])
        for _ in range(20):
            output = model(**batch)
            scores = output if isinstance(output, Tensor) else output.logits
            loss = F.cross_entropy(scores.flatten(0, 1), labels.flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses[-1].append(loss.item())
    assert losses[0][-1] < 0.8 * losses[0][0]
    assert losses[0] == pytest.approx(losses[1], rel=bound)
