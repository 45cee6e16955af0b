"""Train an image classifier, a Vision Transformer (ViT), on CIFAR-10.

    python recipes/vit_cifar.py                           CIFAR-10 if available, else synthetic images
    python recipes/vit_cifar.py data=synthetic            synthetic images: a minute on two CPU cores, >= 95 %
    python recipes/vit_cifar.py data=synthetic epochs=12  the same, trained longer: >= 99 %
    python recipes/vit_cifar.py model=vit_cifar attention=performer epochs=50
    python recipes/vit_cifar.py data=FOLDER               your own images: one sub-folder per class
    python recipes/vit_cifar.py data=uoft-cs/cifar100     a dataset of the Hugging Face Hub, or a table of image files
    python recipes/vit_cifar.py data=FOLDER model.source=FOLDER    from pretrained weights (zoo, timm, transformers)
    python recipes/vit_cifar.py stem=patch model.class_token=true pool=cls   a model for timm and transformers
    python recipes/vit_cifar.py devices=2                 two processes; torchrun works as well

The model decides the size of the images and how they are resized; pretrained weights keep their mean and std. The
default models, with their convolutional stem, are exported to no other library: to use `zoo.export` later, train with
the options above (timm needs stem=patch alone).

CIFAR-10 takes about twenty minutes on two CPU cores. A GPU is used if there is one. The trained model is saved in
runs/vit_cifar/model, ready for `zoo predict`. If a run is interrupted, the same command resumes it, bit for bit.
"""

import sys

from zoo.training.config import ImageSettings
from zoo.training.main import main
from zoo.training.result import Result
from zoo.training.run import Run

LONGER_RUNS = {"synthetic": "epochs=12", "cifar10": "epochs=40"}


def train(run: Run) -> Result:
    """Create the model, load the images, train the classifier."""
    from zoo.data.image.datamodule import ImageDataModule
    from zoo.data.image.load import load_images
    from zoo.tasks.classification import ClassificationTask
    from zoo.training.fit import fit
    from zoo.training.recipes.images import fit_to_images, image_processor

    cfg = run.config
    model = run.build_model(head="classify")  # by name, or from any folder of weights
    images = load_images(cfg.data, processor=image_processor(run, model), seed=cfg.seed)
    run.open(images, model)  # the run folder: a new one, or that of an unfinished run with the same settings and data
    fit_to_images(run, model, images)

    images = images.with_validation(cfg.trainer.val_fraction, cfg.seed)
    data = ImageDataModule(images, cfg.data.batch_size, processor=model.preprocess, augment=cfg.data.augment,
                           seed=cfg.seed, num_workers=cfg.data.num_workers, on_device=cfg.data.on_device)  # fmt: skip
    task = ClassificationTask(model, problem_type="single_label_classification", augment=data.augment, optim=cfg.optim,
                              label_smoothing=cfg.task.label_smoothing, ema=cfg.trainer.ema, seed=cfg.seed)  # fmt: skip
    return fit(run, task, data, longer_runs=LONGER_RUNS)


if __name__ == "__main__":
    sys.exit(main(train, ImageSettings))
