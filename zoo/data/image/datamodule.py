"""LightningDataModule of images in memory."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from zoo.data.augment_config import AugmentSettings
from zoo.data.datamodule import KeyedDataModule
from zoo.data.image.augment import Augment
from zoo.data.image.dataset import ImageSplits
from zoo.preprocessing.image import ImageProcessor
from zoo.utils.renamed import with_old_attributes

_CHUNK = 64  # images that are pooled at a time, as float32


@with_old_attributes
class ImageDataModule(KeyedDataModule):
    """Data module of an image dataset. Batches: uint8 `pixel_values` [B, C, H, W], `labels`, `index` [B], `epoch`.

    Augmentation and normalization run on whole batches on the model's device. By default the task applies them with
    `batch = data.augment(batch, seed=..., ...)`, as `zoo.tasks.ClassificationTask` does. With `normalize=True` the data
    module applies them after the transfer to the device, so that your own LightningModule receives float images (and
    soft `targets` with MixUp or CutMix).

    Args:
        splits: Dataset splits from `load_images`.
        batch_size: Images per optimizer step, summed over all devices and accumulation steps.
        seed: Seed of order and augmentation.
        processor: Processor of the model, with the mean and std to normalize with. Default: those of `splits`.
        augment: Augmentation of the training images.
        num_workers: Number of data loader processes; 0 is fastest for small images.
        eval_batch_size: Images per evaluation batch and device. Default: twice a training micro-batch.
        normalize: Return augmented and normalized batches instead of raw ones.
    """

    features = "mean colors of a 4 x 4 grid"

    def __init__(
        self,
        splits: ImageSplits,
        batch_size: int = 128,
        *,
        seed: int = 0,
        processor: ImageProcessor | None = None,
        augment: AugmentSettings | None = None,
        num_workers: int = 0,
        eval_batch_size: int = 0,
        normalize: bool = False,
    ) -> None:
        super().__init__(splits, batch_size, seed=seed, num_workers=num_workers, eval_batch_size=eval_batch_size)
        self.normalize = normalize
        mean, std = processor.statistics() if processor else (splits.mean, splits.std)
        self.augment = Augment(augment or AugmentSettings(), mean, std, len(splits.classes))

    def simple_features(self, stage: str, rows: Tensor) -> Tensor:
        """Mean colors of the cells of a 4 x 4 grid, float32 [n, 16 C]."""
        images = self.part(stage).images
        grids = [adaptive_avg_pool2d(images[chunk].float(), 4).flatten(1) for chunk in rows.split(_CHUNK)]
        return torch.cat(grids)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """With `normalize=True`, normalize the batch and, in training, augment it; otherwise return it unchanged."""
        if not self.normalize:
            return batch
        trainer = self.trainer
        assert trainer is not None
        ready = self.augment(batch, seed=self.seed, step=trainer.global_step, train=trainer.training)
        return ready | {"index": batch["index"]}
