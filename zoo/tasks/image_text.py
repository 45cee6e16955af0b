"""Images and text: train a model to write texts about images, such as answers to questions or captions."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torchmetrics import Metric

from zoo.inference.generation.generate import generate
from zoo.models.base import Model
from zoo.models.bridge.model import Bridge
from zoo.nn.losses.cross_entropy import IGNORED
from zoo.tasks.base import as_batch_dict
from zoo.tasks.language_modeling import CausalLMTask, Predictions, _inputs, output_layer
from zoo.tasks.text_metric import TextMetricTask
from zoo.tasks.weighted_mean import WeightedMean


class ImageTextTask(TextMetricTask, CausalLMTask):
    """Train a model that reads images and writes texts: a bridge (LLaVA, Flamingo), or an encoder-decoder (BLIP).

    Batches: those of `ImageTextDataModule`: the model's inputs with `input_ids` [B, N], `labels` [B, N], the token of
    the text that follows each position and -100 elsewhere, `types` [B] and `index` [B]. The loss is that of the texts
    alone. Logs for validation and test `loss` and `perplexity` per token, and `accuracy`, the fraction of the texts
    that greedy decoding writes exactly as they are: it does so if each token is the most probable one after the right
    tokens before it, which needs no decoding. `accuracy_TYPE` is that of the questions of a type, `accuracy_GROUP` of
    several types together.

    With `text_metric`, texts are generated, greedily for the first `val_samples` items in validation, with the options
    of `generation` in the test, and compared with `references`.

    Args:
        model: Returns logits [B, N, V]; created with head="lm".
        lr: Peak learning rate; overrides the one in `optim`.
        types: Names of the types of questions.
        groups: Types whose accuracy is reported together, by the name of the group.
        control: Test once more with the images of other items: `shuffled_images_accuracy`, which a model that reads
            its images cannot keep up.
        text_metric: Makes the metric of generated texts, see `Seq2SeqTask`.
        references: Right texts of the stages "val" and "test", by the index of the item.
        val_samples: Number of validation items to generate texts for; 0 generates none.
        generation: Options of `zoo.generate`, such as num_beams (of the test) and max_new_tokens.
        optim, ema, seed: See Task.

    Attributes:
        predictions: {index: text} that was generated in the test.
        wrong: Indices of the test items whose text is not exactly right.
    """

    monitor = "val_accuracy"
    mode = "max"

    def __init__(self, model: nn.Module, lr: float | None = None, *, types: Sequence[str] = (),
                 groups: Mapping[str, Sequence[str]] | None = None, control: bool = False,
                 text_metric: Callable[[], Metric] | None = None,
                 references: Mapping[str, Sequence[Any]] | None = None, val_samples: int = 200,
                 generation: Mapping[str, Any] | None = None, **options: Any):  # fmt: skip
        super().__init__(model, lr, **options)
        if not types:  # captions differ in many words, of which one decides whether all of a text is right
            self.monitor, self.mode = "val_loss", "min"
        self.types, self.groups, self.control = list(types), dict(groups or {}), control
        usual = {"num_beams": 1, "max_new_tokens": 64}
        self.set_text_metric(text_metric, references, val_samples, usual | dict(generation or {}))
        self.wrong: list[int] = []

    @property
    def validation_metrics(self) -> dict[str, str]:
        """As in Task."""
        return super().validation_metrics | {f"val_{name}": "max" for name in self.accuracies}

    @property
    def accuracies(self) -> list[str]:
        """Names of the accuracies: of all texts, of each type and of each group."""
        return ["accuracy", *(f"accuracy_{name}" for name in [*self.types, *self.groups])]

    def predict(self, model: nn.Module, batch: Mapping[str, Any], epoch: int | None = None) -> Predictions:
        """As in CausalLMTask; a bridge computes the scores of the texts alone, not of its image tokens."""
        layer = text_layer(model)
        if layer is None:
            return super().predict(model, batch, epoch)
        own: Any = model
        x, labels = own.encode(**_inputs(self.model, batch)).flatten(0, 1), batch["labels"].flatten()
        if not x.is_cuda:  # on a GPU the number of tokens would have to be waited for
            rows = (labels != IGNORED).nonzero()[:, 0]
            x, labels = x[rows], labels[rows]
        return Predictions(own.text.head.features(x), labels, layer)

    # --- evaluation --------------------------------------------------------------------------------------------------

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Update the validation metrics, with greedy decoding."""
        batch = as_batch_dict(batch)
        self._evaluate_texts(batch, "val")
        self._validate_texts(batch)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Update the test metrics."""
        batch = as_batch_dict(batch)
        right = self._evaluate_texts(batch, "test")
        self.wrong += batch["index"][~right].tolist()
        self._test_texts(batch)
        if self.control and len(batch["index"]) > 1:
            images = batch["pixel_values"]  # half a batch away, because the texts of one image follow each other
            self._evaluate_texts(dict(batch) | {"pixel_values": images.roll(len(images) // 2, 0)}, "shuffled")

    def generate(self, model: nn.Module, batch: Mapping[str, Any], **options: Any) -> list[str]:
        """The texts that a model writes for the images and prompts of a batch."""
        ids, pixels = batch["input_ids"], batch["pixel_values"]
        lengths = ids.new_tensor(batch["prompt_lengths"])[:, None]
        places = torch.arange(int(lengths.max()), device=ids.device) - lengths.max() + lengths
        prompts, options = ids.gather(1, places.clamp(min=0)), self.generation | options  # padded on the left
        if isinstance(model, Bridge):
            found = generate(model, prompts, (places >= 0).long(), pixel_values=pixels, **options)
        else:
            found = generate(cast(Model, model), pixel_values=pixels, decoder_input_ids=prompts, **options)
        found = found[:, prompts.shape[1] :]
        tokenizer = cast(Any, self.model).preprocess.text
        return [tokenizer.decode(row).strip() for row in found.cpu()]

    def right_texts(self, model: nn.Module, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor, int]:
        """(which texts of a batch greedy decoding writes exactly, bool [B]; mean loss per token; number of tokens)."""
        predictions = self.predict(model, batch)
        kept = predictions.labels != IGNORED
        x, labels = predictions.x[kept], predictions.labels[kept]
        scores = x if predictions.layer is None else predictions.layer(x)
        rows = (batch["labels"] != IGNORED).nonzero()[:, 0]
        wrong = torch.zeros(len(batch["labels"]), device=x.device)
        wrong.index_add_(0, rows, (scores.argmax(-1) != labels).float())
        return wrong == 0, nn.functional.cross_entropy(scores.float(), labels), len(labels)

    def _evaluate_texts(self, batch: Mapping[str, Any], stage: str) -> Tensor:
        """Update the metrics of a stage; returns which texts are right, bool [B]."""
        right, loss, count = self.right_texts(self.evaluated, batch)
        self._mean(f"{stage}_loss").update(loss, count)
        self._mean(f"{stage}_accuracy").update(right.float())
        for number, name in enumerate(self.types):
            if (own := batch["types"] == number).any():
                self._mean(f"{stage}_accuracy_{name}").update(right[own].float())
        return right

    def _mean(self, name: str) -> WeightedMean:
        if name not in self.metrics:
            self.metrics[name] = WeightedMean().to(self.device)
        return self.metrics[name]

    def _log_epoch(self, stage: str) -> None:
        loss = float(self.metrics[f"{stage}_loss"].compute())
        row = {f"{stage}_loss": loss, f"{stage}_perplexity": torch.tensor(min(loss, 80.0)).exp().item()}
        row |= {f"{stage}_{name}": value for name, value in self._accuracies(stage).items()}
        if stage == "test" and self.control:
            row |= {f"test_shuffled_images_{name}": value for name, value in self._accuracies("shuffled").items()}
        row |= self._text_scores(stage)
        for name in [name for name in self.metrics if name.startswith((stage, "shuffled"))]:
            self.metrics[name].reset()
        self.log_evaluation(row)

    def _accuracies(self, stage: str) -> dict[str, float]:
        """The accuracies of a stage by name; that of a group is the mean over its questions."""
        found: dict[str, float] = {}
        for name in ["accuracy", *(f"accuracy_{kind}" for kind in self.types)]:
            if (metric := self.metrics.get(f"{stage}_{name}")) is not None:
                found[name] = float(metric.compute())
        for name, kinds in self.groups.items():
            metrics = [m for kind in kinds if (m := self.metrics.get(f"{stage}_accuracy_{kind}")) is not None]
            if metrics:
                values = torch.tensor([[float(m.compute()), float(m.weight)] for m in metrics])
                found[f"accuracy_{name}"] = float((values[:, 0] * values[:, 1]).sum() / values[:, 1].sum())
        return found


def text_layer(model: nn.Module) -> nn.Linear | None:
    """The last layer of the text tower of a bridge, see `output_layer`; None for other models, and where the model has
    to be called as a whole."""
    if not isinstance(model, Bridge) or isinstance(model, FSDPModule) or model._compiled_call_impl is not None:
        return None
    return None if model._forward_hooks or model._forward_pre_hooks else output_layer(model.text)
