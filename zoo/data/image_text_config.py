"""Data options of images with texts that are to be written about them. Imports no torch, so that `--help` is fast."""

from dataclasses import dataclass, field
from typing import ClassVar

from zoo.data.augment_config import AugmentSettings
from zoo.data.base_config import ItemDataSettings
from zoo.data.config import CaptionedImageSettings, no_augment


@dataclass(frozen=True, kw_only=True)
class CaptionDataSettings(CaptionedImageSettings):
    """Images with captions to be written.

    Attributes:
        name: Dataset: `synthetic` (generated scenes of two objects; also `auto`), `emoji`, a table of images or image
            files with captions (.csv .tsv .jsonl .json .parquet), a folder with such tables or with captions.csv,
            WebDataset shards (`shards/{000..009}.tar`), or `name` or `org/name` on the Hugging Face Hub
            (`org/name:config` for one of its configurations).
        captions: Column of the captions. A list in one row, or several rows with the same image file, give an image
            several captions: training samples one of them per epoch, evaluation compares with all.
        partly_named: Fraction of the synthetic training scenes whose objects lack a name of the color or of the shape,
            so that neither says anything about the other: `a circle left of a red object`.
        partly_named_epochs: Train the first epochs on the partly named scenes alone.
        partly_named_until: Number of epochs that read partly named scenes at all; later ones read those with all names
            alone. Null for all epochs.
        batch_size: Images per optimizer step, summed over all devices.
    """

    smallest_batch: ClassVar[int] = 1
    partly_named: float = 0.0
    partly_named_epochs: int = 0
    partly_named_until: int | None = None
    batch_size: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        check_partly_named(self.partly_named, self.partly_named_epochs)
        if self.partly_named_until is None:
            return
        if self.partly_named_until < self.partly_named_epochs or not 0 < self.partly_named < 1:
            raise ValueError(f"partly_named_until={self.partly_named_until} with partly_named={self.partly_named} and "
                             f"partly_named_epochs={self.partly_named_epochs}: expected scenes of both kinds, such as "
                             f"partly_named=0.5, and no fewer epochs than partly_named_epochs; for a run without this "
                             f"limit set partly_named_until=null")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class VisualQuestionSettings(ItemDataSettings):
    """Images with questions and answers.

    Attributes:
        name: Dataset: `synthetic` (generated scenes of two objects; also `auto`), `emoji` (with question= and
            answers=), a table of images or image files with questions and answers (.csv .tsv .jsonl .json .parquet), a
            folder with train and test tables, WebDataset shards (`shards/{000..009}.tar`), or `name` or `org/name` on
            the Hugging Face Hub (`org/name:config` for one of its configurations).
        data_dir: Folder that contains `emoji/`. Default: `ZOO_DATA_DIR`.
        images: Column of the images or image files. Several rows with the same image file are questions about it:
            training samples one of them per epoch, evaluation asks all.
        questions: Column of the questions.
        question: The question that all rows of a table answer, instead of a column.
        answers: Column of the answers; of several in a list, the first.
        scene_captions: Train on the captions of the synthetic scenes, too, as answers to "describe the scene.".
        caption_epochs: Train the first epochs on these captions alone, as in LLaVA's first stage: they describe more
            of a scene than an answer.
        partly_named: Fraction of the synthetic training scenes whose objects lack a name of the color or of the shape,
            so that neither says anything about the other: `a circle left of a red object`.
        partly_named_epochs: Train the first epochs on the partly named scenes alone.
        types: Column of the types of the questions, for each of which the accuracy is reported.
        test: Table (or shards) to test on. Default: the test split of the dataset, or else 10 % of the training images.
        batch_size: Images per optimizer step, summed over all devices.
        max_length: Maximum number of tokens of a question with its answer; longer ones are an error.
        cache_decoded: Keep decoded images in the user's cache, so that the next start reads them from there. They are
            decoded again after any change of the files.
        augment: Augmentation of the training images. An image whose texts mention left or right is never flipped.
    """

    images: str = ""
    questions: str = ""
    question: str = ""
    answers: str = ""
    scene_captions: bool = True
    caption_epochs: int = 0
    partly_named: float = 0.0
    partly_named_epochs: int = 0
    types: str = ""
    test: str | None = None
    batch_size: int = 64
    max_length: int = 64
    cache_decoded: bool = True
    augment: AugmentSettings = field(default_factory=no_augment)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._at_least(3, "max_length")
        self._at_least(0, "caption_epochs")
        check_partly_named(self.partly_named, self.partly_named_epochs)
        if self.question and self.questions:
            raise ValueError(f"question={self.question!r} and questions={self.questions} are given: give one of them")
        if self.augment.mixes:
            raise ValueError("mixup and cutmix blend two images, which no answer describes: set mixup=0 cutmix=0")


def check_partly_named(fraction: float, epochs: int) -> None:
    """Raises: ValueError for a fraction of partly named scenes beyond 0 to 1, and for epochs without such scenes."""
    if not 0 <= fraction <= 1:
        raise ValueError(f"partly_named={fraction}: expected a fraction from 0 to 1")
    if epochs < 0 or (epochs and not fraction):
        raise ValueError(f"partly_named_epochs={epochs} with partly_named={fraction}: expected 0 or more epochs, and "
                         f"scenes to train on in these, such as partly_named=0.5; for a run without such scenes set "
                         f"partly_named_epochs=0")  # fmt: skip
