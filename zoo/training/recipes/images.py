"""Image classification recipe: model, data, validation set and task from settings."""

from dataclasses import replace
from typing import Any

from zoo.data.image.datamodule import ImageDataModule
from zoo.data.image.dataset import ImageDataset, ImageSplits
from zoo.data.image.load import load_images
from zoo.data.splits import held_out_mask
from zoo.models.base import Model
from zoo.preprocessing.image import ImageProcessor, pair
from zoo.tasks.classification import ClassificationTask
from zoo.training.parse import SettingsError
from zoo.training.recipes.pretrained import set_classes
from zoo.training.recipes.val_split import check_held_out
from zoo.training.result import DatasetInfo
from zoo.training.run import Run
from zoo.utils.console import console
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
    check_held_out(held, fraction, "images")
    return images.take(~held), images.take(held)


def open_images(run: Run) -> tuple[Model, HeldOutImages]:
    """Create the model, load the data and open the run folder, in this order, so that mistakes show early.

    The model decides the size of the images, and how they are resized. Raises: SettingsError, RunError.
    """
    model, d = run.create_model(), run.settings.data
    processor = image_processor(run, model)
    try:
        sets = load_images(d.name, d.data_dir, on_error=d.on_error, processor=processor,
                           max_train_samples=d.max_train_samples, max_test_samples=d.max_test_samples,
                           seed=run.settings.seed)  # fmt: skip
    except DataError as error:
        raise SettingsError(str(error)) from error
    run.open(DatasetInfo(sets.name, sets.real, sets.source, len(sets.train), len(sets.test)))
    s = run.settings
    if s.model.source:
        set_classes(model, sets.classes, s.seed)
    else:
        if model.config.num_classes != len(sets.classes):
            model.reset_head(len(sets.classes), seed=s.seed)
        model.labels = list(sets.classes)
    if note := fit_statistics(run, model, processor, sets):
        console().print(f"{s.model.source}: {note}", markup=False)
    mean, std = model.preprocess.statistics()
    try:
        data = HeldOutImages(replace(sets, mean=mean, std=std), s.trainer.val_fraction, seed=s.seed,
                             batch_size=s.data.batch_size, augment=s.data.augment,
                             num_workers=s.data.num_workers)  # fmt: skip
    except ValueError as error:
        raise SettingsError(str(error)) from error
    return model, data


def image_processor(run: Run, model: Model) -> ImageProcessor:
    """The processor that reads and resizes the images: that of the model. Raises: SettingsError."""
    s = run.settings
    if tuple(model.inputs) != ("pixel_values",):
        raise SettingsError(f"{s.model.source or s.model.name} is a {model.family} model: expected an image model, "
                            f"such as vit_base_patch16_224 or a folder of its weights")  # fmt: skip
    config: Any = model.config
    height, width = pair(config.image_size)
    if s.data.size is not None and (s.data.size, s.data.size) != (height, width):
        raise SettingsError(f"size={s.data.size}, but the model takes images of {height} x {width} pixels: omit size=, "
                            f"or set image_size={s.data.size} for a model of that size")  # fmt: skip
    if config.in_chans not in (1, 3):
        raise SettingsError(f"in_chans={config.in_chans}: the images of this recipe have 1 channel (gray) or 3 (RGB)")
    if s.data.statistics == "model" and model.preprocess is None:
        raise SettingsError(f"statistics=model: {s.model.source} has no mean and std of its own; use statistics=data")
    return model.preprocess or model.default_preprocess()


def fit_statistics(run: Run, model: Model, processor: ImageProcessor, sets: ImageSplits) -> str | None:
    """Set the model's preprocessing, with mean and std of the data or of the weights. Returns a note about them."""
    source, chosen, saved = run.settings.model.source, run.settings.data.statistics, model.preprocess is not None
    mean, std = ", ".join(f"{v:.3f}" for v in processor.mean), ", ".join(f"{v:.3f}" for v in processor.std)
    if chosen == "model" or (chosen == "auto" and source and saved):
        model.preprocess = processor
        return f"images are normalized with its own mean ({mean}) and std ({std})" if source else None
    channels = processor.channels
    values = [v if len(v) == channels else (sum(v) / len(v),) for v in (sets.mean, sets.std)]  # of gray, from RGB
    model.preprocess = replace(processor, mean=values[0], std=values[1], rescale=1 / 255)
    if not source:
        return None
    before = f", not its own mean ({mean}) and std ({std})" if saved else ": it has no preprocessing of its own"
    return f"images are normalized with mean and std of the training images{before}"


def classifier(run: Run, model: Model, data: ImageDataModule) -> ClassificationTask:
    """Create the task from the settings. Raises: SettingsError, e.g. for a `freeze` pattern without a match."""
    s = run.settings
    try:
        return ClassificationTask(model, optim=s.optim, label_smoothing=s.task.label_smoothing,
                                  problem_type="single_label_classification", augment=data.augment,
                                  ema=s.trainer.ema, seed=s.seed)  # fmt: skip
    except ValueError as error:
        raise SettingsError(str(error)) from error
