"""Labels with probabilities, or numbers."""

from collections.abc import Sequence
from typing import Any, overload

from zoo.inference import long_audio
from zoo.inference.probabilities import Answer, best, run
from zoo.models.base import Model
from zoo.preprocessing.audio import AudioProcessor
from zoo.preprocessing.modality import of_inputs


@overload
def predict(model: Model, x: list[Any], top_k: int = 5) -> list[Answer]: ...
@overload
def predict(model: Model, x: Any, top_k: int = 5) -> Answer: ...
def predict(model: Model, x: Any, top_k: int = 5) -> Answer | list[Answer]:
    """The `top_k` most probable labels of an input: [(label, probability), ...], best first; for a list, a list of them.

    x: what `model.preprocess` takes: pictures, paths, texts, pairs of texts (tuples), sounds (paths, (samples, rate)),
    which may be longer than the model hears at a time. Classes without a name are called
    by their number. `model.config.resolved_problem_type` says what is given: where it is "multi_label_classification", each label has a probability of
    its own; where it is "regression", every label comes with its number, in their own order. A model with
    head="masked_lm" answers with tokens for the one mask in each text, one with head="ctc" with texts for each sound.
    """
    answer = {"classify": classify, "masked_lm": fill_mask, "ctc": transcribe}.get(model.config.head)
    if answer is None:
        way = "; zoo.generate continues texts" if model.config.head == "lm" else ""
        way = "; zoo.zero_shot(model, labels) classifies by texts" if model.config.parts else way
        raise ValueError(
            f"the model has head={model.config.head!r}: predicting needs a classifier (head='classify'), "
            f"head='masked_lm' or head='ctc'{way}"
        )
    if model.preprocess is None:
        ways = " or ".join(record.processor for record in of_inputs(model.inputs))
        raise ValueError(f"the model has no preprocessing: set model.preprocess = {ways}")
    many = isinstance(x, Sequence) and not isinstance(x, str | bytes | tuple)
    if many and not len(x):
        return []
    answers = answer(model, x, top_k)
    return answers if many else answers[0]


def classify(model: Model, x: Any, top_k: int) -> list[Answer]:
    """The labels of each input."""
    if isinstance(model.preprocess, AudioProcessor):
        shares = long_audio.probabilities(model, x)
    else:
        scores = run(model, model.preprocess(x))
        shares = {
            "single_label_classification": scores.softmax(-1),
            "multi_label_classification": scores.sigmoid(),
        }.get(model.config.resolved_problem_type, scores)
    name = model.labels or [str(i) for i in range(shares.shape[-1])]
    if model.config.resolved_problem_type == "regression":
        return [list(zip(name, row)) for row in shares.tolist()]
    return best(shares, top_k, lambda i: name[i])


def transcribe(model: Model, x: Any, top_k: int) -> list[Answer]:
    """What is said in each sound."""
    return long_audio.transcripts(model, x, top_k)


def fill_mask(model: Model, x: Any, top_k: int) -> list[Answer]:
    """What may stand for the mask of each text."""
    mask, batch = model.preprocess.id("mask"), model.preprocess(x)
    found = batch["input_ids"] == (-1 if mask is None else mask)
    counts = found.sum(1).tolist()
    if mask is None or set(counts) != {1}:
        token = model.preprocess.special.get("mask")
        odd = next((f": text {i} has {n}" for i, n in enumerate(counts) if n != 1), "")
        raise ValueError(f"expected one mask ({token!r}) in each text, for which to find a token{odd}")
    return best(run(model, batch)[found].softmax(-1), top_k, lambda i: model.preprocess.decode([i], skip_special=False))
