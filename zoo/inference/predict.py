"""`zoo.predict`: labels with probabilities, values of a regression, texts of speech, or tokens for a mask."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, overload

from zoo.inference import long_audio
from zoo.inference.probabilities import Prediction, run, top_predictions
from zoo.models.base import Model
from zoo.preprocessing.audio import AudioProcessor
from zoo.preprocessing.modality import of_inputs


@overload
def predict(model: Model, x: list[Any], top_k: int = 5) -> list[Prediction]: ...
@overload
def predict(model: Model, x: Any, top_k: int = 5) -> Prediction: ...
def predict(model: Model, x: Any, top_k: int = 5) -> Prediction | list[Prediction]:
    """Predict the `top_k` most probable labels, [(label, probability), ...], best first; for a list, a list of them.

    x: an input of `model.preprocess`: an image, a path, a text, a pair of texts (tuple), or an audio clip (path or
    (samples, sampling_rate)) of any length; or a list of them. Classes without a name are called by their number.
    If `model.config.resolved_problem_type` is "multi_label_classification", each label has an independent probability;
    if it is "regression", the output is the value of every label, in their order. A model with head="masked_lm"
    predicts tokens for the one mask in each text, a model with head="ctc" predicts the text of each clip.
    """
    if not isinstance(getattr(model, "_orig_mod", model), Model):  # a compiled model is one, too
        hint = f": load it, zoo.load({str(model)!r})" if isinstance(model, str | Path) else ""
        raise ValueError(f"expected a zoo.Model, given a {type(model).__name__}{hint}")
    if not isinstance(top_k, int) or isinstance(top_k, bool) or top_k < 1:
        raise ValueError(f"top_k={top_k!r}: expected a whole number of at least 1")
    predictor = {"classify": classify, "masked_lm": fill_mask, "ctc": transcribe}.get(model.config.head)
    if predictor is None:
        hint = "; to continue texts, use zoo.generate" if model.config.head == "lm" else ""
        hint = "; to classify with text labels, use zoo.zero_shot(model, labels)" if model.config.parts else hint
        raise ValueError(
            f"the model has head={model.config.head!r}: predicting needs a classifier (head='classify'), "
            f"head='masked_lm' or head='ctc'{hint}"
        )
    if model.preprocess is None:
        choices = " or ".join(record.processor for record in of_inputs(model.inputs))
        raise ValueError(f"the model has no preprocessing: set model.preprocess = {choices}")
    is_list = isinstance(x, Sequence) and not isinstance(x, str | bytes | tuple)
    if is_list and not len(x):
        return []
    predictions = predictor(model, x, top_k)
    if not is_list and len(predictions) != 1:
        raise ValueError(
            f"given a {type(x).__name__} of {len(predictions)} inputs: expected one input, or a list of them"
        )
    return predictions if is_list else predictions[0]


def classify(model: Model, x: Any, top_k: int) -> list[Prediction]:
    """Predict labels, or values of a regression, for each input."""
    if isinstance(model.preprocess, AudioProcessor):
        outputs = long_audio.probabilities(model, x)
    else:
        scores = run(model, model.preprocess(x))
        outputs = {
            "single_label_classification": scores.softmax(-1),
            "multi_label_classification": scores.sigmoid(),
        }.get(model.config.resolved_problem_type, scores)
    labels = model.labels or [str(i) for i in range(outputs.shape[-1])]
    if len(labels) != outputs.shape[-1]:
        raise ValueError(f"model.labels has {len(labels)} names for {outputs.shape[-1]} classes: set as many, or None")
    if model.config.resolved_problem_type == "regression":
        return [list(zip(labels, row)) for row in outputs.tolist()]
    return top_predictions(outputs, top_k, lambda i: labels[i])


def transcribe(model: Model, x: Any, top_k: int) -> list[Prediction]:
    """Transcribe each audio clip with a CTC model."""
    return long_audio.transcripts(model, x, top_k)


def fill_mask(model: Model, x: Any, top_k: int) -> list[Prediction]:
    """Predict tokens for the mask in each text."""
    mask, batch = model.preprocess.id("mask"), model.preprocess(x)
    masked = batch["input_ids"] == (-1 if mask is None else mask)
    counts = masked.sum(1).tolist()
    if mask is None or set(counts) != {1}:
        token = model.preprocess.special.get("mask")
        problem = next((f"text {i} has {n}" for i, n in enumerate(counts) if n != 1), "the tokenizer has no mask token")
        raise ValueError(f"expected one mask ({token!r}) in each text, but {problem}")
    probabilities = run(model, batch)[masked].softmax(-1)
    return top_predictions(probabilities, top_k, lambda i: model.preprocess.decode([i], skip_special=False))
