"""Image captioning: the model for the data, the scores of captions, and the file of captions of a run."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor
from torchmetrics import Metric

from zoo.data.image_text.datamodule import ImageTextDataModule, TokenLayout
from zoo.data.image_text.dataset import ImageTexts
from zoo.data.splits import Splits
from zoo.models.base import Model
from zoo.models.bridge.model import Bridge
from zoo.models.registry import find_variant
from zoo.preprocessing.tokenizer_training import train
from zoo.tasks.bleu import BLEU
from zoo.tasks.caption import UnseenAnswerBias, UnseenPairBias
from zoo.tasks.cider import CIDEr
from zoo.training.parse import SettingsError
from zoo.training.recipes.bridge import layout_of
from zoo.training.recipes.text import token_fields, tokenizer_cache
from zoo.training.recipes.translation import TranslationsFile
from zoo.training.run import Run
from zoo.utils.console import announce

DEFAULT_VOCAB_SIZE = 1000  # of a new tokenizer, unless `vocab_size=` is given
_OBJECTS = re.compile(r"\ba (\w+ \w+)")


def caption_model(run: Run) -> Model:
    """The model of the settings. Raises: SettingsError, also if it does not write texts about images."""
    name, source = run.config.model.name, run.config.model.source
    other = SettingsError(f"{source or name} does not write texts about images: expected a model such as blip_nano")
    if not source and not _writes_about_images(find_variant(name).model):
        raise other
    model = run.build_model("lm")
    if not _writes_about_images(model):
        raise other
    if source and getattr(model.preprocess, "text", None) is None:
        raise SettingsError(f"model.source={source} has no tokenizer: save one with the model")
    return model


def _writes_about_images(model: Any) -> bool:
    return {"pixel_values", "input_ids"} <= set(getattr(model, "inputs", ()))


def fit_to_captions(run: Run, model: Model, captions: Splits[ImageTexts]) -> Model:
    """The model for the captions: a new one with a tokenizer of those for training, a pretrained one as it is."""
    c = run.config
    if c.model.source:
        return model
    config: Any = model.config
    texts = list(dict.fromkeys(text.target for row in captions.train.texts for text in row))
    size = c.model.overrides.get("vocab_size", DEFAULT_VOCAB_SIZE)
    tokenizer = train("seq2seq", texts, size, max_length=config.max_length, cache=tokenizer_cache(run))
    fields = token_fields(config, tokenizer) | {"decoder_start_token_id": tokenizer.id("bos")}
    image = model.preprocess.image
    model = run.build_model("lm", **fields)
    model.preprocess = replace(model.preprocess, image=image, text=tokenizer)
    return model


def caption_layout(model: Any, max_length: int) -> TokenLayout:
    """How the model reads an image and writes a caption of at most `max_length` tokens."""
    if isinstance(model, Bridge):
        return layout_of(model, max_length)
    c = model.config
    end = c.eos_token_id[0] if isinstance(c.eos_token_id, tuple) else c.eos_token_id
    pad = end if c.pad_token_id is None else c.pad_token_id
    return TokenLayout((c.decoder_start_token_id,), end, pad, min(max_length, c.max_length))


def pair_bias(run: Run, model: Any, data: ImageTextDataModule) -> UnseenPairBias | None:
    """The bias of the training texts, if the settings ask for it. Raises: SettingsError for a large vocabulary."""
    if not run.config.task.unseen_pair_bias:
        return None
    rows = data.train
    texts = [rows.ids[start : start + length].long() for start, length in zip(rows.starts, rows.lengths)]
    try:
        if isinstance(model, Bridge):
            return UnseenAnswerBias(texts, rows.prompt_lengths.tolist(), model.text.config.vocab_size)
        return UnseenPairBias(texts, model.config.vocab_size)
    except ValueError as error:
        raise SettingsError(f"unseen_pair_bias=true: {error}; omit it") from None


# --- scores -----------------------------------------------------------------------------------------------------------


class CaptionScores(Metric):
    """Scores of captions with one or several right ones each: BLEU, CIDEr-D, and how many are exactly right.

    `caption_accuracy`: the fraction of captions that are one of the references. For synthetic scenes also
    `attribute_accuracy`, the fraction in which all colors and shapes are right, whatever their relation.

    Args:
        documents: The references of all test images, see `CIDEr`.
        scenes: Whether the captions are those of the synthetic scenes.
        bleu: Whether to compute BLEU, which needs sacrebleu.
    """

    full_state_update = False

    def __init__(self, documents: Sequence[Sequence[str]], *, scenes: bool = False, bleu: bool = True) -> None:
        super().__init__()
        self.parts = torch.nn.ModuleDict({"cider": CIDEr(documents)} | ({"bleu": BLEU(several=True)} if bleu else {}))
        self.scenes = scenes
        self.counts: Tensor  # captions that are right, with all objects right, captions
        self.add_state("counts", default=torch.zeros(3, dtype=torch.long), dist_reduce_fx="sum")

    @property
    def directions(self) -> dict[str, str]:
        """The better direction of each score."""
        names = [*self.parts, "caption_accuracy", *(["attribute_accuracy"] if self.scenes else [])]
        return dict.fromkeys(names, "max")

    def update(self, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> None:
        """Add captions with the references of each."""
        for part in self.parts.values():
            part.update(predictions, references)  # type: ignore[operator]
        for prediction, texts in zip(predictions, references, strict=True):
            same = objects_of(prediction) == objects_of(texts[0])
            self.counts += self.counts.new_tensor([prediction in texts, same, 1])

    def compute(self) -> dict[str, float]:
        """The scores by name."""
        found: dict[str, float] = {}
        for part in self.parts.values():
            found |= part.compute()  # type: ignore[operator]
        right, objects, count = self.counts.tolist()
        found["caption_accuracy"] = right / max(count, 1)
        return found | ({"attribute_accuracy": objects / max(count, 1)} if self.scenes else {})

    def reset(self) -> None:
        """Forget the captions."""
        super().reset()
        for part in self.parts.values():
            part.reset()  # type: ignore[operator]


def objects_of(caption: str) -> list[str]:
    """The objects that a caption of a synthetic scene names, such as `red circle`, sorted."""
    return sorted(_OBJECTS.findall(caption))


def references(captions: Splits[ImageTexts]) -> Mapping[str, list[tuple[str, ...]]]:
    """The right captions of the validation and of the test split, by stage."""
    parts = {"val": captions.validation or captions.test, "test": captions.test}
    return {stage: [(row[0].target, *row[0].others) for row in part.texts] for stage, part in parts.items()}


def caption_scores(captions: Splits[ImageTexts]) -> Callable[[], CaptionScores]:
    """Makes the metric of captions; BLEU only if sacrebleu is installed, which is announced."""
    try:
        BLEU()
        bleu = True
    except ImportError as error:
        announce(f"captions are scored without BLEU: {error}")
        bleu = False
    return partial(CaptionScores, references(captions)["test"], scenes=captions.test.scenes is not None, bleu=bleu)


class CaptionsFile(TranslationsFile):
    """Writes the captions of the test split to `captions.csv` in the run folder, and prints some of them."""

    file_name = "captions.csv"
    columns: ClassVar[tuple[str, ...]] = ("image", "references", "caption")  # type: ignore[misc]

    def row(self, part: Any, index: int, text: str) -> list[str]:
        """The columns of one item."""
        first = part.texts[index][0]
        return [str(index), " | ".join((first.target, *first.others)), " ".join(text.split())]

    def notes(self, task: Any) -> dict[str, str]:
        """The signature of BLEU."""
        return {"BLEU": found} if (found := task.reports.get("bleu_signature")) else {}
