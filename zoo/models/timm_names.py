"""The methods and attributes of timm's models, on ours: the same names, the same numbers.

Each is an alias; a model for which one makes no sense raises an AttributeError that names what to use instead, see
`zoo.models.foreign_names`.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from zoo.models.config import CLASSIFIER_HEADS
from zoo.preprocessing.image import ImageProcessor

# timm's names of pooling, and ours.
POOLING = {"token": "cls", "avg": "mean", "map": "map"}


class TimmNames:
    """Names that models of one tower share with timm's; `encode`, `head` and `reset_head` are ours."""

    config: Any
    head: Any
    preprocess: Any
    num_features: Any  # a property of the class that inherits this one
    encode: Any
    reset_head: Any
    set_checkpointing: Any

    def forward_features(self, *args: Any, **batch: Any) -> Any:
        """Hidden states [B, N, D] after the final norm, as `encode`."""
        return self.encode(*args, **batch)

    def forward_head(self, x: Tensor, pre_logits: bool = False, keep: Tensor | None = None) -> Tensor:
        """Hidden states [B, N, D] -> output of the head; with pre_logits the features that its last layer takes.

        keep [B, N]: True or 1 for real tokens, for text and audio with padding.
        Raises ValueError for a head on the hidden states of all layers, which `forward` gives it.
        """
        head = self.head
        if head is None:
            return x
        if getattr(head, "mix", None) is not None:
            raise ValueError("the head takes the hidden states of all layers (layer_sum=True): call the model itself")
        inputs = (x,) if keep is None else (x, keep)
        if not pre_logits or getattr(head, "proj", None) is None:
            return head(*inputs)
        found: list[Tensor] = []
        layers = [head.proj, *([head.proj_dist] if hasattr(head, "proj_dist") else [])]
        handles = [layer.register_forward_pre_hook(lambda _, args: found.append(args[0])) for layer in layers]
        try:
            head(*inputs)
        finally:
            for handle in handles:
                handle.remove()
        return found[0] if len(found) == 1 else torch.stack(found).mean(0)  # a distilled model has two heads

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """`reset_head`; global_pool: "token" or "avg" (timm's names), or a value of the config's `pool`."""
        if global_pool is not None:
            pool = POOLING.get(global_pool, global_pool)
            if "pool" not in self.config.names():
                raise ValueError(f"global_pool={global_pool!r}: {type(self).__name__} has no choice of pooling")
            if pool == "map" != self.config.pool or pool == "":
                raise ValueError(
                    f"global_pool={global_pool!r}: a model changes to 'token' or 'avg' only; for hidden states "
                    "without pooling use model.encode(...), or load the model with head=None"
                )
            self.config = self.config.replace(pool=pool)
        self.reset_head(num_classes)

    def get_classifier(self) -> Any:
        """The last linear layer of the classifier, both of a distilled model, or an identity if there is none."""
        if self.config.head not in CLASSIFIER_HEADS:
            return nn.Identity()
        return (self.head.proj, self.head.proj_dist) if hasattr(self.head, "proj_dist") else self.head.proj

    @property
    def num_classes(self) -> int:
        """The number of classes; 0 for a model without a classifier."""
        return self.config.num_classes if self.config.head in CLASSIFIER_HEADS else 0

    @property
    def head_hidden_size(self) -> int:
        """Width of the features that `forward_head(x, pre_logits=True)` returns."""
        proj = getattr(self.head, "proj", None)
        return self.num_features if proj is None else proj.in_features

    def no_weight_decay(self) -> set[str]:
        """Names of the embeddings, tokens and positions and of what a module names in `no_weight_decay`, which are not
        decayed (norms and biases are vectors)."""
        names = set()
        for prefix, module in self.named_modules():  # type: ignore[attr-defined]
            if module is not self:
                names |= {f"{prefix}.{name}" for name in getattr(module, "no_weight_decay", ())}
            matrix = isinstance(module, nn.Linear | nn.modules.conv._ConvNd)
            if matrix or prefix.startswith("blocks") or isinstance(module, nn.LayerNorm | nn.RMSNorm | nn.GroupNorm):
                continue
            names |= {name for name, _ in module.named_parameters(prefix, recurse=False)}
        return names

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """`set_checkpointing`."""
        self.set_checkpointing(enable)

    @property
    def pretrained_cfg(self) -> dict[str, Any]:
        """timm's description of the preprocessing and the classes; see `data_config`."""
        if not isinstance(self.preprocess, ImageProcessor):
            raise AttributeError("pretrained_cfg")  # models without images: the message is in foreign_names
        labels = getattr(self, "labels", None)
        names = {} if labels is None else {"label_names": list(labels)}
        return (
            {"architecture": getattr(self, "variant", None), "num_classes": self.num_classes}
            | names
            | data_config(self.preprocess)
        )

    @property
    def default_cfg(self) -> dict[str, Any]:
        """`pretrained_cfg`, under timm's older name."""
        return self.pretrained_cfg


class TimmFeatures:
    """timm's intermediate features of image models: maps [B, D, rows, columns] of any block."""

    config: Any
    patches: Any
    blocks: Any
    embed: Any
    encode: Any

    @property
    def feature_info(self) -> list[dict[str, Any]]:
        """For each block its module, number of channels and reduction (pixels for each token along a side)."""
        width, step = self.config.width, max(self.patches.patch_size)
        return [{"module": f"blocks.{i}", "num_chs": width, "reduction": step} for i in range(len(self.blocks))]

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        return_prefix_tokens: bool = False,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> Any:
        """(hidden states after the final norm, outputs of the blocks `indices`), as timm returns them.

        x: pixels [B, C, H, W]. indices: blocks, negative ones from the end; a number for the last n; None for all.
        return_prefix_tokens: each output as (output, prefix tokens [B, P, D]). norm: apply the final norm to them.
        stop_early: end after the last of these blocks. output_fmt: "NCHW", [B, D, rows, columns], or "NLC",
        [B, rows * columns, D]. intermediates_only: return the list alone.
        """
        if output_fmt not in ("NCHW", "NLC"):
            raise ValueError(f"output_fmt={output_fmt!r}: expected 'NCHW' or 'NLC'")
        taken = take_indices(indices, len(self.blocks))
        final_norm = self.blocks.norm or nn.Identity()
        if stop_early:
            y, outputs = self.embed(x), []
            for i in range(max(taken, default=-1) + 1):
                y = self.blocks[i](y)
                outputs += [y] * (i in taken)
            y = final_norm(y)
        else:
            y, outputs = self.encode(x, layers=sorted(set(taken)))
        prefix, (rows, columns) = self.patches.prefix, self.patches.grid
        results: list[Any] = []
        for output in outputs:
            output = final_norm(output) if norm else output
            tokens = output[:, prefix:]
            if output_fmt == "NCHW":
                tokens = tokens.mT.unflatten(2, (rows, columns)).contiguous()
            results.append((tokens, output[:, :prefix]) if return_prefix_tokens and prefix else tokens)
        return results if intermediates_only else (y, results)


def take_indices(indices: int | Sequence[int] | None, depth: int) -> list[int]:
    """The blocks that `indices` of `forward_intermediates` stand for. Raises ValueError for one that does not exist."""
    if indices is None:
        return list(range(depth))
    if isinstance(indices, int):
        if not 0 < indices <= depth:
            raise ValueError(f"indices={indices}: expected a number of blocks from 1 to {depth}")
        return list(range(depth - indices, depth))
    if wrong := [i for i in indices if not -depth <= i < depth]:
        raise ValueError(f"indices={list(indices)}: there is no block {wrong[0]}, the model has {depth}")
    return [range(depth)[i] for i in indices]


def data_config(processor: ImageProcessor) -> dict[str, Any]:
    """timm's data config of an image processor: what `timm.data.create_transform` takes.

    Raises ValueError if timm's transforms cannot express the processor.
    """
    values, channels = processor.to_timm(), processor.channels
    for name in ("mean", "std"):
        values[name] = tuple(values[name]) if len(values[name]) == channels else tuple(values[name]) * channels
    return values | {"input_size": tuple(values["input_size"])}


def resolve_data_config(model: Any) -> dict[str, Any]:
    """The preprocessing of an image model as timm's data config, for `timm.data.create_transform(**config)`.

        transform = timm.data.create_transform(**zoo.resolve_data_config(model))

    Returns: input_size (channels, height, width), interpolation, mean, std, crop_pct, crop_mode.

    Raises: ValueError for a model that takes no images, or if timm's transforms cannot express its preprocessing.
    """
    processor = getattr(model, "preprocess", None)
    processor = getattr(processor, "image", processor)  # of a model of several towers: its image tower's
    if not isinstance(processor, ImageProcessor):
        raise ValueError(
            f"{type(model).__name__} has no image preprocessing: resolve_data_config takes a model of images, "
            "others have model.preprocess"
        )
    return data_config(processor)
