"""Images with texts that are to be written about them, in memory."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from zoo.data.splits import Items
from zoo.data.synthetic.object_scenes import ObjectScene

CAPTION = "caption"  # the type of a text that describes the image


@dataclass(frozen=True)
class ImageText:
    """A text about an image.

    Attributes:
        prompt: What comes before it, such as a question; "" for nothing.
        target: The text to write, such as the answer or a caption.
        type: The type of the question, by which answers are evaluated; "" for none.
        others: Other right texts, such as further captions of the image.
    """

    prompt: str
    target: str
    type: str = ""
    others: tuple[str, ...] = ()


@dataclass
class ImageTexts(Items):
    """Images with texts about them.

    Attributes:
        images: uint8 [N, 3, H, W].
        texts: One or several texts of each image. Training samples one of them in each epoch, evaluation takes all.
        alternatives: Whether the texts of an image are alternatives, such as captions, of which evaluation takes the
            first.
        scenes: What is in the synthetic images.
        boxes: (left, top, right, bottom) in pixels of up to two objects in each of these, float32 [N, 2, 4].
        introductory: Which images training can begin with, bool [N]; None for none in particular.
    """

    noun: ClassVar[str] = "images"

    images: Tensor
    texts: list[tuple[ImageText, ...]]
    alternatives: bool = False
    scenes: list[ObjectScene] | None = None
    boxes: Tensor | None = None
    introductory: Tensor | None = None

    def __len__(self) -> int:
        return len(self.texts)

    def contents(self) -> list[bytes]:
        return [image.numpy().tobytes() for image in self.images]

    def take(self, rows: Tensor) -> "ImageTexts":
        """The images of these rows with their texts."""
        chosen = rows.tolist()
        scenes = None if self.scenes is None else [self.scenes[i] for i in chosen]
        boxes, introductory = (None if x is None else x[rows] for x in (self.boxes, self.introductory))
        return ImageTexts(self.images[rows], [self.texts[i] for i in chosen], self.alternatives, scenes, boxes,
                          introductory)  # fmt: skip

    @property
    def types(self) -> list[str]:
        """The types of the questions in the order in which they occur."""
        return list(dict.fromkeys(text.type for row in self.texts for text in row if text.type))
