"""A LightningDataModule of images in memory."""

from typing import Any

from zoo.data.augment_config import AugmentSettings
from zoo.data.datamodule import KeyedDataModule
from zoo.data.image.augment import Augment
from zoo.data.image.dataset import ImageSplits


class ImageDataModule(KeyedDataModule):
    """An image set as a data module. Batches: uint8 `pixel_values` [B, C, H, W], `labels`, `index` [B], `epoch`.

    Augmentation and normalization run on whole batches where the model is: `batch = data.augment(batch, seed=..., ...)`
    is the task's first line (`zoo.tasks.ClassificationTask` has it). With `normalize=True` the module does it by
    itself, after the batch's transfer, and a task of one's own receives floats (and soft `targets`, where images are
    mixed).

    Args:
        sets: From `load_images`.
        batch_size: Images per optimizer step, over all devices and accumulation steps.
        seed: Of order and augmentation.
        augment: What is done to training images.
        num_workers: Loader processes; 0 is the fastest for small images.
        eval_batch_size: Images per evaluation batch of one device; twice a training micro-batch without it.
        normalize: Hand out augmented, normalized batches instead of raw ones.
    """

    def __init__(
        self,
        sets: ImageSplits,
        batch_size: int = 128,
        *,
        seed: int = 0,
        augment: AugmentSettings | None = None,
        num_workers: int = 0,
        eval_batch_size: int = 0,
        normalize: bool = False,
    ) -> None:
        options = dict(seed=seed, num_workers=num_workers, eval_batch_size=eval_batch_size)
        super().__init__(sets.train, sets.test, sets.test, batch_size, **options)
        self.sets, self.normalize = sets, normalize
        self.augment = Augment(augment or AugmentSettings(), sets.mean, sets.std, len(sets.classes))

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """With `normalize=True`, augment in training and normalize always; otherwise leave the batch alone."""
        if not self.normalize:
            return batch
        trainer = self.trainer
        assert trainer is not None
        ready = self.augment(batch, seed=self.seed, step=trainer.global_step, train=trainer.training)
        return ready | {"index": batch["index"]}
