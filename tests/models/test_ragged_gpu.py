"""Families that drop padding, on a real GPU in half precision: beside float32 on the CPU, and beside padded rows."""

import pytest
import torch
from torch import Tensor

import zoo
from zoo.nn import sdpa

pytestmark = pytest.mark.gpu
N, LENGTHS = 48, (48, 3, 20, 31, 20, 47)
TEXT = dict(depth=2, width=128, heads=2, vocab_size=100, max_length=64, dropout=0.0, attention_dropout=0.0)
FAMILIES = {
    "bert_base": TEXT | dict(head="token"),
    "gpt2": TEXT,
    "llama2_7b": TEXT | dict(heads=4, kv_heads=2, mlp_dim=256),
    "modernbert_base": TEXT | dict(depth=4, mlp_dim=192),
    "clip_text_base": TEXT | dict(eos_token_id=99),
    "wav2vec2_tiny": dict(depth=2, dropout=0.0, attention_dropout=0.0),
}


def ragged(name: str) -> dict[str, Tensor]:
    """A batch with padding on the right; for LLaMA on the left."""
    generator = torch.Generator().manual_seed(0)
    size = N * 160 if "wav2vec2" in name else N
    lengths = torch.tensor(LENGTHS) * (size // N)
    mask = torch.arange(size) < lengths[:, None]
    mask = (mask.flip(1) if "llama" in name else mask).long()
    if "wav2vec2" in name:
        return {"input_values": torch.randn(len(LENGTHS), size, generator=generator) * mask, "attention_mask": mask}
    ids = torch.randint(5, 90, (len(LENGTHS), size), generator=generator)
    if "clip" in name:
        ids[torch.arange(len(LENGTHS)), lengths - 1] = 99  # the end of the text
    return {"input_ids": ids, "attention_mask": mask}


def graded(model: zoo.Model, batch: dict[str, Tensor]) -> list[Tensor]:
    """[output at real tokens, gradients], in float32 on the CPU."""
    like = next(model.parameters())
    batch = {key: x.to(like) if x.is_floating_point() else x.to(like.device) for key, x in batch.items()}
    model.zero_grad()
    y = model(**batch).float()
    if y.shape[:2] == batch["attention_mask"].shape:
        y = y * batch["attention_mask"][..., None]
    (y * torch.linspace(-1, 1, y.numel(), device=y.device).view_as(y)).sum().backward()
    return [x.float().cpu() for x in (y.detach(), *(p.grad for p in model.parameters() if p.grad is not None))]


def error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm().clamp(min=1e-2))


@pytest.mark.parametrize("name", FAMILIES)
def test_packed_rows_of_a_family(name, monkeypatch):
    """Packed rows are as near to float32 as padded ones in the same dtype: outputs within it, gradients beside them."""
    batch, calls, kernel = ragged(name), [], sdpa.flash_varlen
    monkeypatch.setattr(sdpa, "flash_varlen", lambda *args: calls.append(1) or kernel(*args))
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    expected = graded(zoo.create_model(name, seed=0, **FAMILIES[name]).eval(), batch)
    for dtype, tolerance in ((torch.bfloat16, 3e-2), (torch.float16, 5e-3), (torch.float32, 2e-5)):
        model = zoo.create_model(name, seed=0, **FAMILIES[name]).eval().to("cuda", dtype)
        packed = graded(model, batch)
        assert bool(calls) == (dtype != torch.float32)
        calls.clear()
        model.drop_padding = False
        padded = graded(model, batch)
        assert not calls and error(packed[0], expected[0]) <= tolerance
        for one, other, exact in zip(packed[1:], padded[1:], expected[1:], strict=True):
            assert error(one, exact) <= 2 * error(other, exact) + tolerance
