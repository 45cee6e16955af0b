"""Associative recall and induction: the model with any attention kind or mixer, and the accuracy of its answers."""

from collections.abc import Mapping
from typing import Any

from zoo.models.base import Model
from zoo.nn.core import CORES
from zoo.nn.losses.cross_entropy import IGNORED
from zoo.nn.registry import ALIASES, ATTENTION, BUILT_IN_MIXERS
from zoo.tasks.language_modeling import CausalLMTask
from zoo.tasks.weighted_mean import WeightedMean
from zoo.training.parse import SettingsError
from zoo.training.run import Run
from zoo.utils.errors import did_you_mean


def recall_model(run: Run) -> Model:
    """A decoder for sequences of `length=` tokens, with the attention kind or the mixer of `mechanism=`.

    Raises: SettingsError for a mechanism that is neither, or that is given beside `attention=` or `mixer=`.
    """
    fields = {} if run.config.mechanism is None else mechanism_fields(run)
    return run.build_model("lm", max_length=run.config.data.length, **fields)


def mechanism_fields(run: Run) -> dict[str, Any]:
    """The field `attention` for an attention kind; for a mixer `mixer`, in the layers that have attention."""
    value = run.config.mechanism
    if both := sorted({"attention", "mixer"} & run.overrides_given.keys()):
        raise SettingsError(f"mechanism={value} and {both[0]}= are both given: give only one of them")
    name = value.get("kind") if isinstance(value, dict) else value
    if name in BUILT_IN_MIXERS:
        layers = run.config.model.overrides.get("mixer") or ATTENTION
        layers = layers if isinstance(layers, list | tuple) else [layers]
        return {"mixer": [value if layer == ATTENTION else layer for layer in layers]}
    if isinstance(name, str) and name not in CORES and name not in ALIASES and ":" not in name:
        known = [*CORES, *BUILT_IN_MIXERS]
        raise SettingsError(f"mechanism={value}: expected an attention kind or a mixer ({', '.join(known)})"
                            f"{did_you_mean(name, known)}")  # fmt: skip
    return {"attention": value}


class RecallTask(CausalLMTask):
    """Causal language modeling of the answers alone, evaluated by the fraction of answers that are right.

    Batches: those of `CausalLMTask`, with labels of -100 where no answer follows. Logs, besides what it logs,
    `val_accuracy` and `test_accuracy`: of the most probable token at each query. The step with the highest
    `val_accuracy` is the best.
    """

    monitor = "val_accuracy"
    mode = "max"

    @property
    def validation_metrics(self) -> dict[str, str]:
        """As in Task."""
        return super().validation_metrics | {"val_accuracy": "max"}

    def _evaluate(self, batch: Mapping[str, Any], stage: str) -> None:
        for metric in (f"{stage}_loss", f"{stage}_accuracy"):
            if metric not in self.metrics:
                self.metrics[metric] = WeightedMean().to(self.device)
        loss, right, count = self.scores(batch)
        self.metrics[f"{stage}_loss"].update(loss / count.clamp(min=1), count)
        self.metrics[f"{stage}_accuracy"].update(right / count.clamp(min=1), count)

    def scores(self, batch: Mapping[str, Any]) -> tuple[Any, Any, Any]:
        """(sum of the losses, number of right answers, number of answers) of a batch."""
        found = self.predict(self.evaluated, batch)
        answered = found.labels != IGNORED
        x, labels = found.x[answered], found.labels[answered]
        logits = x if found.layer is None else found.layer(x)
        return found.cross_entropy("sum"), (logits.argmax(-1) == labels).sum(), found.count

    def _log_epoch(self, stage: str) -> None:
        metric = self.metrics[f"{stage}_accuracy"]
        accuracy = float(metric.compute())
        metric.reset()
        self.log_evaluation({f"{stage}_accuracy": accuracy})
        super()._log_epoch(stage)
