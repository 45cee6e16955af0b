"""Data options of images without labels. Imports no torch, so that `--help` is fast."""

from dataclasses import dataclass, field
from typing import Literal

from zoo.data.augment_config import AugmentSettings
from zoo.data.base_config import ItemDataSettings


def flip_only() -> AugmentSettings:
    """Default augmentation of images that a tokenizer learns to reconstruct."""
    return AugmentSettings(crop=0, flip=0.5)


@dataclass(frozen=True, kw_only=True)
class UnlabeledImageSettings(ItemDataSettings):
    """Images alone; labels and captions that a dataset has are not used.

    Attributes:
        name: Dataset: `scenes` (generated scenes; also `auto` and `synthetic`), `emoji`, `cifar10`, a folder of images
            (in sub-folders, too, or in train/ and test/), a table of images or image files (.csv .tsv .jsonl .json
            .parquet) or a folder with such tables, or `name` or `org/name` on the Hugging Face Hub.
        data_dir: Folder that contains `emoji/` and `cifar10/`. Default: `ZOO_DATA_DIR`.
        image: Column of the images or image files in a table.
        cache_decoded: Keep decoded images in the user's cache, so that the next start reads them from there. They are
            decoded again after any change of the files.
        on_device: Copy the training images to the device once, and gather batches there. `auto` does so on a GPU if
            they have the size of the model, at most 2 GB and a tenth of the free memory. The batches are the same.
        augment: Augmentation of the training images.
    """

    image: str = ""
    batch_size: int = 32
    cache_decoded: bool = True
    on_device: bool | Literal["auto"] = "auto"
    augment: AugmentSettings = field(default_factory=flip_only)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.augment.mixes:
            raise ValueError("mixup and cutmix blend two images for a classifier: set mixup=0 cutmix=0")
