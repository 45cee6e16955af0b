"""What a server computes for its requests: predictions as JSON types, or embeddings."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from zoo.inference.predict import check_model
from zoo.inference.predictor import Predictor
from zoo.inference.probabilities import Prediction
from zoo.inference.server_requests import Inputs, RequestError
from zoo.inference.text_generation import writes_texts
from zoo.models.base import Model
from zoo.preprocessing.modality import of_model


@dataclass
class Predictions:
    """Predicts as `zoo.predict` does, for several requests at once.

    truncation: of texts, as in `zoo.predict`. max_batch_size: images in a forward; texts are batched by their length.
    """

    model: Model
    truncation: bool | None = None
    max_batch_size: int = 32
    modalities: Sequence[str] = field(init=False)

    def __post_init__(self) -> None:
        check_model(self.model, 1)
        record = of_model(self.model)[0]
        self.modalities = (record.name,)
        batch_size = self.max_batch_size if record.name == "image" else None
        self.predictor = Predictor(self.model, batch_size=batch_size, on_error="skip", truncation=self.truncation)
        if self.predictor.is_audio:
            self.max_batch_size = 1  # clips are computed one by one, in windows

    def key(self, inputs: Inputs) -> str:
        """Requests with equal keys are computed together."""
        return inputs.modality

    def __call__(self, requests: Sequence[Inputs]) -> list[Any]:
        """The body of each response, or the RequestError of a request with an input that cannot be predicted."""
        self.predictor.top_k = max(request.top_k for request in requests)
        items = [item for request in requests for item in request.items]
        names = [name for request in requests for name in request.names]
        window = self.predictor.window(items, names=names)
        bodies: list[Any] = []
        start = 0
        for request in requests:
            own = range(start, start + len(request.items))
            start = own.stop
            failures = {i - own.start: window.failures[i] for i in own if i in window.failures}
            if failures:
                bodies.append(refused(failures))
                continue
            body = {"predictions": [self._shown(window.predictions[i], request.top_k) for i in own]}
            truncated = {str(i - own.start): window.truncated[i] for i in own if i in window.truncated}
            bodies.append(body | ({"truncated": truncated} if truncated else {}))
        return bodies

    def _shown(self, prediction: Prediction | None, top_k: int) -> list[dict[str, Any]]:
        config = self.model.config
        if config.head == "classify" and config.resolved_problem_type == "regression":
            return [{"label": label, "value": value} for label, value in prediction or ()]
        name = "text" if config.head == "ctc" else "label"
        if writes_texts(self.model):
            name = "text" if "input_features" in self.model.inputs else "generated_text"
        found = (prediction or []) if config.head == "token" else (prediction or [])[:top_k]
        rows = [one._asdict() if hasattr(one, "_asdict") else {name: one[0], "probability": one[1]} for one in found]
        return [row | ({"probability": None} if math.isnan(row["probability"]) else {}) for row in rows]


@dataclass
class Embeddings:
    """Embeds inputs.

    model: for its description. modalities: that it embeds. vectors: (modality, inputs) -> float32 [N, D], each row of
    length 1, such as those of `zoo.retrieval.encode.Encoder`.
    """

    model: Any
    modalities: Sequence[str]
    vectors: Callable[[str, Sequence[Any]], Tensor]
    max_batch_size: int = 32

    def key(self, inputs: Inputs) -> str:
        """Requests with equal keys are computed together."""
        return inputs.modality

    def __call__(self, requests: Sequence[Inputs]) -> list[Any]:
        """The body of each response, or the RequestError of a request with an input that cannot be embedded."""
        kind, items = requests[0].modality, [item for request in requests for item in request.items]
        rows = self._rows(kind, items)
        bodies: list[Any] = []
        start = 0
        for request in requests:
            own = rows[start : start + len(request.items)]
            start += len(own)
            failures = {
                i: f"{name}: {' '.join(str(row).split()) or type(row).__name__}"
                for i, (name, row) in enumerate(zip(request.names, own))
                if isinstance(row, Exception)
            }
            bodies.append(refused(failures) if failures else {"embeddings": [row.tolist() for row in own]})
        return bodies

    def _rows(self, kind: str, items: list[Any]) -> list[Any]:
        """The vector of each item, or what is wrong with it."""
        try:
            rows = self.vectors(kind, items)
        except (ImportError, MemoryError):
            raise
        except Exception as error:  # decoders raise errors of many kinds for broken files
            if len(items) > 1:
                return [row for item in items for row in self._rows(kind, [item])]
            if isinstance(error, RuntimeError):  # of torch: not the fault of the input
                raise
            return [error]
        problem = ValueError("the model gives numbers that are not finite for it")
        return [row if row.isfinite().all() else problem for row in rows]


def refused(failures: dict[int, str]) -> RequestError:
    """The error of a request with these failures: {index of the input: what is wrong with it, naming it}."""
    first = next(iter(failures.values()))
    more = f" (and {len(failures) - 1} more)" if len(failures) > 1 else ""
    return RequestError(422, first + more, {"failures": {str(i): text for i, text in failures.items()}})
