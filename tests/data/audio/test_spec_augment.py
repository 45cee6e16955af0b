"""SpecAugment: what is hidden, how often, and that a clip hides the same whatever its batch."""

import pytest
import torch
from torch import Tensor

from zoo.data.audio.spec_augment import SpecAugment
from zoo.utils.keyed_random import KeyedRandom

T, F = 40, 24


def batch(n: int, first: int = 0, epoch: int = 0) -> dict[str, Tensor]:
    """Clips without a single zero."""
    values = torch.rand(first + n, T, F, generator=torch.Generator().manual_seed(0))[first:] + 1
    index = torch.arange(first, first + n)
    return {"input_values": values, "labels": index % 3, "index": index, "epoch": torch.tensor(epoch)}


def run(data: dict[str, Tensor], seed: int = 0, step: int = 0, train: bool = True, **fields: float) -> Tensor:
    return SpecAugment(**fields)(data, seed=seed, step=step, train=train)["input_values"]  # type: ignore[arg-type]


def test_bands_and_stretches_are_hidden_and_nothing_else_changes() -> None:
    data = batch(200)
    out = run(data, freq_masks=1, freq_width=6, time_masks=1, time_width=9)
    hidden = out == 0
    assert torch.equal(out[~hidden], data["input_values"][~hidden])
    bands, stretches = hidden.all(1), hidden.all(2)  # [B, F], [B, T]
    assert torch.equal(hidden, bands[:, None] | stretches[:, :, None])
    for line, widest in ((bands, 6), (stretches, 9)):
        assert line.sum(1).min() == 0 and line.sum(1).max() == widest
        edges = (line[:, 1:] != line[:, :-1]).sum(1) + line[:, 0].int() + line[:, -1].int()
        assert set(edges.tolist()) <= {0, 2}, "one piece without a hole"


def test_widths_are_even_and_every_place_is_hit() -> None:
    out = SpecAugment(freq_masks=1, freq_width=4, time_masks=0).hidden(
        torch.ones(20_000, 2, F), KeyedRandom(0, 0, torch.arange(20_000))
    )
    width = (out[:, 0] == 0).sum(1)
    assert (width.bincount() / len(width) - 0.2).abs().max() < 0.02
    share = (out[:, 0] == 0).float().mean(0)
    assert share.min() > 0.02 and share[4:-4].std() < 0.01


def test_a_clip_does_not_depend_on_its_batch() -> None:
    whole = run(batch(64, epoch=3))
    assert torch.equal(run(batch(20, first=30, epoch=3)), whole[30:50])
    assert torch.equal(run(batch(1, first=7, epoch=3), step=9), whole[7:8])
    assert not torch.equal(run(batch(64, epoch=4)), whole) and not torch.equal(run(batch(64, epoch=3), seed=1), whole)


def test_stretches_lie_among_real_frames() -> None:
    data = batch(500) | {"frames": torch.full((500,), 10)}
    hidden = (run(data, freq_masks=0, time_masks=1, time_share=0.5) == 0).any(2)
    assert hidden[:, :10].any() and not hidden[:, 10:].any() and hidden.sum(1).max() == 5


def test_whispers_axes() -> None:
    data = batch(50)
    turned = {"input_features": data["input_values"].mT} | {k: v for k, v in data.items() if k != "input_values"}
    out = SpecAugment()(turned, seed=0, step=0, train=True)["input_features"]
    assert torch.equal(out.mT, run(data))


def test_evaluation_and_zero_masks_change_nothing() -> None:
    data = batch(8)
    assert run(data, train=False) is data["input_values"]
    assert torch.equal(run(data, freq_masks=0, time_masks=0), data["input_values"])
    assert torch.equal(run(data, freq_width=0, time_width=0), data["input_values"])
    assert SpecAugment()(data, seed=0, step=0, train=False)["targets"] is data["labels"]


def test_widths_beyond_the_spectrogram_are_its_own() -> None:
    hidden = run(batch(300), freq_masks=1, freq_width=999, time_masks=0) == 0
    assert hidden.all(1).sum(1).max() == F


def test_what_cannot_be() -> None:
    with pytest.raises(ValueError, match="freq_width=-1"):
        SpecAugment(freq_width=-1)
    with pytest.raises(ValueError, match="time_share=2"):
        SpecAugment(time_share=2)
    with pytest.raises(ValueError, match="masks are sampled by index"):
        SpecAugment()({"input_values": torch.ones(1, 4, 4)}, seed=0, step=0, train=True)


def test_it_is_an_augmentation_of_a_classifier() -> None:
    import zoo
    from zoo.tasks import ClassificationTask

    model = zoo.create_model("ast_tiny", max_length=T, mel_bins=F, patch_size=8, stride=8, width=16, heads=2, depth=1)
    task = ClassificationTask(model, lr=1e-3, augment=SpecAugment())
    assert task.loss_of(batch(4), step=0, micro=0).isfinite()
