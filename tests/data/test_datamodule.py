"""Batches as a pure function of (seed, step); loaders in a Trainer; resume in the middle of an epoch."""

from collections.abc import Sequence
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from zoo.data import AugmentSettings, ImageDataModule, ImageDataset, ImageSplits, KeyedBatches
from zoo.data.datamodule import Loader
from zoo.data.keyed_batches import EvalBatches, Keys


def image_set(n: int) -> ImageDataset:
    labels = torch.arange(n) % 3
    pixels = torch.arange(n, dtype=torch.uint8)[:, None, None, None].expand(n, 3, 8, 8).contiguous()
    return ImageDataset(pixels, labels, ["a", "b", "c"])


def image_sets(train: int = 44, test: int = 21) -> ImageSplits:
    return ImageSplits(image_set(train), image_set(test), "tiny", False, "test", (0.5,) * 3, (0.25,) * 3)


def keyed(step: int = 0, n: int = 44, size: int = 8, **place: int) -> list[Keys]:
    return list(KeyedBatches(n, size, seed=0, step=lambda: step, **place))


# --- the sampler --------------------------------------------------------------------------------------------------


def test_an_epoch_visits_each_sample_at_most_once_and_epochs_differ() -> None:
    batches = keyed()
    seen = [i for batch in batches for i in batch]
    assert len(batches) == 5 and len(seen) == len(set(seen)) == 40 and all(batch.epoch == 0 for batch in batches)
    second = keyed(step=5)
    assert second[0].epoch == 1 and second[0] != batches[0]
    assert next(iter(KeyedBatches(44, 8, seed=1, step=lambda: 0))) != batches[0]


@pytest.mark.parametrize("step", [1, 4, 7, 12])
def test_it_starts_anywhere(step: int) -> None:
    whole = [batch for epoch in range(3) for batch in keyed(step=5 * epoch)]
    rest = keyed(step=step)
    assert rest == whole[step : (step // 5 + 1) * 5] and {b.epoch for b in rest} == {step // 5}


@pytest.mark.parametrize(("world", "accumulate"), [(1, 2), (2, 1), (2, 2), (4, 1)])
def test_ranks_and_accumulation_cut_the_same_batches(world: int, accumulate: int) -> None:
    parts = [keyed(rank=rank, world=world, accumulate=accumulate) for rank in range(world)]
    for step, batch in enumerate(keyed()):
        micro = [parts[j % world][step * accumulate + j // world] for j in range(world * accumulate)]
        assert [i for part in micro for i in part] == batch
    assert all(len(part) == 5 * accumulate for part in parts)


def test_refuses_what_does_not_divide() -> None:
    with pytest.raises(ValueError, match="multiple of 6"):
        KeyedBatches(44, 8, seed=0, step=lambda: 0, world=2, accumulate=3)
    with pytest.raises(ValueError, match="44 training samples do not fill one batch of 64"):
        KeyedBatches(44, 64, seed=0, step=lambda: 0)
    with pytest.raises(ValueError, match="rank"):
        KeyedBatches(44, 8, seed=0, step=lambda: 0, rank=2, world=2)


@pytest.mark.parametrize(
    ("n", "size", "world"), [(21, 4, 1), (21, 4, 2), (17, 4, 4), (4, 100, 4), (9, 1, 4), (10_000, 256, 8)]
)
def test_evaluation_sees_every_sample_once_in_equally_many_batches(n: int, size: int, world: int) -> None:
    parts = [list(EvalBatches(n, size, rank=rank, world=world)) for rank in range(world)]
    assert sorted(i for part in parts for batch in part for i in batch) == list(range(n))
    assert (
        len({len(part) for part in parts})
        == 1
        == len({len(EvalBatches(n, size, rank=r, world=world)) for r in range(world)})
    )
    assert all(1 <= len(batch) <= size + 1 for part in parts for batch in part)
    with pytest.raises(ValueError, match="each needs at least one"):
        EvalBatches(2, 4, world=3)


# --- loaders ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_loader_gathers_what_the_sampler_names(num_workers: int) -> None:
    data = image_set(44)
    batches = KeyedBatches(44, 8, seed=0, step=lambda: 7)
    loader = Loader(data, batches, num_workers=num_workers)
    assert len(loader) == 5
    for _ in range(2):  # a loader can be walked again
        for keys, batch in zip(batches, loader, strict=True):
            assert batch["index"].tolist() == keys and int(batch["epoch"]) == 1
            assert torch.equal(batch["pixel_values"][:, 0, 0, 0].long(), batch["index"])
            assert torch.equal(batch["labels"], batch["index"] % 3)


def test_an_image_set_works_in_a_plain_data_loader() -> None:
    batch = next(iter(DataLoader(image_set(10), batch_size=4)))
    assert batch["pixel_values"].shape == (4, 3, 8, 8) and batch["index"].tolist() == [0, 1, 2, 3]


def test_keyed_batches_work_with_any_data_set() -> None:
    loader = DataLoader(torch.arange(44), batch_sampler=KeyedBatches(44, 8, seed=0, step=lambda: 0))  # type: ignore[arg-type]
    assert [batch.tolist() for batch in loader] == keyed()


# --- in a Trainer -------------------------------------------------------------------------------------------------


class Plain(L.LightningModule):
    """A user's own task: knows nothing of this library, takes floats and targets."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Linear(192, 3)
        self.seen: list[tuple[int, list[int]]] = []
        self.losses: list[float] = []
        self.evaluated: list[int] = []

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        loss = nn.functional.cross_entropy(self.net(batch["pixel_values"].flatten(1)), batch["targets"])
        self.seen.append((self.global_step, batch["index"].tolist()))
        self.losses.append(loss.item())
        return loss

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        assert batch["pixel_values"].dtype == torch.float32 and batch["targets"].ndim == 1
        self.evaluated += batch["index"].tolist()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-2)


def fit(
    steps: int, root: Path, resume: Path | None = None, callbacks: Sequence[Any] = (), **module: Any
) -> tuple[Plain, L.Trainer]:
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = L.Trainer(
        max_steps=steps, accelerator="cpu", num_sanity_val_steps=0, default_root_dir=root, callbacks=list(callbacks),
        enable_checkpointing=False, accumulate_grad_batches=module.pop("accumulate", 1), **quiet,
    )  # fmt: skip
    task = Plain()
    augment = AugmentSettings(crop=1, policy="trivialaugment", mixup=0.5, cutmix=0.5)
    data = ImageDataModule(image_sets(), 8, seed=3, augment=augment, normalize=True, **module)
    trainer.fit(task, data, ckpt_path=resume)
    return task, trainer


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("num_workers", [0, 1])
def test_resume_in_the_middle_of_an_epoch_is_exact(tmp_path: Path, num_workers: int) -> None:
    whole, _ = fit(12, tmp_path)
    before = {*active_children()}
    first, trainer = fit(7, tmp_path, num_workers=num_workers)
    assert {*active_children()} <= before, "no worker waits for the garbage collector"
    trainer.save_checkpoint(tmp_path / "seven.ckpt")
    second, _ = fit(12, tmp_path, resume=tmp_path / "seven.ckpt", num_workers=num_workers)
    assert first.seen + second.seen == whole.seen and [step for step, _ in whole.seen] == list(range(12))
    assert first.losses + second.losses == whole.losses
    assert torch.equal(second.net.weight, whole.net.weight)
    assert sorted(whole.evaluated) == sorted(list(range(21)) * 2)  # after the epochs that ended at steps 5 and 10


@pytest.mark.filterwarnings("ignore")
def test_accumulation_visits_the_samples_of_the_same_steps(tmp_path: Path) -> None:
    whole, _ = fit(6, tmp_path)
    cut, _ = fit(6, tmp_path, accumulate=2)
    merged: dict[int, list[int]] = {}
    for step, index in cut.seen:
        merged.setdefault(step, []).extend(index)
    assert merged == dict(whole.seen)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("accumulate", [1, 2])
def test_images_on_the_device_give_the_same_batches(
    tmp_path: Path, accumulate: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, _ = fit(7, tmp_path, accumulate=accumulate)
    fetched: list[int] = []
    pixels = ImageDataset.pixels
    monkeypatch.setattr(ImageDataset, "pixels", lambda data, index: fetched.append(len(data)) or pixels(data, index))
    kept, trainer = fit(7, tmp_path, accumulate=accumulate, on_device=True)
    assert kept.seen == whole.seen and kept.losses == whole.losses and kept.evaluated == whole.evaluated
    assert set(fetched) == {21}  # of the validation alone
    assert trainer.datamodule._images is None  # freed  # type: ignore[attr-defined]


def test_which_images_are_kept_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    free = 10 * image_sets().train.images.nbytes
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 10**12))
    keeps = lambda device="cuda", **more: ImageDataModule(image_sets(), 8, **more)._keeps_images(torch.device(device))  # noqa: E731
    assert keeps() and not keeps("cpu") and not keeps(on_device=False) and keeps("cpu", on_device=True)
    free -= 10
    assert not keeps() and keeps(on_device=True)
    sets = image_sets()
    sets.train.resize = lambda image: image
    assert not ImageDataModule(sets, 8)._keeps_images(torch.device("cuda"))
    with pytest.raises(ValueError, match=r"on_device=true: the images do not have the size of the model.*auto"):
        ImageDataModule(sets, 8, on_device=True)


def test_without_a_trainer_raw_batches_come_from_the_start() -> None:
    module = ImageDataModule(image_sets(), 8)
    batch = next(iter(module.train_dataloader()))
    assert batch["pixel_values"].dtype == torch.uint8 and batch["pixel_values"].shape == (8, 3, 8, 8)
    assert module.on_after_batch_transfer(batch, 0) is batch
    ready = module.augment(batch, seed=0, step=0, train=True)
    assert ready["pixel_values"].dtype == torch.float32
    assert (
        sum(len(b["labels"]) for b in module.test_dataloader())
        == 21
        == sum(len(b["index"]) for b in module.predict_dataloader())
    )
