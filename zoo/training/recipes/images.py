"""Image classification recipe: model, data, validation set and task from settings."""

from dataclasses import replace
from typing import Any

from zoo.data.image.datamodule import ImageDataModule
from zoo.data.image.dataset import ImageDataset, ImageSplits
from zoo.data.image.load import load_images
from zoo.data.splits import held_out_mask
from zoo.models.base import Model
from zoo.preprocessing.image import ImageProcessor
from zoo.tasks.classification import ClassificationTask
from zoo.training.parse import SettingsError
from zoo.training.result import DatasetInfo
from zoo.training.run import Run
from zoo.utils.errors import DataError


class HeldOutImages(ImageDataModule):
    """Image data module that validates on a part of the training set, so that the test set is used only at the end.

    Args:
        sets: Training and test images, from `load_images`.
        fraction: Fraction of the training images held out for validation, stratified; 0 validates on the test set.
        seed: Seed of the split and of the order of the data.
        options: Further arguments of `ImageDataModule`.
    """

    def __init__(self, sets: ImageSplits, fraction: float, *, seed: int, **options: Any) -> None:
        train, self.held_out = hold_out(sets.train, fraction, seed) if fraction else (sets.train, sets.test)
        super().__init__(replace(sets, train=train), seed=seed, **options)
        self.val = self.held_out
        if self.steps_per_epoch < 1:
            raise ValueError(f"{len(train)} training images ({len(self.held_out)} are held out) do not fill one batch "
                             f"of {self.batch_size}; use a smaller batch_size")  # fmt: skip


def hold_out(images: ImageDataset, fraction: float, seed: int) -> tuple[ImageDataset, ImageDataset]:
    """(remaining images, held-out images): a random fraction of each class, at least one image of each."""
    held = held_out_mask(images.labels, fraction, seed)
    if held.all():
        raise SettingsError(f"val_fraction={fraction} leaves none of {len(images)} images for training")
    parts = [ImageDataset(images.images[rows], images.labels[rows], images.classes) for rows in (~held, held)]
    return parts[0], parts[1]


def open_images(run: Run) -> tuple[Model, HeldOutImages]:
    """Create the model, load the data and open the run folder, in this order, so that mistakes show early.

    Raises: SettingsError, RunError.
    """
    model, d = run.create_model(), run.settings.data
    try:
        sets = load_images(d.name, d.data_dir, on_error=d.on_error, size=d.size, max_train_samples=d.max_train_samples,
                           max_test_samples=d.max_test_samples, seed=run.settings.seed)  # fmt: skip
    except DataError as error:
        raise SettingsError(str(error)) from error
    run.open(DatasetInfo(sets.name, sets.real, sets.source, len(sets.train), len(sets.test)))
    s = run.settings
    if model.config.num_classes != len(sets.classes):
        model.reset_head(len(sets.classes))
    model.labels = list(sets.classes)
    height, width = sets.train.images.shape[2:]
    model.preprocess = ImageProcessor(size=(height, width), mean=sets.mean, std=sets.std)
    try:
        data = HeldOutImages(sets, s.trainer.val_fraction, seed=s.seed, batch_size=s.data.batch_size,
                             augment=s.data.augment, num_workers=s.data.num_workers)  # fmt: skip
    except ValueError as error:
        raise SettingsError(str(error)) from error
    return model, data


def classifier(run: Run, model: Model, data: ImageDataModule) -> ClassificationTask:
    """Create the task from the settings. Raises: SettingsError, e.g. for a `freeze` pattern without a match."""
    s = run.settings
    try:
        return ClassificationTask(model, optim=s.optim, label_smoothing=s.task.label_smoothing, augment=data.augment,
                                  ema=s.trainer.ema, seed=s.seed)  # fmt: skip
    except ValueError as error:
        raise SettingsError(str(error)) from error
