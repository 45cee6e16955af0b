"""What every recipe of image classification does with its settings: model, data, validation set, task."""

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
    """An image module that validates on a part of the training set, so that the test set is looked at once, at the end.

    Args:
        sets: From `load_images`.
        share: Of the training images that are held out, the classes evenly; 0 validates on the test set.
        options: Of `ImageDataModule`.
    """

    def __init__(self, sets: ImageSplits, share: float, *, seed: int, **options: Any) -> None:
        train, self.held_out = hold_out(sets.train, share, seed) if share else (sets.train, sets.test)
        super().__init__(replace(sets, train=train), seed=seed, **options)
        self.val = self.held_out
        if self.steps_per_epoch < 1:
            raise ValueError(f"{len(train)} training images, {len(self.held_out)} held out, do not fill one batch of "
                             f"{self.batch_size}; take a smaller batch_size")  # fmt: skip


def hold_out(images: ImageDataset, share: float, seed: int) -> tuple[ImageDataset, ImageDataset]:
    """(what stays, what is held out): a seeded choice of `share` of each class, at least one image of each."""
    held = held_out_mask(images.labels, share, seed)
    if held.all():
        raise SettingsError(f"val_fraction={share} leaves none of {len(images)} training images")
    parts = [ImageDataset(images.images[rows], images.labels[rows], images.classes) for rows in (~held, held)]
    return parts[0], parts[1]


def open_images(run: Run) -> tuple[Model, HeldOutImages]:
    """The model, checked before data is touched; then the data; then the run folder. The model knows both.

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
    """The task of the settings. Raises: SettingsError for a parameter to freeze that there is not."""
    s = run.settings
    try:
        return ClassificationTask(model, optim=s.optim, label_smoothing=s.task.label_smoothing, augment=data.augment,
                        ema=s.trainer.ema, seed=s.seed)  # fmt: skip
    except ValueError as error:
        raise SettingsError(str(error)) from error
