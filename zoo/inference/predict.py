"""`zoo.predict`: labels with probabilities, values of a regression, entities, tokens for a mask, texts."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, overload

from zoo.inference.contacts import predicts_contacts
from zoo.inference.generation.caption_prompts import reads_images
from zoo.inference.predictor import OnError, Predictor
from zoo.inference.probabilities import Prediction, require_model
from zoo.inference.text_generation import writes_texts
from zoo.inference.token_classification import Aggregation
from zoo.models.base import Model
from zoo.models.bridge.model import Bridge
from zoo.preprocessing.fasta import is_fasta
from zoo.preprocessing.modality import MODALITIES, of_model
from zoo.preprocessing.protein import ProteinProcessor

HEADS = ("classify", "token", "qa", "masked_lm", "ctc")


@overload
def predict(model: Model, x: list[Any], top_k: int = 5, *, batch_size: int | None = None,
            on_error: Literal["raise", "label"] = "raise", truncation: bool | None = None,
            aggregation_strategy: Aggregation | None = None,
            handle_impossible_answer: bool = False,
            generate_kwargs: Mapping[str, Any] | None = None) -> list[Prediction]: ...  # fmt: skip
@overload
def predict(model: Model, x: list[Any], top_k: int = 5, *, batch_size: int | None = None, on_error: OnError,
            truncation: bool | None = None, aggregation_strategy: Aggregation | None = None,
            handle_impossible_answer: bool = False,
            generate_kwargs: Mapping[str, Any] | None = None) -> list[Prediction | None]: ...  # fmt: skip
@overload
def predict(model: Model, x: Iterator[Any], top_k: int = 5, *, batch_size: int | None = None,
            on_error: OnError = "raise", truncation: bool | None = None,
            aggregation_strategy: Aggregation | None = None,
            handle_impossible_answer: bool = False,
            generate_kwargs: Mapping[str, Any] | None = None) -> Iterator[Prediction | None]: ...  # fmt: skip
@overload
def predict(model: Model, x: Any, top_k: int = 5, *, batch_size: int | None = None, on_error: OnError = "raise",
            truncation: bool | None = None, aggregation_strategy: Aggregation | None = None,
            handle_impossible_answer: bool = False,
            generate_kwargs: Mapping[str, Any] | None = None) -> Prediction: ...  # fmt: skip
def predict(
    model: Model, x: Any, top_k: int = 5, *, batch_size: int | None = None, on_error: OnError = "raise",
    truncation: bool | None = None, aggregation_strategy: Aggregation | None = None,
    handle_impossible_answer: bool = False, generate_kwargs: Mapping[str, Any] | None = None,
) -> Any:  # fmt: skip
    """Predict the `top_k` most probable labels, [(label, probability), ...], best first; for a list, a list of them.

    If `model.config.resolved_problem_type` is "multi_label_classification", each label has an independent probability;
    if it is "regression", the output is the value of every label, in their order. A model with head="masked_lm"
    predicts tokens for the one mask in each text, a model with head="ctc" predicts the text of each clip. An
    encoder-decoder with head="lm" writes one text, [(text, probability)]: T5, BART or Marian for a text, Whisper for a
    recording; its probability is the geometric mean of those of the tokens, NaN if nobody speaks. Classes without a
    name are called by their number. A model with head="token" gives the entities of each text, [(text, label, start,
    end, probability), ...] (`Entity`), where start and end are characters of the input; a text of any length is read in
    overlapping windows. Of a graph it gives the label of each node, [(node, label, probability), ...] (`Node`), by name
    or number; of a point cloud that of each point, [(label, probability), ...] (`Point`). A model with head="qa"
    answers a tuple (question, context) from a context of any length, [(answer, probability, start, end), ...]
    (`Answer`), best first. A model of proteins or alignments with head="contacts" gives the most probable contacts of
    residues at least 6 places apart, [("K5-A20", probability, 5, 20), ...] (`Contact`), with numbers from 1;
    `zoo.inference.contacts.contact_maps` gives whole maps.

    Args:
        model: A model with `preprocess` and one of these heads.
        x: An input of `model.preprocess`: an image, a path, a text, a pair of texts (tuple), a graph, or an audio clip
            (path or (samples, sampling_rate)) of any length; a list of them; or an iterator: then the result is a
            generator of predictions in the same order, which never holds all inputs in memory. A model of proteins
            takes sequences of residues, or the path of a FASTA file for all of its records.
        top_k: Labels of each prediction; of entities there are always all, of texts that are written one.
        batch_size: Inputs that are computed at once; with 1, a generator yields each prediction before it reads the
            next input. Default: images in batches of 32, texts sorted by length in batches of about 1,024 tokens (on a
            GPU 16,384), or of 64 to write texts, 8 recordings with Whisper. Other audio clips are computed one by one.
        on_error: For an input that cannot be predicted: "raise" raises an error that names it, "skip" gives None,
            "label" the prediction [("error: ...", nan)]; a warning at the end says how many and which.
        truncation: For texts with more tokens than `model.preprocess.max_length`: True truncates them, and one warning
            at the end says how many; False raises, with the index and the number of tokens. Default: as saved in
            `model.preprocess.truncate` ("error" raises, "warn" truncates with the warning, "cut" silently).
        aggregation_strategy: With head="token", how the tags of tokens become entities, as in transformers: "first"
            (the default), where the first token of a word decides, or "simple", where every token has its own tag.
        handle_impossible_answer: With head="qa", whether the empty answer, that the context does not have it, is among
            the answers: for models that were trained with such questions.
        generate_kwargs: How an encoder-decoder writes: options of `zoo.generate`, such as {"num_beams": 4}, and
            source_prefix, a text before each input ("summarize: " of T5); of Whisper num_beams and `WhisperOptions`,
            such as {"language": "de"}. Texts have up to max_new_tokens=256; a warning says how many do not end.

    Raises:
        ValueError: A model that does not predict labels or texts, options it has no use for, or, with on_error="raise",
            an input that cannot be predicted. For a model of texts, a Path, or a string that names an existing file or
            folder and has a separator or a suffix, is refused.
    """
    check_model(model, top_k)
    predictor = Predictor(model, top_k, batch_size=batch_size, on_error=on_error, truncation=truncation,
                          aggregation_strategy=aggregation_strategy, generate_kwargs=generate_kwargs,
                          handle_impossible_answer=handle_impossible_answer)  # fmt: skip
    x = sequences_of(model, x)
    inputs = x if is_many(x) else [x]
    inputs = _no_paths(inputs) if predictor.is_text else inputs
    if isinstance(x, Iterator):
        return predictor.stream(inputs)
    predictions = list(predictor.stream(inputs, stacklevel=3))
    return predictions if is_many(x) else predictions[0]


def sequences_of(model: Model, x: Any) -> Any:
    """The sequences of a FASTA file for a model of proteins, otherwise `x`."""
    if isinstance(model.preprocess, ProteinProcessor) and isinstance(x, str | Path) and is_fasta(x):
        return model.preprocess.read_file(x)
    return x


def is_many(x: Any) -> bool:
    """Whether `x` is a list or an iterator of inputs, rather than one."""
    return isinstance(x, Iterator) or (isinstance(x, Sequence) and not isinstance(x, str | bytes | tuple))


def check_model(model: Any, top_k: int) -> None:
    """Raise ValueError unless the model predicts labels, tokens or texts from raw inputs."""
    require_model(model)
    if not isinstance(top_k, int) or isinstance(top_k, bool) or top_k < 1:
        raise ValueError(f"top_k={top_k!r}: expected a whole number of at least 1")
    of_elements = any(name in model.inputs for name in ("input_ids", "node_features", "points"))
    served = model.config.head in HEADS and (model.config.head != "token" or of_elements)
    if not served and not predicts_contacts(model) and not writes_texts(model):
        hint = ""
        if model.config.head == "lm":
            hint = f"; to {writing_of(model)}"
        elif model.config.parts:
            hint = "; to classify with text labels, use zoo.zero_shot(model, labels)"
        raise ValueError(
            f"the model has head={model.config.head!r}: predicting needs a classifier (head='classify', or "
            f"head='token' for the words of texts, the nodes of graphs or the points of clouds), head='qa', "
            f"head='masked_lm' or head='ctc', an encoder-decoder with head='lm', or a model of proteins or alignments "
            f"with head='contacts'{hint}"
        )
    if model.preprocess is None:
        choices = " or ".join(record.processor for record in of_model(model))
        raise ValueError(f"the model has no preprocessing: set model.preprocess = {choices}")


def writing_of(model: Model) -> str:
    """What a model that writes texts, and is not an encoder-decoder of texts or speech, is for, and its call."""
    if isinstance(model, Bridge):
        argument = MODALITIES[model.config.encoder].argument
        return (
            f"ask it about {MODALITIES[model.config.encoder].plural}, use zoo.generate(model, text=..., "
            f"{argument}=[...]), or zoo generate MODEL TEXT --{model.config.encoder} FILE"
        )
    if reads_images(model):
        return "describe images, use zoo.generate(model, images=[...]), or zoo generate MODEL --image FILE"
    return "continue texts, use zoo.generate"


def _no_paths(texts: Iterable[Any]) -> Iterator[Any]:
    """The texts; an error in the place of one that is a path."""
    for index, text in enumerate(texts):
        yield _problem_of_path(text, f"text {index}") or text


def _problem_of_path(text: Any, name: str) -> ValueError | None:
    parts = text if isinstance(text, tuple) else (text,)
    for part in parts:
        if isinstance(part, Path) or (isinstance(part, str) and names_a_file(part)):
            what = "a path" if isinstance(part, Path) else "the name of a file"
            return ValueError(
                f"{name}, {str(part)!r}, is {what}, and the model predicts from texts: give the text that the file "
                "holds, Path(...).read_text(), or predict on the rows of a table with `zoo predict MODEL FILE "
                "--text-column NAME`"
            )
    return None


def names_a_file(text: str) -> bool:
    """Whether a string names an existing file or folder, and no text looks so: it has a separator or a suffix."""
    looks_so = "\n" not in text and ("/" in text or "\\" in text or bool(Path(text).suffix))
    return looks_so and os.path.exists(text)  # which is False, and no error, for a text that cannot be a path
