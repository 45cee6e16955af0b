"""Predictions for many inputs: in windows of bounded memory, in batches by length, and what to do with broken inputs.

A window is as many inputs as are held in memory at once. Its texts are tokenized once and batched by their number of
tokens, so that little padding is computed. Windows start at multiples of their size, so that a run which resumes at one
of them gives the same numbers.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import torch
from torch import Tensor

from zoo.inference import long_audio
from zoo.inference.contacts import Contact, contacts_of_batch, predicts_contacts
from zoo.inference.graph_predictions import Node, labels_of_nodes
from zoo.inference.long_texts import outputs_of_windows
from zoo.inference.point_predictions import Point, labels_of_points, predicts_points
from zoo.inference.prediction_report import Report, Window
from zoo.inference.probabilities import NOT_FINITE, Prediction, activated, label_names, run, top_predictions
from zoo.inference.question_answering import Answer, answers_of
from zoo.inference.text_generation import ROWS, SpeechWriter, TextWriter, writer_of
from zoo.inference.text_generation import TOKENS as TOKENS_OF_SOURCES
from zoo.inference.token_classification import Aggregation, Entity, entities_of
from zoo.models.base import Model
from zoo.preprocessing.audio import AudioProcessor
from zoo.preprocessing.audio_io import AudioError
from zoo.preprocessing.graph import Graph, batch_graphs
from zoo.preprocessing.modality import of_model
from zoo.preprocessing.text import TextProcessor
from zoo.utils.errors import check_choice

OnError = Literal["raise", "skip", "label"]
IMAGES = 32  # in a batch, and in a window
TEXTS, TEXTS_OF_A_GPU = 512, 4096  # in a window
TOKENS, TOKENS_OF_A_GPU = 1024, 16384  # in a batch of texts
SORTED = 16  # batches of a given size in a window of texts, which are sorted by length
K = TypeVar("K")
T = TypeVar("T")


class Predictor:
    """Predicts windows of inputs with a classifier of inputs or words, a masked language model, a CTC model or an
    encoder-decoder that writes texts.

    Args:
        model: With `preprocess`; its head is "classify", "token", "qa", "masked_lm" or "ctc", of an encoder-decoder
            "lm", of a model of proteins or alignments "contacts".
        top_k: Labels of each prediction.
        batch_size: Inputs in a batch; None: texts by their number of tokens. Audio clips are computed one by one.
        on_error: For an input that cannot be predicted: "raise", "skip" (None instead of a prediction), or "label" (a
            prediction with one label that is the error, and the probability nan).
        truncation: Whether to truncate texts that are too long for the model, rather than to raise. None: as
            `model.preprocess` does.
        aggregation_strategy: With head="token", how tokens become entities; see `entities_of`. None: "first".
        handle_impossible_answer: With head="qa", whether the empty answer is among the answers.
        generate_kwargs: How an encoder-decoder writes; see `zoo.predict`.

    Raises: ValueError for an option that is not one of these, or that the model has no use for.
    """

    def __init__(
        self,
        model: Model,
        top_k: int = 5,
        *,
        batch_size: int | None = None,
        on_error: OnError = "raise",
        truncation: bool | None = None,
        aggregation_strategy: Aggregation | None = None,
        handle_impossible_answer: bool = False,
        generate_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        check_choice("on_error", on_error, get_args(OnError))
        if batch_size is not None and (type(batch_size) is not int or batch_size < 1):
            raise ValueError(f"batch_size={batch_size!r}: expected a whole number of at least 1, or None")
        self.model, self.top_k, self.batch_size, self.on_error = model, top_k, batch_size, on_error
        self.writer = writer_of(model, generate_kwargs)
        self.processor = self.writer.processor if isinstance(self.writer, TextWriter) else model.preprocess
        self.aggregation = self._aggregation(aggregation_strategy)
        if handle_impossible_answer and model.config.head != "qa":
            raise ValueError(f"handle_impossible_answer=True is for head='qa', and the model has "
                             f"head={model.config.head!r}")  # fmt: skip
        self.handle_impossible_answer = handle_impossible_answer
        self.in_windows = model.config.head in ("token", "qa") and isinstance(self.processor, TextProcessor)
        if truncation is not None:
            if self.in_windows:
                raise ValueError(f"truncation={truncation!r}: the model predicts long texts in windows, so omit it")
            if not isinstance(self.processor, TextProcessor):
                raise ValueError(f"truncation={truncation!r} is for texts, and the model takes {model.inputs[0]}")
            if not isinstance(truncation, bool):
                raise ValueError(f"truncation={truncation!r}: expected True, False, or None (as the model was saved)")
            self.processor = replace(self.processor, truncate="warn" if truncation else "error")
        self.is_text = isinstance(self.processor, TextProcessor)
        self.is_audio = isinstance(self.processor, AudioProcessor)
        self.is_graph = "graph_sizes" in model.inputs
        record = next(iter(of_model(model)), None)
        self.noun = "input" if record is None else record.noun
        self.strings = record is not None and record.strings
        if model.config.head == "masked_lm" and self.processor.id("mask") is None:
            raise ValueError("expected one mask in each text, but the tokenizer has no mask token")
        if model.config.head == "ctc":
            long_audio.transcripts(model, [])  # raises where the model has no vocabulary

    def _aggregation(self, strategy: Aggregation | None) -> Aggregation:
        """The strategy, by default "first"."""
        if strategy is None:
            return "first"
        check_choice("aggregation_strategy", strategy, get_args(Aggregation))
        if self.model.config.head != "token":
            raise ValueError(f"aggregation_strategy={strategy!r} is for head='token', and the model has "
                             f"head={self.model.config.head!r}")  # fmt: skip
        return strategy

    @property
    def is_cpu(self) -> bool:
        return self.model.device.type == "cpu"

    @property
    def window_size(self) -> int:
        """The number of inputs that are held in memory, and computed, at once."""
        if isinstance(self.writer, SpeechWriter):
            return self.batch_size or self.writer.batch_size
        if self.is_audio:
            return 1
        if self.batch_size is None:
            return (TEXTS if self.is_cpu else TEXTS_OF_A_GPU) if self.is_text else IMAGES
        return self.batch_size * SORTED if self.is_text and self.batch_size > 1 else self.batch_size

    def report(self) -> Report:
        """An empty report of windows of this predictor."""
        return Report(self.on_error, max_length=getattr(self.processor, "max_length", 0))

    def stream(self, inputs: Iterable[Any], stacklevel: int = 2) -> Iterator[Prediction | None]:
        """Predictions in the order of the inputs, of which one window at a time is held in memory.

        stacklevel: of the warnings at the end; 2 is the caller who iterates.
        """
        source, report = iter(inputs), self.report()
        try:
            while items := list(islice(source, self.window_size)):
                window = self.window(items, report.inputs)
                report.add(window)
                yield from window.predictions
        finally:
            report.warn(stacklevel)

    def window(self, items: Sequence[Any], first: int = 0, names: Sequence[str] | None = None) -> Window:
        """Predict one window.

        Args:
            items: Inputs of the model; an exception in the place of one says why it could not be read.
            first: Index of the first of them among all inputs, for messages.
            names: Of the inputs in messages. Default: paths, or their indices.

        Raises: ValueError for an input that cannot be predicted, with on_error="raise".
        """
        made = Window([None] * len(items))
        for index, found in self._predicted(items, first, names, made):
            if not isinstance(found, Exception):
                made.predictions[index] = found
                continue
            message = self._named(found, items[index], first + index, names[index] if names else "")
            if self.on_error == "raise":
                raise (AudioError if isinstance(found, AudioError) else ValueError)(message) from found
            made.failures[index] = message
            if self.on_error == "label":
                made.predictions[index] = [self._error(f"error: {message}")]
        made.failures, made.unfinished = dict(sorted(made.failures.items())), dict(sorted(made.unfinished.items()))
        return made

    def _error(self, message: str) -> tuple[Any, ...]:
        """An error in the place of a label."""
        if predicts_contacts(self.model):
            return Contact(message, math.nan, 0, 0)
        if self.is_graph and self.model.config.head == "token":
            return Node("", message, math.nan)
        if predicts_points(self.model):
            return Point(message, math.nan)
        if not self.in_windows:
            return message, math.nan
        is_answer = self.model.config.head == "qa"
        return Answer(message, math.nan, 0, 0) if is_answer else Entity("", message, 0, 0, math.nan)

    def _named(self, error: Exception, item: Any, index: int, name: str) -> str:
        """What is wrong with an input, in one line that names it."""
        reason = " ".join(str(error).split()) or type(error).__name__
        is_path = isinstance(item, Path) or (isinstance(item, str) and not self.strings)
        name = name or (str(item) if is_path else f"{self.noun} {index}")
        return reason if name in reason else f"{name}: {reason}"

    # --- each modality ------------------------------------------------------------------------------------------------

    def _predicted(
        self, items: Sequence[Any], first: int, names: Sequence[str] | None, made: Window
    ) -> Iterator[tuple[int, Prediction | Exception]]:
        """(index, prediction or what is wrong) of each item; what is wrong as soon as it is known."""
        if isinstance(self.writer, SpeechWriter):
            good = [i for i, clip in enumerate(items) if not isinstance(clip, Exception)]
            yield from ((i, clip) for i, clip in enumerate(items) if isinstance(clip, Exception))
            yield from zip(good, self.writer([items[i] for i in good], first))
        elif self.is_audio:
            for i, clip in enumerate(items):
                yield i, clip if isinstance(clip, Exception) else self._clip(clip, first + i)
        elif self.in_windows:
            yield from self._texts_in_windows(items, names or [f"{self.noun} {first + i}" for i in range(len(items))])
        elif self.is_text:
            yield from self._texts(items, names or [f"{self.noun} {first + i}" for i in range(len(items))], made)
        else:
            size, predicted = self.batch_size or IMAGES, self._graphs if self.is_graph else self._images
            for start in range(0, len(items), size):
                yield from predicted(dict(enumerate(items[start : start + size], start)))

    def _clip(self, clip: Any, index: int) -> Prediction | Exception:
        try:
            if self.model.config.head == "ctc":
                return long_audio.transcripts(self.model, [clip], self.top_k, first=index)[0]
            outputs = long_audio.probabilities(self.model, [clip], first=index)
        except (ValueError, OSError) as error:
            return error
        return self._of_outputs(outputs)[0]

    def _images(self, items: dict[int, Any]) -> Iterator[tuple[int, Prediction | Exception]]:
        shapes: dict[Any, dict[int, dict[str, Tensor]]] = {}
        for index, item in items.items():
            row = item if isinstance(item, Exception) else self._prepared(item)
            if isinstance(row, Exception):
                yield index, row
            else:
                shapes.setdefault(str({name: x.shape for name, x in row.items()}), {})[index] = row
        for rows in shapes.values():
            batch = {name: torch.cat([row[name] for row in rows.values()]) for name in next(iter(rows.values()))}
            scores = run(self.model, batch)
            if predicts_contacts(self.model):
                yield from zip(rows, contacts_of_batch(self.model, scores, batch, self.top_k))
            elif predicts_points(self.model):
                yield from zip(rows, labels_of_points(self.model, [items[i] for i in rows], batch["points"], scores))
            else:
                yield from zip(rows, self._of_outputs(activated(self.model, scores)))

    def _graphs(self, items: dict[int, Any]) -> Iterator[tuple[int, Prediction | Exception]]:
        """Predictions of graphs, or of their nodes; each graph has another number of nodes."""
        graphs: dict[int, Graph] = {}
        for i, item in items.items():
            graph = item if isinstance(item, Exception) else attempt(self._graph, item)
            if isinstance(graph, Exception):
                yield i, graph
            else:
                graphs[i] = graph
        if not graphs:
            return
        outputs = activated(self.model, run(self.model, batch_graphs(list(graphs.values()))))
        if self.model.config.head != "token":
            yield from zip(graphs, self._of_outputs(outputs))
            return
        for (i, graph), scores in zip(graphs.items(), outputs.split([graph.num_nodes for graph in graphs.values()])):
            if scores.isfinite().all():
                yield i, labels_of_nodes(self.model, graph.names, scores)
            else:
                yield i, ValueError(NOT_FINITE)

    def _graph(self, item: Any) -> Graph:
        """One graph as the model takes it."""
        if isinstance(item, list | tuple):
            raise ValueError(f"given a {type(item).__name__} of {len(item)} inputs: expected one input, or a list of "
                             f"them")  # fmt: skip
        processor: Any = self.processor
        graph: Graph = processor.prepare(processor.load(item))
        return graph

    def _prepared(self, item: Any) -> dict[str, Tensor] | Exception:
        """The batch of one input, or what is wrong with it."""
        batch = attempt(self.processor, item)
        if isinstance(batch, Exception):
            return batch
        rows = len(next(iter(batch.values())))
        what = f"given a {type(item).__name__} of {rows} inputs: expected one input, or a list of them"
        return batch if rows == 1 else ValueError(what)

    def _texts(
        self, items: Sequence[Any], names: Sequence[str], made: Window
    ) -> Iterator[tuple[int, Prediction | Exception]]:
        found = list(items)
        good = [i for i, item in enumerate(items) if not isinstance(item, Exception)]
        source = self.writer.source if isinstance(self.writer, TextWriter) else lambda text: text
        encoded, truncated = self.processor.encode_each([source(items[i]) for i in good], [names[i] for i in good])
        for i, text in zip(good, encoded):
            if isinstance(items[i], tuple) and (self.writer is not None or predicts_contacts(self.model)):
                does = "predicts the contacts of" if self.writer is None else "writes a text of"
                text = ValueError(f"{names[i]} is a pair of {self.noun}s, and the model {does} a single one")
            found[i] = self._one_mask(text, names[i]) if self.model.config.head == "masked_lm" else text
        if self.processor.truncate == "warn":
            made.truncated = {good[i]: tokens for i, tokens in truncated.items()}
        yield from ((i, text) for i, text in enumerate(found) if isinstance(text, Exception))
        good = [i for i in good if not isinstance(found[i], Exception)]
        for batch in self._by_length({i: len(found[i]) for i in good}):
            if isinstance(self.writer, TextWriter):
                texts, unfinished = self.writer([found[i] for i in batch])
                made.unfinished |= {batch[row]: tokens for row, tokens in unfinished.items()}
                yield from zip(batch, texts)
            else:
                yield from zip(batch, self._of_encoded([found[i] for i in batch]))

    def _texts_in_windows(
        self, items: Sequence[Any], names: Sequence[str]
    ) -> Iterator[tuple[int, Prediction | Exception]]:
        """Texts of any length, for a model with an output for each token."""
        texts: dict[int, Any] = {}
        for i, item in enumerate(items):
            if isinstance(item, Exception):
                yield i, item
            elif self.model.config.head == "token" and isinstance(item, tuple):
                yield i, ValueError(f"{names[i]} is a pair of texts, and the model finds entities in single texts")
            elif self.model.config.head == "qa" and not (isinstance(item, tuple) and len(item) == 2):
                yield i, ValueError(f"{names[i]}: expected a tuple (question, context) of two texts")
            else:
                texts[i] = item
        for i, found in outputs_of_windows(self.model, self.processor, texts, names, self._by_length):
            yield i, found if isinstance(found, Exception) else self._of_windows(items[i], *found)

    def _of_windows(self, text: Any, windows: list[Any], scores: list[Tensor]) -> Prediction | Exception:
        """The entities of a text, or the answers to a question, from the scores [N, C] of its windows."""
        if not all(rows.isfinite().all() for rows in scores):
            return ValueError(NOT_FINITE)
        if self.model.config.head == "qa":
            return answers_of(text[1], windows, scores, self.top_k,
                              handle_impossible_answer=self.handle_impossible_answer)  # fmt: skip
        labels = label_names(self.model, scores[0].shape[-1])
        return entities_of(text, windows, [rows.softmax(-1) for rows in scores], labels, self.aggregation)

    def _by_length(self, lengths: dict[K, int]) -> Iterator[list[K]]:
        """Batches of texts of similar length."""
        limit, rows = TOKENS if self.is_cpu else TOKENS_OF_A_GPU, self.batch_size or len(lengths)
        if self.writer is not None:
            limit, rows = TOKENS_OF_SOURCES, self.batch_size or ROWS
        batch: list[K] = []
        for index in sorted(lengths, key=lambda i: lengths[i]):
            full = len(batch) == rows or (not self.batch_size and (len(batch) + 1) * lengths[index] > limit)
            if batch and full:
                yield batch
                batch = []
            batch.append(index)
        if batch:
            yield batch

    def _of_encoded(self, texts: list[Any]) -> list[Prediction | Exception]:
        batch = self.processor._pad(texts)
        scores = run(self.model, batch)
        if predicts_contacts(self.model):
            return contacts_of_batch(self.model, scores, batch, self.top_k)
        if self.model.config.head != "masked_lm":
            return self._of_outputs(activated(self.model, scores))
        probabilities = scores[batch["input_ids"] == self.processor.id("mask")].softmax(-1)
        return self._finite(probabilities, lambda i: self.processor.decode([i], skip_special=False))

    def _one_mask(self, text: Any, name: str) -> Any:
        """The encoding, or what is wrong with it if it has not one mask."""
        if isinstance(text, Exception):
            return text
        count = text.ids.count(self.processor.id("mask"))
        token = self.processor.special.get("mask")
        return text if count == 1 else ValueError(f"expected one mask ({token!r}) in each text, but {name} has {count}")

    # --- from outputs to predictions ----------------------------------------------------------------------------------

    def _of_outputs(self, outputs: Tensor) -> list[Prediction | Exception]:
        """Probabilities or values [B, C] with their labels."""
        labels = label_names(self.model, outputs.shape[-1])
        regression = self.model.config.resolved_problem_type == "regression"
        return self._finite(outputs, lambda i: labels[i], every=regression)

    def _finite(
        self, outputs: Tensor, label: Callable[[int], str], every: bool = False
    ) -> list[Prediction | Exception]:
        """The best labels of each row, or all of them in their order; an error for a row that is not finite."""
        if every:
            found = [[(label(i), value) for i, value in enumerate(row)] for row in outputs.tolist()]
        else:
            found = top_predictions(outputs, self.top_k, label)
        finite = outputs.isfinite().all(-1).tolist()
        problem = ValueError(NOT_FINITE)
        return [row if fine else problem for row, fine in zip(found, finite)]


def attempt(call: Callable[[Any], T], item: Any) -> T | Exception:
    """What a call makes of an input, or what is wrong with it. Missing packages and a lack of memory are raised."""
    try:
        return call(item)
    except (ImportError, MemoryError):
        raise
    except Exception as error:  # decoders raise errors of many kinds for broken files, SyntaxError among them
        return error
