"""Base class of tasks that compare the texts which a model writes with right ones."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from torch import Tensor, nn
from torchmetrics import Metric

from zoo.inference.generation.beam_search import check_beams
from zoo.parallel.context import divides_tokens
from zoo.parallel.fsdp import gathered
from zoo.tasks.evaluated import EvaluatedTask
from zoo.utils.console import announce


class TextMetricTask(EvaluatedTask):
    """A task that with `text_metric` generates texts and compares them with `references`: greedily for the first
    `val_samples` items in validation, with the options of `generation` in the test. Subclasses implement `generate`,
    and evaluate with `_validate_texts`, `_test_texts` and `_text_scores`.

    Batches have the `index` of their items. Attributes: predictions: {index: text} of the test.
    """

    text_metric: Callable[[], Metric] | None
    val_samples: int

    def set_text_metric(
        self, text_metric: Callable[[], Metric] | None, references: Mapping[str, Sequence[Any]] | None,
        val_samples: int, generation: Mapping[str, Any],
    ) -> None:  # fmt: skip
        """Set what texts are compared with. Raises ValueError for a metric without references, and for more
        beams than the model has tokens."""
        if text_metric is not None and references is None:
            raise ValueError("text_metric= compares generated texts with references=: give both or none")
        self.text_metric, self.references, self.val_samples = text_metric, references or {}, val_samples
        self.generation = dict(generation)
        check_beams(self.generation["num_beams"], getattr(self.model, "config", None))  # not after the training
        self.text_metrics: dict[str, Metric] = {}  # a plain dict: metrics are not part of the state dict
        self.predictions: dict[int, str] = {}

    @property
    def validation_metrics(self) -> dict[str, str]:
        """As in Task."""
        found = super().validation_metrics
        if self.text_metric is None or not self.val_samples:
            return found
        directions: Mapping[str, str] = self.text_metric().directions  # type: ignore[assignment]
        return found | {f"val_{name}": direction for name, direction in directions.items()}

    @property
    def reports(self) -> dict[str, Any]:
        """Entries of the results of a run: the signatures of the metric of texts or of its parts, if they have one."""
        parts = self.text_metrics["test"].modules() if "test" in self.text_metrics else ()
        signed = [part for part in parts if hasattr(part, "signature")]
        return {f"{type(part).__name__.lower()}_signature": part.signature for part in signed}

    def generate(self, model: nn.Module, batch: Mapping[str, Any], **options: Any) -> list[str]:
        """The texts that a model writes for the inputs of a batch."""
        raise NotImplementedError

    def on_fit_start(self) -> None:
        """As in Task; says which metrics a plan leaves out, because its processes divide the tokens of a text."""
        super().on_fit_start()
        if self.text_metric is not None and divides_tokens(self.evaluated):
            names = ", ".join(cast(Any, self.text_metric()).directions)
            announce(f"no {names}: processes that divide tokens (plan.context) generate no texts; zoo.generate does so "
                     "after the run, with the saved model")  # fmt: skip

    def _generates(self, stage: str) -> bool:
        """Whether texts are generated; processes that divide the tokens of a text cannot."""
        return self.text_metric is not None and stage in self.references and not divides_tokens(self.evaluated)

    def _validate_texts(self, batch: Mapping[str, Any]) -> None:
        """Update the metric of texts by the first items, with greedy decoding."""
        if self._generates("val") and len(rows := (batch["index"] < self.val_samples).nonzero()[:, 0]):
            self._compare(select_rows(batch, rows), "val", {"num_beams": 1})

    def _test_texts(self, batch: Mapping[str, Any]) -> None:
        """Update the metric of texts, and keep the texts."""
        if self._generates("test"):
            self.predictions |= dict(zip(batch["index"].tolist(), self._compare(batch, "test", {})))

    def _compare(self, batch: Mapping[str, Any], stage: str, options: dict[str, Any]) -> list[str]:
        """Generate texts for a batch, and update the metric of texts."""
        with gathered(self.evaluated):
            texts = self.generate(self.evaluated, batch, **options)
        self._text_metric(stage).update(texts, [self.references[stage][i] for i in batch["index"].tolist()])
        return texts

    def _text_metric(self, stage: str) -> Metric:
        if stage not in self.text_metrics:
            self.text_metrics[stage] = cast(Callable[[], Metric], self.text_metric)().to(self.device)
        return self.text_metrics[stage]

    def _text_scores(self, stage: str) -> dict[str, float]:
        """The scores of the texts of a stage, by name; all processes compute them, also those without a text."""
        if not self._generates(stage) or (stage == "val" and not self.val_samples):
            return {}
        metric = self._text_metric(stage)
        row = {f"{stage}_{name}": score for name, score in metric.compute().items()}
        metric.reset()
        return row


def select_rows(batch: Mapping[str, Any], rows: Tensor) -> dict[str, Any]:
    """The rows [K] of a batch: of its tensors, and of lists with an entry for each row."""
    count = len(batch["index"])
    found = dict(batch)
    for name, value in batch.items():
        if isinstance(value, Tensor) and value.ndim and len(value) == count:
            found[name] = value[rows]
        elif isinstance(value, list) and len(value) == count:
            found[name] = [value[i] for i in rows.tolist()]
    return found
