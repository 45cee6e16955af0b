"""The base class of every model: embed, encode, head."""

from typing import Any, ClassVar

import torch
from torch import nn

from zoo.models.config import NAMING
from zoo.nn.init import initialize
from zoo.nn.stack import Stack
from zoo.utils.errors import did_you_mean

# How a key that people pass from habit is done here.
OUR_WAY = {
    "labels": "compute the loss outside: F.cross_entropy(model(**inputs), labels), or train with zoo.tasks",
    "use_cache": "decode with zoo.generate, or pass a state",
    "past_key_values": "decode with zoo.generate, or pass a state",
    "output_attentions": "use `with zoo.capture(model) as maps:`",
    "output_hidden_states": "use model.encode(..., layers=[...])",
    "return_dict": "models return the tensor itself",
    "return_loss": "compute it outside: model.loss(model(**inputs)), or train with zoo.tasks",
    "interpolate_pos_encoding": "give the size once: zoo.load(..., image_size=...)",
    "token_type_ids": "it has no token types; model.preprocess(texts) makes what it takes",
    "head_mask": "choose heads with zoo.capture(model, heads=[...])",
}


class Model(nn.Module):
    """A model of the zoo: `embed -> encode -> head`.

    forward(**batch) takes the names in `inputs`, which the family's transformers processor emits, and gives the tensor
    itself. Families write `embed`, `encode` and `make_head`.
    """

    inputs: ClassVar[tuple[str, ...]] = ()
    family: ClassVar[str]
    variant: str | None = None
    preprocess: Any = None
    labels: list[str] | None = None
    load_report: Any = None
    drop_padding: bool = True

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        self.head: nn.Module | None = None

    def __call__(self, *args: Any, **batch: Any) -> Any:
        for name in batch:
            if name not in self.inputs:
                way = OUR_WAY.get(name)
                hint = f": {way}" if way else did_you_mean(name, self.inputs)
                raise ValueError(
                    f"{type(self).__name__} takes {', '.join(self.inputs)}; it does not use {name!r}{hint}"
                )
        return super().__call__(*args, **batch)

    @property
    def num_features(self) -> int:
        """Width of the pooled features, what a head is given."""
        return self.config.width

    def make_head(self) -> nn.Module | None:
        """The head that `config.head` and `config.num_classes` ask for."""
        raise NotImplementedError

    def default_preprocess(self) -> Any:
        """What a fresh model is given its inputs by, where that needs no file (a text model needs its tokenizer)."""
        return None

    def encode(self, *args: Any, **batch: Any) -> Any:
        """What `forward` takes -> hidden states [B, N, D] after the final norm, exact zeros at padding.

        With `layers=`, a list of block numbers: (hidden states, [the output of each of them, before that norm]).
        """
        raise NotImplementedError

    def forward(self, *args: Any, **batch: Any) -> Any:
        x = self.encode(*args, **batch)
        return x if self.head is None else self.head(x)

    def reset_head(self, num_classes: int, seed: int = 0) -> None:
        """A fresh head for another number of classes, one of which is right; 0 leaves the pooled features
        (`head="pool"`)."""
        kept = self.config.head if self.config.head in NAMING else "classify"
        head = "pool" if num_classes == 0 else kept
        before = next(self.parameters())
        answer = {"problem_type": None} if "problem_type" in self.config.names() else {}
        self.config = self.config.replace(num_classes=num_classes, head=head, **answer)
        self.head = self.make_head()
        if self.head is not None:
            self.head.to(before.device, before.dtype).train(self.training)
        self.labels = None
        names = {name for name, _ in self.named_parameters() if name.startswith("head.")}
        initialize(self, seed, only=names)

    def set_checkpointing(self, enabled: bool = True) -> None:
        """Recompute activations in the backward pass instead of keeping them."""
        for module in self.modules():
            if isinstance(module, Stack):
                module.checkpointing = enabled

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype
