"""Load images with questions and answers, or with captions: tables, folders, shards, the Hub, or synthetic scenes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.data.image.decode import Blob, decode
from zoo.data.image_text.dataset import CAPTION, ImageText, ImageTexts
from zoo.data.image_text_config import CaptionDataSettings, VisualQuestionSettings
from zoo.data.pairs.dataset import PairDataset
from zoo.data.pairs.images import ResizeAndCrop
from zoo.data.pairs.load import check_not_empty, load_pairs
from zoo.data.pairs.tables import NAMES, caption_folder
from zoo.data.sources.columns import FILE_NAMES, announce_skipped, encoded_item, find_column, refuse_skipped
from zoo.data.sources.find import find_tables
from zoo.data.sources.tables import Table
from zoo.data.splits import Splits, with_test
from zoo.data.synthetic.object_scenes import SPLITS, ObjectScenes, make_object_scenes
from zoo.data.synthetic.scene_questions import make_scene_questions
from zoo.preprocessing.image import ImageProcessor
from zoo.utils.errors import DataError

QUESTION_NAMES, ANSWER_NAMES = ("question", "prompt"), ("answer", "answers", "label")
TYPE_NAMES = ("question_type", "type")
SYNTHETIC = ("auto", "synthetic", "synthetic_scenes")
DESCRIBE = "describe the scene."

Texts = list[tuple[ImageText, ...]]
TextsOf = Callable[[ObjectScenes], Texts]


def load_visual_questions(
    settings: VisualQuestionSettings | None = None, *, processor: ImageProcessor, seed: int = 0
) -> Splits[ImageTexts]:
    """Load images with questions and answers.

    Args:
        settings: Dataset and options; see `VisualQuestionSettings`.
        processor: Resizes and crops the images, as the model's preprocess.
        seed: Seed of splits and subsets.

    Raises: DataError for an unknown name or column, a missing table, or rows that cannot be used (listed).
    """
    s = settings or VisualQuestionSettings()
    if s.caption_epochs and not (s.name in SYNTHETIC and s.scene_captions):
        given = f"data={s.name}" if s.name not in SYNTHETIC else "scene_captions=false"
        raise DataError(f"caption_epochs={s.caption_epochs} with {given}: only the synthetic scenes have captions "
                        f"beside their questions; omit it")  # fmt: skip
    check_scenes(s)
    if s.name in SYNTHETIC:
        texts_of = _questions if s.scene_captions else _questions_alone
        found = scene_texts(processor, texts_of, _questions_alone, partly_named=s.partly_named)
        return found.limited(s.max_train_samples, s.max_test_samples, seed)
    source, s = find_tables(s, "image-text pairs", folder=caption_folder)
    skipped: list[str] = []
    parts = {split: _decoded(table, s, processor, skipped) for split, table in source.tables.items()}
    if s.on_error == "raise":
        refuse_skipped(skipped, "rows")
    check_not_empty(parts, source.where, skipped)
    test_name = (s.test or "") if "test" in parts else f"a held-out part of {source.name}"
    parts = with_test(parts, seed, f"{source.where} has {len(parts['train'])} images: too few to hold some out")
    announce_skipped(skipped, "rows")
    found = Splits(parts["train"], parts["test"], source.name, True, source.where, skipped=skipped,
                   validation=parts.get("validation"), test_name=test_name)  # fmt: skip
    return found.limited(s.max_train_samples, s.max_test_samples, seed)


def load_captions(
    settings: CaptionDataSettings | None = None, *, processor: ImageProcessor, seed: int = 0
) -> Splits[ImageTexts]:
    """Load images with captions; the arguments and errors are those of `load_visual_questions`."""
    s = settings or CaptionDataSettings()
    check_scenes(s)
    if s.name in SYNTHETIC:
        found = scene_texts(processor, _captions, _captions, alternatives=True, partly_named=s.partly_named)
        return found.limited(s.max_train_samples, s.max_test_samples, seed)
    pairs = load_pairs(s, processor=processor, seed=seed)
    train, test = _of_pairs(pairs.train), _of_pairs(pairs.test)
    validation = None if pairs.validation is None else _of_pairs(pairs.validation)
    return Splits(train, test, pairs.name, pairs.real, pairs.source, validation=validation,
                  test_name=pairs.test_name, skipped=pairs.skipped)  # fmt: skip


# --- synthetic scenes -------------------------------------------------------------------------------------------------


def check_scenes(s: CaptionDataSettings | VisualQuestionSettings) -> None:
    """Raises: DataError for partly named scenes of other data."""
    if s.partly_named and s.name not in SYNTHETIC:
        raise DataError(f"partly_named={s.partly_named} with data={s.name}: only the synthetic scenes have names of "
                        f"their objects; omit it")  # fmt: skip


def scene_texts(
    processor: ImageProcessor,
    of_training: TextsOf,
    of_tests: TextsOf,
    *,
    alternatives: bool = False,
    partly_named: float = 0.0,
) -> Splits[ImageTexts]:
    """The synthetic scenes with the texts that functions give for training scenes, and for those of the other splits.

    alternatives: of the texts of an image. partly_named: of the training scenes, see `make_object_scenes`.

    Raises: DataError unless the model takes square images of at least 24 pixels.
    """
    height, width = processor.size
    if height != width or height < 24:
        raise DataError(f"synthetic images are square with at least 24 pixels, but the model takes {height} x {width}: "
                        f"pass image_size=32")  # fmt: skip
    parts = {}
    for split in SPLITS:
        found = make_object_scenes(split, size=height, partly_named=partly_named if split == "train" else 0.0)
        images = found.images
        boxes: torch.Tensor | None = found.boxes
        if not processor.keeps((height, width), 3):
            fit, boxes = ResizeAndCrop(processor), None  # which the crop would move
            images = torch.stack([fit(image) for image in images])
        texts = (of_training if split == "train" else of_tests)(found)
        parts[split] = ImageTexts(images, texts, alternatives, found.scenes, boxes)
    if partly_named:
        parts["train"].introductory = torch.tensor([scene.partly_named for scene in parts["train"].scenes or []])
    source = "generated scenes of two objects; the test scenes have combinations that do not occur in training"
    return Splits(parts["train"], parts["test"], "synthetic", False, source, validation=parts["validation"])


def _questions_alone(found: ObjectScenes) -> Texts:
    rows = make_scene_questions(found.scenes)
    return [tuple(ImageText(one.question, one.answer, one.type) for one in row) for row in rows]


def _questions(found: ObjectScenes) -> Texts:
    """The questions, and the request for a caption."""
    captions = [ImageText(DESCRIBE, texts[0], CAPTION) for texts in found.captions]
    return [(*row, caption) for row, caption in zip(_questions_alone(found), captions, strict=True)]


def _captions(found: ObjectScenes) -> Texts:
    return [_texts_of(captions) for captions in found.captions]


def _texts_of(captions: tuple[str, ...]) -> tuple[ImageText, ...]:
    """The captions of an image, each of which has the others as further references."""
    return tuple(ImageText("", text, "", captions[:i] + captions[i + 1 :]) for i, text in enumerate(captions))


def _of_pairs(pairs: PairDataset[Tensor]) -> ImageTexts:
    return ImageTexts(pairs.items, [_texts_of(captions) for captions in pairs.captions], alternatives=True)


# --- tables -----------------------------------------------------------------------------------------------------------


def _decoded(table: Table, s: VisualQuestionSettings, processor: ImageProcessor, skipped: list[str]) -> ImageTexts:
    """The decoded images of a table with their questions; messages of other rows are appended to `skipped`."""
    blobs, texts, places = _rows(table, s, skipped)
    if not blobs:
        return ImageTexts(torch.empty(0, 3, *processor.size, dtype=torch.uint8), [])
    decoded = decode(blobs, places.__getitem__, size=processor.size, resize=ResizeAndCrop(processor),
                     on_error="collect", cache=s.cache_decoded)  # fmt: skip
    skipped += decoded.broken
    return ImageTexts(decoded.images, [tuple(texts[i]) for i in decoded.kept.tolist()])


def _rows(
    table: Table, s: VisualQuestionSettings, skipped: list[str]
) -> tuple[list[Blob], list[list[ImageText]], list[str]]:
    """(encoded images, the texts of each, places for messages); rows of one file or the same bytes are one image."""
    columns = table.columns
    images = find_column(table, s.images, "images", (*NAMES["images"], *FILE_NAMES))
    answers = find_column(table, s.answers, "answers", ANSWER_NAMES, [images])
    questions = "" if s.question else find_column(table, s.questions, "questions", QUESTION_NAMES, [images, answers])
    types = s.types or next((name for name in TYPE_NAMES if name in columns and name not in (answers, questions)), "")
    base = Path(table.where).parent
    found: dict[Blob, tuple[list[ImageText], str]] = {}
    for row in range(len(table)):
        place = table.place(row)
        blob, problem = encoded_item(columns[images][row], base)
        question = s.question or columns[questions][row]
        answer = _first(columns[answers][row])
        for value, role, name in ((question, "question", questions), (answer, "answer", answers)):
            if not problem and not (isinstance(value, str) and value.strip()):
                problem = f"no {role} in {name!r}"
        if problem or blob is None:
            skipped.append(f"{place}: {problem}")
            continue
        text = ImageText(question.strip(), answer.strip(), str(columns[types][row]) if types else "")
        found.setdefault(blob, ([], f"{place}: {blob}" if isinstance(blob, Path) else place))[0].append(text)
    return list(found), [texts for texts, _ in found.values()], [place for _, place in found.values()]


def _first(value: Any) -> Any:
    """A text, or the first of a list of texts; a number as text."""
    value = value[0] if isinstance(value, list | tuple) and value else value
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value
