"""Train a Vision Transformer on CIFAR-10, and leave a model folder that `zoo predict` reads.

    python recipes/vit_cifar.py                      CIFAR-10 if it can be had, else pictures drawn by the program
    python recipes/vit_cifar.py data=synthetic        the drawn pictures: about two minutes on two CPU cores, >= 90 %
    python recipes/vit_cifar.py data=synthetic epochs=12                      the same for longer, >= 95 %
    python recipes/vit_cifar.py model=vit_cifar attention=performer epochs=50
    python recipes/vit_cifar.py devices=2            two processes; torchrun works as well

The real CIFAR-10 takes about twenty minutes on two CPU cores. A GPU is used where there is one. The same command goes
on where it was killed, bit for bit. `--help` lists all options.
"""

import sys

from zoo.training.config import ImageSettings
from zoo.training.main import main
from zoo.training.result import Result
from zoo.training.run import Run

LONGER = {"synthetic": "epochs=12", "cifar10": "epochs=40"}


def train(run: Run) -> Result:
    """Model and data by name, a classifier of them, and a run around it."""
    from zoo.training.fit import fit
    from zoo.training.recipes.images import classifier, open_images

    model, data = open_images(run)
    task = classifier(run, model, data)
    return fit(run, task, data, steps_per_epoch=data.steps_per_epoch, sample=data.sample(), longer=LONGER)


if __name__ == "__main__":
    sys.exit(main(train, ImageSettings))
