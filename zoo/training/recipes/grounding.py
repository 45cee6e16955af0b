"""Where the words of captions come from: the pointing score on synthetic scenes, and words over their images."""

from typing import TYPE_CHECKING, Any

import lightning as L
import torch

from zoo.data.image_text.dataset import ImageTexts
from zoo.data.synthetic.object_scenes import ObjectScene, name
from zoo.interpret.grounding import (
    CROSS,
    METHODS,
    Grounding,
    ground_words,
    has_cross_attention,
    plot_grounding,
    seen_by,
    words_of_tokens,
    write_caption,
)
from zoo.interpret.select_layers import find_layers
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
    over the objects that the captions of the model name, each with the attention that wrote its words;
    `test_pointing_layer0` and so on: attention in one layer of the decoder alone; `test_pointing_chance`: for a patch
    at random; `test_pointing_named`: the fraction of the objects that the captions name, which alone are looked for.
    A maximum counts if the center of its patch lies in the box; `test_pointing_overlap` and
    `test_pointing_overlap_chance` are attention and chance if the patch has to overlap the box.

    Args:
        images: The test images with their scenes and boxes; without these nothing is computed.
    """

    def __init__(self, images: ImageTexts) -> None:
        self.images = images

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the scores."""
        task: Any = pl_module
        if self.images.boxes is None:
            return
        if trainer.world_size > 1:
            announce(f"no pointing score: one process computes it, and this run has {trainer.world_size}: devices=1")
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
    """The fraction of the named objects whose words point at them, by method, by layer and by chance; 0 if the captions
    name none. Raises: ValueError for a model without cross-attention to its images."""
    assert images.scenes is not None and images.boxes is not None
    layers = [name for name, _ in find_layers(model, CROSS).found] if has_cross_attention(model) else []
    ways: dict[str, dict[str, Any]] = {method: {"method": method} for method in METHODS}
    ways |= {f"layer{i}": {"layers": name} for i, name in enumerate(layers) if len(layers) > 1}
    hits: dict[str, list[bool]] = {name: [] for name in [*ways, "overlap"]}
    chance: list[tuple[float, float]] = []
    objects = 0
    for i in range(min(limit, len(images))):
        image = images.images[i]
        ids = write_caption(model, seen_by(model, image))
        objects += len(images.scenes[i].objects)
        named = object_words(images.scenes[i], [word for word, _ in words_of_tokens(model, ids)])
        if not named:
            continue
        for way, options in ways.items():
            grounded = ground_words(model, image, ids, **options)
            for which, words in named:
                box, point = images.boxes[i, which].tolist(), grounded.peak(words)
                hits[way].append(is_inside(point, box))
                if way == "attention":
                    hits["overlap"].append(is_inside(point, wider(grounded, box)))
        boxes = [images.boxes[i, which].tolist() for which, _ in named]
        chance += [(centers_inside(grounded, box), centers_inside(grounded, wider(grounded, box))) for box in boxes]
    count = max(len(chance), 1)
    found = {way: sum(values) / count for way, values in hits.items()}
    inside, overlapping = (sum(values) / count for values in zip(*(chance or [(0.0, 0.0)])))
    return found | {"chance": inside, "overlap_chance": overlapping, "named": len(chance) / max(objects, 1)}


def is_inside(point: tuple[float, float], box: list[float]) -> bool:
    """Whether a point (x, y) is in a box (left, top, right, bottom)."""
    return box[0] <= point[0] <= box[2] and box[1] <= point[1] <= box[3]


def wider(grounded: Grounding, box: list[float]) -> list[float]:
    """A box with half a patch more at each side: the centers of the patches that overlap the box are in it."""
    rows, columns = grounded.maps.shape[1:]
    height, width = grounded.image.shape[1:]
    x, y = width / columns / 2, height / rows / 2
    return [box[0] - x, box[1] - y, box[2] + x, box[3] + y]


def object_words(scene: ObjectScene, words: list[str]) -> list[tuple[int, list[int]]]:
    """(number of an object of the scene, the indices of the two words of a caption that name it), if they do."""
    found = []
    for which, obj in enumerate(scene.objects):
        named = name(obj).split()
        first = next((i for i in range(len(words) - 1) if words[i : i + 2] == named), None)
        if first is not None:
            found.append((which, [first, first + 1]))
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
    """The words of the captions that the model writes for some test images over these, the longest captions of the
    first ones. Skipped, with a message, for a model without cross-attention to its images."""
    part: ImageTexts = task.trainer.datamodule.splits.test
    texts = [(part.texts[i][0].target, *part.texts[i][0].others) for i in range(min(len(part), 40))]
    chosen = sorted(range(len(texts)), key=lambda i: -len(texts[i][0].split()))[:PLOTTED]

    def plot() -> "Figure":
        found = [ground_words(task.evaluated, part.images[i]) for i in chosen]
        return plot_grounding(found, references=[texts[i] for i in chosen])

    return unless_refused("grounding", plot)


PLOTS = {"grounding": grounding}
