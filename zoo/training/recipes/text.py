"""What a text model takes from the data: its tokenizer and the classes."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from zoo.data.splits import Splits
from zoo.data.text.dataset import TextDataset
from zoo.data.text.questions import Questions
from zoo.data.text.tagged import TaggedSentences
from zoo.models.base import Model
from zoo.models.registry import find_variant
from zoo.models.text import DecoderConfig
from zoo.nn.heads import rescale_output
from zoo.preprocessing.text import TextProcessor
from zoo.preprocessing.tokenizer_training import train
from zoo.tasks.problem_types import Unit, inverse_unit, unit_of
from zoo.training.parse import SettingsError
from zoo.training.pretrained import require_tokenizer, set_classes
from zoo.training.run import Run

DEFAULT_VOCAB_SIZE = 8000  # of a new tokenizer, unless `vocab_size=` is given


def text_model(run: Run, head: str) -> Model:
    """The model of the settings; a new one gets its tokenizer once the data is known.

    Raises: SettingsError, also for a model of other inputs, and for pretrained weights without a tokenizer.
    """
    name, source = run.config.model.name, run.config.model.source
    if not source and (family := find_variant(name)).modality not in ("text", "protein"):
        raise SettingsError(f"{name} is a {family.name} model: expected a text model, such as bert_tiny or gpt_nano")
    own = source or family.modality == "text" or "vocab_size" in run.overrides_given
    alphabet = {} if own else {"vocab_size": family.config().vocab_size}
    model = run.build_model(head, **alphabet)  # one of proteins has its tokenizer
    if source:
        require_tokenizer(f"model.source={source}", model.preprocess)
    return model


def fit_to_texts(run: Run, model: Model, texts: Splits[TextDataset] | Splits[TaggedSentences]) -> Model:
    """The model for the texts: a new one with a tokenizer trained on them, a pretrained one with their classes."""
    c, head = run.config, model.config.head
    if not c.model.source and model.preprocess is None:
        plain = [part for text in texts.train.texts for part in ([text] if isinstance(text, str) else text)]
        model = with_new_tokenizer(run, model, plain, str(head), num_classes=len(texts.classes))
    elif set_classes(model, texts.classes, c.seed) and texts.problem_type == "regression":
        # the pretrained head predicts values that are not standardized
        unit = target_unit(model, cast(TextDataset, texts.train).labels, texts.problem_type)
        rescale_output(cast(Any, model.head).proj, *inverse_unit(unit))
    model.labels = list(texts.classes)
    # The saved model cuts texts where the run did, so that it predicts what was tested.
    length = min(c.data.max_length, model.preprocess.max_length)
    truncate = getattr(c.data, "truncate", "error")  # nothing is truncated where texts are split into windows
    model.preprocess = replace(model.preprocess, max_length=length, truncate=truncate)
    return model


def fit_to_questions(run: Run, model: Model, questions: Splits[Questions]) -> Model:
    """The model for the questions: a new one with a tokenizer trained on them, a pretrained one as it is."""
    if not run.config.model.source:
        unique = dict.fromkeys([*questions.train.questions, *questions.train.contexts])
        model = with_new_tokenizer(run, model, list(unique), "qa")
    length = min(run.config.data.max_length, model.preprocess.max_length)
    model.preprocess = replace(model.preprocess, max_length=length, truncate="error")
    return model


def target_unit(model: Any, labels: Tensor, problem_type: str) -> Unit:
    """(mean, std) by which regression targets are normalized; mean 0 if the head has no bias to restore it."""
    return unit_of(labels, centered=model.head.proj.bias is not None) if problem_type == "regression" else (0.0, 1.0)


def with_new_tokenizer(run: Run, model: Model, texts: Sequence[str], head: str, **fields: Any) -> Model:
    """The model built again for a tokenizer trained on the texts."""
    config: Any = model.config
    vocab_size = run.config.model.overrides.get("vocab_size", DEFAULT_VOCAB_SIZE)
    lowercase = head != "token"  # names differ from other words by their capital letters
    tokenizer = new_tokenizer(run, config, texts, vocab_size, config.max_length, lowercase)
    tokenizer = replace(tokenizer, types="token_type_ids" in model.inputs)
    model = run.build_model(head, **token_fields(config, tokenizer), **fields)
    model.preprocess = tokenizer
    return model


def new_tokenizer(run: Run, config: Any, texts: Sequence[str], vocab_size: int, max_length: int,
                  lowercase: bool = True) -> TextProcessor:  # fmt: skip
    """A tokenizer trained on the texts, for a model of this config: WordPiece for encoders, BPE for decoders."""
    kind: Any = "bpe" if isinstance(config, DecoderConfig) else "wordpiece"
    return train(kind, texts, vocab_size, max_length=max_length, lowercase=lowercase,
                 cache=tokenizer_cache(run))  # fmt: skip


def token_fields(config: Any, tokenizer: TextProcessor) -> dict[str, Any]:
    """Fields of a model that depend on its tokenizer."""
    fields = {"vocab_size": tokenizer.vocab_size, "pad_token_id": tokenizer.id("pad"),
              "bos_token_id": tokenizer.id("bos"), "eos_token_id": tokenizer.id("eos")}  # fmt: skip
    return {name: value for name, value in fields.items() if name in config.names()}


def tokenizer_cache(run: Run) -> Path:
    """Folder for trained tokenizers, next to the run folders."""
    return Path(run.config.run_dir or Path("runs") / run.recipe).parent / "tokenizers"


def example_command(texts: Splits[TextDataset] | Splits[TaggedSentences]) -> list[str]:
    """A command that predicts a short text of the test set with the trained model."""
    if not texts.real and isinstance(texts.train, TaggedSentences):
        return ["zoo", "predict", "{model}", "Ada Lincoln , who works for Lincoln Motors , moved to North Lincoln ."]
    if not texts.real:
        return ["zoo", "predict", "{model}", "the soup was cold but the evening was lovely ."]
    text = min(texts.test.texts[:50], key=lambda text: abs(40 - len("".join(text))))  # about 40 characters long
    return ["zoo", "predict", "{model}", *([text] if isinstance(text, str) else ["--pair", *text])]
