"""What an image model takes from the data: classes, mean and standard deviation."""

from dataclasses import replace
from typing import Any

from zoo.data.image.dataset import ImageSplits
from zoo.models.base import Model
from zoo.preprocessing.image import ImageProcessor, pair
from zoo.training.parse import SettingsError
from zoo.training.pretrained import set_classes
from zoo.training.run import Run
from zoo.utils.console import console


def image_processor(run: Run, model: Model) -> ImageProcessor:
    """The processor of the model, which reads and resizes the images. Raises: SettingsError for another kind of model.

    The recipe trains and tests on the pixels that `zoo.predict` sees.
    """
    c = run.config
    if tuple(model.inputs) != ("pixel_values",):
        raise SettingsError(f"{c.model.source or c.model.name} is a {model.family} model: expected an image model, "
                            f"such as vit_base_patch16_224 or a folder of its weights")  # fmt: skip
    config: Any = model.config
    height, width = pair(config.image_size)
    if c.data.size is not None and (c.data.size, c.data.size) != (height, width):
        raise SettingsError(f"size={c.data.size}, but the model takes images of {height} x {width} pixels: omit size=, "
                            f"or set image_size={c.data.size} for a model of that size")  # fmt: skip
    if config.in_chans not in (1, 3):
        raise SettingsError(f"in_chans={config.in_chans}: the images of this recipe have 1 channel (gray) or 3 (RGB)")
    if c.data.statistics == "model" and model.preprocess is None:
        raise SettingsError(f"statistics=model: {c.model.source} has no mean and std of its own; use statistics=data")
    return model.preprocess or model.default_preprocess()


def fit_to_images(run: Run, model: Model, images: ImageSplits) -> None:
    """Give the model the classes of the images, and the mean and std that they are normalized with."""
    c, classes = run.config, images.classes
    if c.model.source:
        set_classes(model, classes, c.seed)
    else:
        if model.config.num_classes != len(classes):
            model.reset_head(len(classes), seed=c.seed)
        model.labels = list(classes)
    saved = model.preprocess is not None
    processor = model.preprocess or model.default_preprocess()
    values = ", ".join(f"{v:.3f}" for v in processor.mean), ", ".join(f"{v:.3f}" for v in processor.std)
    own = f"its own mean ({values[0]}) and std ({values[1]})"
    if c.data.statistics == "model" or (c.data.statistics == "auto" and c.model.source and saved):
        model.preprocess = processor
        note = f"images are normalized with {own}"
    else:  # of a gray image, from the channels of RGB
        mean, std = (v if len(v) == processor.channels else (sum(v) / len(v),) for v in (images.mean, images.std))
        model.preprocess = replace(processor, mean=mean, std=std, rescale=1 / 255)
        before = f", not {own}" if saved else ": it has no preprocessing of its own"
        note = f"images are normalized with mean and std of the training images{before}"
    if c.model.source:
        console().print(f"{c.model.source}: {note}", markup=False)
