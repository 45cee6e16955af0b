"""LightningDataModule of images in memory."""

from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d
from torch.utils.data import Dataset

from zoo.data.augment_config import AugmentSettings
from zoo.data.datamodule import KeyedDataModule, Loader
from zoo.data.image.augment import Augment
from zoo.data.image.dataset import ImageDataset, ImageSplits
from zoo.data.keyed_batches import EvalBatches, KeyedBatches, Keys
from zoo.preprocessing.image import ImageProcessor
from zoo.utils.renamed import with_old_attributes
from zoo.utils.stopwatch import Stopwatch

_CHUNK = 64  # images that are pooled at a time, as float32
MOST_BYTES = 2_000_000_000  # of training images that `auto` keeps on the GPU,
MOST_OF_FREE_MEMORY = 0.1  # and their fraction of its free memory


class _WithoutPixels(Dataset[dict[str, Tensor]]):
    """The batches of an image dataset, without the pixels."""

    def __init__(self, images: ImageDataset) -> None:
        self.images = images

    def __getitems__(self, rows: Keys) -> dict[str, Any]:
        index = torch.tensor(rows)
        return {"labels": self.images.labels[index], "index": index, "epoch": rows.epoch}


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
        on_device: Copy the training images to the device once, and gather batches there, which are the same. `auto`
            does so on a GPU if they have the size of the model, at most 2 GB and a tenth of the free memory.
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
        on_device: bool | Literal["auto"] = "auto",
    ) -> None:
        super().__init__(splits, batch_size, seed=seed, num_workers=num_workers, eval_batch_size=eval_batch_size)
        self.normalize, self.on_device = normalize, on_device
        if on_device is True and self.train.resize is not None:
            raise ValueError("on_device=true: the images do not have the size of the model, and are resized one by one "
                             "as batches are fetched; set on_device=auto, or resize the files")  # fmt: skip
        self._images: Tensor | None = None  # of the training set, on the device
        mean, std = processor.statistics() if processor else (splits.mean, splits.std)
        self.augment = Augment(augment or AugmentSettings(), mean, std, len(splits.classes))

    def simple_features(self, stage: str, rows: Tensor) -> Tensor:
        """Mean colors of the cells of a 4 x 4 grid, float32 [n, 16 C]."""
        images = self.part(stage).images
        grids = [adaptive_avg_pool2d(images[chunk].float(), 4).flatten(1) for chunk in rows.split(_CHUNK)]
        return torch.cat(grids)

    def train_dataloader(self) -> Loader:
        """As in KeyedDataModule; with the images on the device, the loader gives the rest of each batch."""
        self._images = None
        if self.trainer is not None and self._keeps_images(self.trainer.strategy.root_device):
            self._images = self.train.images.to(self.trainer.strategy.root_device)
        return super().train_dataloader()

    def _keeps_images(self, device: torch.device) -> bool:
        """Whether the training images are kept on this device."""
        if self.on_device != "auto" or device.type != "cuda":
            return self.on_device is True
        if not isinstance(self.train.images, Tensor):  # they are read piece by piece
            return False
        free, _ = torch.cuda.mem_get_info(device)
        return self.train.resize is None and self.train.images.nbytes <= min(MOST_BYTES, MOST_OF_FREE_MEMORY * free)

    def _loader(self, data: Any, batches: KeyedBatches | EvalBatches, watch: Stopwatch | None = None) -> Loader:
        rest_only = watch is not None and self._images is not None  # evaluation has no watch
        return super()._loader(_WithoutPixels(data) if rest_only else data, batches, watch)

    def teardown(self, stage: str) -> None:
        """As in KeyedDataModule; also free the memory of the images on the device."""
        super().teardown(stage)
        self._images = None

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Gather images that are on the device; with `normalize=True` normalize them and, in training, augment."""
        if "pixel_values" not in batch and self._images is not None:
            batch = {"pixel_values": self._images.index_select(0, batch["index"]), **batch}
        if not self.normalize:
            return batch
        trainer = self.trainer
        assert trainer is not None
        ready = self.augment(batch, seed=self.seed, step=trainer.global_step, train=trainer.training)
        return ready | {"index": batch["index"]}
