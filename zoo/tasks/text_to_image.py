"""Text to image: train a model of image tokens on pairs of texts and images (DALL-E, MaskGIT)."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.models.base import Model
from zoo.models.dalle.model import Dalle
from zoo.models.maskgit.model import MaskGIT
from zoo.tasks.config import OptimSettings
from zoo.tasks.evaluated import EvaluatedTask
from zoo.tasks.weighted_mean import WeightedMean
from zoo.utils.keyed_random import KeyedRandom


class TextToImageTask(EvaluatedTask):
    """Train DALL-E to continue a text by the tokens of its image, or MaskGIT to fill in masked tokens of the image.

        L.Trainer(max_steps=1000).fit(TextToImageTask(zoo.create_model("dalle_nano"), lr=1e-3), loader)

    Batches: `input_ids`, `attention_mask` [B, N] and `image_ids` [B, n], or `pixel_values` [B, C, H, W], of which the
    image tokenizer makes tokens: once for each image where the batch has the `index` of its items, in each step for
    images without. A fraction `model.config.text_dropout` of the texts is replaced by the empty text, for guidance.
    Which texts, and which tokens MaskGIT masks, are pure functions of (seed, epoch, index); evaluation drops no text
    and masks the same tokens each time.

    Logs `train_loss`, `lr`, and for validation and test `loss`, `image_loss` and `image_perplexity` per token of the
    image, for DALL-E also `text_loss`.

    Args:
        model: A `dalle` or `maskgit` model.
        lr: Peak learning rate; overrides the one in `optim`.
        image_tokenizer: A model with `tokenize(pixel_values)`; by default the one of the model.
        image_weight: Weight of the loss of DALL-E's image tokens beside the text's, 1.
        label_smoothing: Of MaskGIT's loss: fraction of the target that is spread evenly over all tokens.
        optim, ema, seed: See Task.

    Sources: Ramesh et al. 2021, section 2.2, https://arxiv.org/abs/2102.12092; Chang et al. 2022, section 3.1,
    https://arxiv.org/abs/2202.04200, whose masking ratio is cos(pi / 2 * u) with u uniform in [0, 1).
    Raises: ValueError for another model, and for an image tokenizer whose codebook or grid does not fit.
    """

    def __init__(self, model: nn.Module, lr: float | None = None, *, image_tokenizer: Model | None = None,
                 image_weight: float = 7.0, label_smoothing: float = 0.0, optim: OptimSettings | None = None,
                 ema: float = 0.0, seed: int = 0):  # fmt: skip
        if not isinstance(model, Dalle | MaskGIT) or model.head is None:
            raise ValueError(f"TextToImageTask trains a dalle or maskgit model with its head, given a "
                             f"{type(model).__name__}")  # fmt: skip
        if not 0.0 <= label_smoothing < 1.0:
            raise ValueError(f"label_smoothing={label_smoothing}: expected at least 0 and less than 1")
        if label_smoothing and isinstance(model, Dalle):
            raise ValueError(f"label_smoothing={label_smoothing} is for MaskGIT; the loss of DALL-E has none: omit it")
        if image_weight <= 0 or not math.isfinite(image_weight):
            raise ValueError(f"image_weight={image_weight}: expected more than 0, 7 in the paper")
        if image_tokenizer is not None:
            model.config.check_image_tokenizer(image_tokenizer.config)
        optim = optim or OptimSettings()
        super().__init__(model, optim=optim if lr is None else replace(optim, lr=lr), ema=ema, seed=seed)
        # In a tuple, so that the module tree and checkpoints do not have it.
        self._tokenizer = (image_tokenizer,)
        self.image_weight, self.label_smoothing = image_weight, label_smoothing
        self._tokens: dict[tuple[str, int], Tensor] = {}
        self.metrics: dict[str, WeightedMean] = {}  # a plain dict: metrics are not part of the state dict

    @property
    def own(self) -> Dalle | MaskGIT:
        """The model."""
        return cast("Dalle | MaskGIT", self.model)

    @property
    def validation_metrics(self) -> dict[str, str]:
        """As in Task."""
        more = {"val_text_loss": "min"} if isinstance(self.own, Dalle) else {}
        return super().validation_metrics | {"val_image_loss": "min", "val_image_perplexity": "min"} | more

    # --- inputs -------------------------------------------------------------------------------------------------------

    def inputs(self, batch: Mapping[str, Any], stage: str) -> dict[str, Tensor]:
        """input_ids, attention_mask and image_ids [B, n] of a batch."""
        ids = batch["input_ids"]
        mask = batch.get("attention_mask")
        if mask is None:
            pad = self.own.config.pad_token_id
            mask = torch.ones_like(ids) if pad is None else (ids != pad).long()
        return {"input_ids": ids, "attention_mask": mask, "image_ids": self.image_ids(batch, stage)}

    def image_ids(self, batch: Mapping[str, Any], stage: str) -> Tensor:
        """The tokens of the images of a batch [B, n]; those of a known item of a stage are not computed again."""
        if "image_ids" in batch:
            return batch["image_ids"].flatten(1)
        if "pixel_values" not in batch:
            raise ValueError("TextToImageTask needs image_ids or pixel_values in its batches")
        pixels, index = batch["pixel_values"], batch.get("index")
        if index is None:
            return self.tokenize(pixels)
        keys = [(stage, i) for i in index.tolist()]
        if new := [row for row, key in enumerate(keys) if key not in self._tokens]:
            for row, ids in zip(new, self.tokenize(pixels[new]).to("cpu", torch.int32)):
                self._tokens[keys[row]] = ids
        return torch.stack([self._tokens[key] for key in keys]).long().to(pixels.device)

    @torch.no_grad()
    def tokenize(self, pixel_values: Tensor) -> Tensor:
        """The image tokenizer's tokens [B, n]."""
        tokenizer: Any = self._tokenizer[0] or self.own.image_tokenizer
        if tokenizer is None:
            raise ValueError(
                "batches with pixel_values need an image tokenizer: pass image_tokenizer= to the task, or "
                "model.set_image_tokenizer(...), which saves it with the model"
            )
        tokenizer.eval().to(pixel_values.device)
        ids: Tensor = tokenizer.tokenize(pixel_values)
        return ids.flatten(1)

    def random(self, batch: Mapping[str, Any], rows: int, epoch: int | None, device: torch.device) -> KeyedRandom:
        """Random numbers of the rows of a batch; those of evaluation are always the same."""
        index = batch["index"] if "index" in batch else torch.arange(rows, device=device)
        return KeyedRandom(self.seed, -1 if epoch is None else epoch, index)

    def without_texts(self, inputs: dict[str, Tensor], random: KeyedRandom) -> dict[str, Tensor]:
        """The inputs, where the mask of some texts hides all of their tokens."""
        dropped = random.uniform("text") < self.own.config.text_dropout
        return inputs | {"attention_mask": inputs["attention_mask"].masked_fill(dropped[:, None], 0)}

    def masked(self, batch: Mapping[str, Any], image_ids: Tensor, epoch: int | None) -> Tensor:
        """Which tokens of images [B, n] MaskGIT has to fill in, at least one of each."""
        rows, tokens = image_ids.shape
        ratio = torch.cos(math.pi / 2 * self.random(batch, rows, epoch, image_ids.device).uniform("ratio"))
        index = batch["index"] if "index" in batch else torch.arange(rows, device=image_ids.device)
        places = (index[:, None] << 20) + torch.arange(tokens, device=image_ids.device)
        order = KeyedRandom(self.seed, -1 if epoch is None else epoch, places).uniform("place").argsort(1).argsort(1)
        return order < (ratio * tokens).ceil().clamp(min=1)[:, None]

    # --- losses -------------------------------------------------------------------------------------------------------

    def loss_of(self, batch: Mapping[str, Any], step: int, micro: int) -> Tensor:
        """Mean loss of a micro-batch."""
        epoch = int(batch.get("epoch", 0))
        inputs = self.inputs(batch, "train")
        rows, device = len(inputs["input_ids"]), inputs["image_ids"].device
        inputs = self.without_texts(inputs, self.random(batch, rows, epoch, device))
        losses = self.losses(self.model, batch, inputs, epoch)
        if "text" not in losses:
            return self.mean_loss(losses["image"].sum(), float(losses["image"].numel()))
        text, image = losses["text"].mean(), losses["image"].mean()
        return self.mean_loss(rows * (text + self.image_weight * image) / (1 + self.image_weight), float(rows))

    def losses(
        self, model: Any, batch: Mapping[str, Any], inputs: dict[str, Tensor], epoch: int | None = None
    ) -> dict[str, Tensor]:
        """{"image": of the image tokens that are predicted, "text": of DALL-E's text tokens}; `epoch` is None in
        evaluation."""
        if isinstance(self.own, Dalle):
            text, image = self.own.losses(model(**inputs), **inputs)
            return {"image": image, "text": text}
        ids = inputs["image_ids"]
        masked = self.masked(batch, ids, epoch)
        hidden = torch.where(masked, self.own.config.mask_token_id, ids)
        scores = model(**inputs | {"image_ids": hidden})[masked]
        smoothing = 0.0 if epoch is None else self.label_smoothing
        return {"image": F.cross_entropy(scores.float(), ids[masked], reduction="none", label_smoothing=smoothing)}

    # --- evaluation ---------------------------------------------------------------------------------------------------

    def _evaluate(self, batch: Mapping[str, Any], stage: str) -> None:
        for name, losses in self.losses(self.evaluated, batch, self.inputs(batch, stage)).items():
            key = f"{stage}_{name}_loss"
            if key not in self.metrics:
                self.metrics[key] = WeightedMean().to(self.device)
            self.metrics[key].update(losses.mean(), losses.numel())

    def _log_epoch(self, stage: str) -> None:
        row = {}
        for name in ("text", "image"):
            if (metric := self.metrics.get(f"{stage}_{name}_loss")) is not None:
                row[f"{stage}_{name}_loss"] = float(metric.compute())
                metric.reset()
        text, image, weight = row.get(f"{stage}_text_loss"), row[f"{stage}_image_loss"], self.image_weight
        row[f"{stage}_loss"] = image if text is None else (text + weight * image) / (1 + weight)
        row[f"{stage}_image_perplexity"] = math.exp(min(image, 700.0))
        self.log_evaluation(row)
