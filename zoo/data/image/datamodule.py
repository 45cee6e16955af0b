"""A LightningDataModule of images in memory."""

from typing import Any

from zoo.data.config import AugmentSettings
from zoo.data.datamodule import KeyedModule
from zoo.data.image.augment import Augment
from zoo.data.image.dataset import ImageSets


class ImageModule(KeyedModule):
    """An image set as a data module. Batches: uint8 `pixel_values` [B, C, H, W], `labels`, `index` [B], `epoch`.

    Augmentation and normalisation run on whole batches where the model is: `batch = data.augment(batch, seed=..., ...)`
    is the task's first line (`zoo.tasks.Classify` has it). With `normalise=True` the module does it by itself, after
    the batch's transfer, and a task of one's own receives floats (and soft `targets`, if images are mixed).

    Args:
        sets: From `load_images`.
        batch_size: Images per optimizer step, over all devices and accumulation steps.
        seed: Of order and augmentation.
        augment: What is done to training images.
        workers: Loader processes; 0 is the fastest for small images.
        eval_batch_size: Images per evaluation batch of one device; twice a training micro-batch without it.
        normalise: Hand out augmented, normalised batches instead of raw ones.
    """

    def __init__(
        self,
        sets: ImageSets,
        batch_size: int = 128,
        *,
        seed: int = 0,
        augment: AugmentSettings | None = None,
        workers: int = 0,
        eval_batch_size: int = 0,
        normalise: bool = False,
    ) -> None:
        options = dict(seed=seed, workers=workers, eval_batch_size=eval_batch_size)
        super().__init__(sets.train, sets.test, sets.test, batch_size, **options)
        self.sets, self.normalise = sets, normalise
        self.augment = Augment(augment or AugmentSettings(), sets.mean, sets.std, len(sets.classes))

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """With `normalise=True`, augment in training and normalise always; otherwise leave the batch alone."""
        if not self.normalise:
            return batch
        trainer = self.trainer
        assert trainer is not None
        ready = self.augment(batch, seed=self.seed, step=trainer.global_step, train=trainer.training)
        return ready | {"index": batch["index"]}
