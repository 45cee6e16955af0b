"""Where the words of captions come from: the pointing score on synthetic scenes, and words over their images."""

from typing import TYPE_CHECKING, Any

import lightning as L
import torch

from zoo.data.image_text.dataset import ImageTexts
from zoo.data.synthetic.object_scenes import ObjectScene, name
from zoo.interpret.grounding import METHODS, Grounding, ground_words, plot_grounding
from zoo.training.plots import unless_refused
from zoo.utils.console import announce

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from zoo.training.result import Result
    from zoo.training.run import Run

POINTED = 200  # test images whose objects are looked for
PLOTTED = 4


class PointingScore(L.Callback):
    """Adds to the test metrics how often the map of an object's words has its maximum within the box of the object.

    `test_pointing_attention`, `test_pointing_rollout` and `test_pointing_gradient`: for each method of `ground_words`,
    over the objects that the first right caption of an image names; `test_pointing_chance`: for a patch at random.

    Args:
        images: The test images with their scenes and boxes; without these nothing is computed.
    """

    def __init__(self, images: ImageTexts) -> None:
        self.images = images

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the scores."""
        task: Any = pl_module
        if self.images.boxes is None or trainer.world_size > 1:
            return
        try:
            with torch.inference_mode(False):
                found = pointing(task.evaluated, self.images)
        except ValueError as error:
            announce(f"no pointing score: {error}")
            return
        for metric, value in found.items():
            task.log(f"test_pointing_{metric}", value, logger=False)


def pointing(model: Any, images: ImageTexts, limit: int = POINTED) -> dict[str, float]:
    """The fraction of objects whose words point at them, by method, and by chance. Raises: ValueError for a model
    without cross-attention to its images."""
    assert images.scenes is not None and images.boxes is not None
    hits: dict[str, list[bool]] = {}
    chance: list[float] = []
    for i in range(min(limit, len(images))):
        text = images.texts[i][0].target
        for method in METHODS:
            grounded = ground_words(model, images.images[i], text, method=method)
            for words, box in zip(object_words(images.scenes[i], grounded.words), images.boxes[i].tolist()):
                x, y = grounded.peak(words)
                hits.setdefault(method, []).append(box[0] <= x <= box[2] and box[1] <= y <= box[3])
                if method == METHODS[0]:
                    chance.append(centers_inside(grounded, box))
    found = {method: sum(values) / len(values) for method, values in hits.items()}
    return found | {"chance": sum(chance) / len(chance)}


def object_words(scene: ObjectScene, words: list[str]) -> list[list[int]]:
    """The indices of the two words that name each object of a scene, among the words of its caption."""
    found = []
    for obj in scene.objects:
        color, shape = name(obj).split()
        first = next(i for i in range(len(words) - 1) if words[i : i + 2] == [color, shape])
        found.append([first, first + 1])
    return found


def centers_inside(grounded: Grounding, box: list[float]) -> float:
    """The fraction of the patches whose centers are within a box."""
    rows, columns = grounded.maps.shape[1:]
    height, width = grounded.image.shape[1:]
    x = (torch.arange(columns) + 0.5) * width / columns
    y = (torch.arange(rows) + 0.5) * height / rows
    across, down = (x >= box[0]) & (x <= box[2]), (y >= box[1]) & (y <= box[3])
    return float(across.float().mean() * down.float().mean())


def grounding(run: "Run", task: Any, result: "Result") -> "Figure | None":
    """The words of the captions of the first test images over these. Skipped, with a message, for a model without
    cross-attention to its images."""
    part: ImageTexts = task.trainer.datamodule.splits.test
    chosen = sorted(range(min(len(part), 40)), key=lambda i: -len(part.texts[i][0].target.split()))[:PLOTTED]
    texts = {i: " ".join((task.predictions.get(i) or part.texts[i][0].target).split()[:12]) for i in chosen}
    return unless_refused(
        "grounding",
        lambda: plot_grounding([ground_words(task.evaluated, part.images[i], texts[i]) for i in chosen]),
    )


PLOTS = {"grounding": grounding}
