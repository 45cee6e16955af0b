"""The base class of every model: embed, encode, head."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar, Self, TypeVar

import torch
from torch import nn

from zoo.models.config import CLASSIFIER_HEADS
from zoo.models.foreign_names import MODEL_NAMES
from zoo.models.mapping.tensors import tie, tied_names
from zoo.models.timm_names import TimmNames
from zoo.models.tracing import trace_error
from zoo.nn.init import initialize
from zoo.nn.lengths import AnyLengths, Lengths, check_lengths
from zoo.nn.stack import Stack
from zoo.utils.errors import did_you_mean, is_number
from zoo.utils.type_checks import is_list_of_texts

T = TypeVar("T")

# Arguments of transformers models that ours do not take, and what to do instead.
ALTERNATIVES = {
    "labels": "compute the loss outside: F.cross_entropy(model(**inputs), labels), or train with zoo.tasks",
    "use_cache": "decode with zoo.generate, or pass a state",
    "past_key_values": "decode with zoo.generate, or pass a state",
    "output_attentions": "use `with zoo.capture(model) as maps:`",
    "output_hidden_states": "use model.encode(..., layers=[...])",
    "return_dict": "models return the tensor itself",
    "return_loss": "compute it outside: model.loss(model(**inputs)), or train with zoo.tasks",
    "interpolate_pos_encoding": "set the image size when loading: zoo.load(..., image_size=...)",
    "token_type_ids": "the model has no token types; model.preprocess(texts) returns the inputs that it takes",
    "head_mask": "choose heads with zoo.capture(model, heads=[...])",
    "inputs_embeds": "models take token ids; model.embed(...) returns their embeddings",
    "start_positions": "compute the loss outside, from the scores [B, N, 2]",
    "end_positions": "compute the loss outside, from the scores [B, N, 2]",
    "position_ids": "positions count the real tokens of attention_mask",
}

# Inputs of transformers' models. Wrappers such as peft's pass all of them, None where there is nothing.
FOREIGN_INPUTS = {*ALTERNATIVES, "input_ids", "attention_mask", "pixel_values", "input_values"}


class Model(TimmNames, nn.Module):
    """Base class of all models: `embed -> encode -> head`.

    temperature: what `zoo.predict` divides logits by before they become probabilities; `forward` does not.

    extra_files: contents of files of the folder it was loaded from that belong to the model, such as a chat template,
    by name; other_files: names of those that are not kept.

    heads_beside: {head: name of the same module in a model that has it beside another head}.

    forward(**batch) takes the inputs named in `inputs`, as the family's transformers processor returns them, and
    returns a tensor; others raise `input_error`. Families implement `embed`, `encode` and `make_head`. Names of timm
    are in `TimmNames`; other names of timm's and transformers' models raise an AttributeError that says ours.
    """

    inputs: tuple[str, ...] = ()
    family: ClassVar[str]
    modality: ClassVar[str]  # of the family
    variant: str | None = None
    preprocess: Any = None
    load_report: Any = None
    extra_files: Mapping[str, str] = MappingProxyType({})
    other_files: Sequence[str] = ()
    heads_beside: ClassVar[Mapping[str, str]] = MappingProxyType({})
    has_loss: ClassVar[bool] = False  # whether `loss` takes its output; else tasks compute the loss from logits
    reads_values: ClassVar[bool] = False  # whether what it computes depends on values of its inputs, such as edges
    overflows_in_float16: ClassVar[bool] = False  # whether hidden states of published models exceed its range
    drop_padding: bool = True
    lengths_checked: bool = False  # whether those of a batch on a GPU were
    mup_base_width: int | None = None  # the width that `zoo.tasks.initialize_mup` has scaled initial values from
    _labels: list[str] | None = None
    _temperature: float = 1.0

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        self.head: nn.Module | None = None

    @property
    def labels(self) -> list[str] | None:
        """The names of the classes, in the order of the rows of the classifier. Raises ValueError for other values."""
        return self._labels

    @labels.setter
    def labels(self, names: Sequence[str] | None) -> None:
        if names is not None and not is_list_of_texts(names):
            raise ValueError(f"labels={names!r:.200}: expected a list of the names of the classes, ['cat', 'dog']")
        self._labels = None if names is None else [str(name) for name in names]

    @property
    def temperature(self) -> float:
        """Temperature of the probabilities of a classifier. Raises ValueError for values that are not above 0."""
        return self._temperature

    @temperature.setter
    def temperature(self, value: float) -> None:
        if not is_number(value) or value <= 0:
            raise ValueError(f"temperature={value!r:.200}: expected a finite number above 0, such as 1.5")
        self._temperature = float(value)

    @property
    def num_features(self) -> int:
        """Width of the pooled features, which are the input of a head."""
        return self.config.width

    def make_head(self) -> nn.Module | None:
        """The head for `config.head` and `config.num_classes`, or None."""
        raise NotImplementedError

    def default_preprocess(self) -> Any:
        """The processor of a newly created model, or None if it needs files (a text model needs its tokenizer)."""
        return None

    def complete_example(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The batch of `example_batch`, with optional inputs without which some weights have no part in the output."""
        return batch

    def rows_like(self, batch: dict[str, torch.Tensor], rows: int) -> dict[str, torch.Tensor]:
        """As many rows as given, each as the first row of the batch of `example_batch`."""
        return {name: x[:1].repeat(rows, *[1] * (x.ndim - 1)) for name, x in batch.items()}

    def encode(self, *args: Any, **batch: Any) -> Any:
        """Inputs of `forward` -> hidden states [B, N, D] after the final norm, exact zeros at padding.

        With `layers=`, a list of block indices, returns (hidden states, [output of each of these blocks]); the outputs
        are taken before the final norm.
        """
        raise NotImplementedError

    def forward(self, *args: Any, **batch: Any) -> Any:
        if type(batch) is not dict or any(name not in self.inputs for name in batch):
            batch = self.known_inputs(batch)
        x = self.encode(*args, **batch)
        return x if self.head is None else self.head(x)

    def known_inputs(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """The inputs of a batch that the family uses. Arguments of transformers' models that are None or False are
        left out: they ask for nothing. Raises `input_error` for others, ValueError under torch.fx."""
        if not isinstance(batch, dict):  # a proxy
            raise trace_error(self)
        unset = [name for name in batch if name in FOREIGN_INPUTS and (batch[name] is None or batch[name] is False)]
        batch = {name: value for name, value in batch.items() if name in self.inputs or name not in unset}
        if any(name not in self.inputs for name in batch):
            raise self.input_error(batch)
        self.warn_of_frozen_head()
        return batch

    def check_inputs(self, unknown: Mapping[str, Any], first: T | None) -> T:
        """The first input of the family; raises `input_error` without it, and for other inputs than the family's."""
        if (known := self.known_inputs(unknown)) or first is None:
            raise self.input_error(known)
        return first

    def check_lengths(
        self, lengths: AnyLengths | None, mask: torch.Tensor | None, inputs: torch.Tensor
    ) -> tuple[torch.Tensor | None, Lengths | None]:
        """(attention_mask, lengths) of inputs [B, N]; both are None if all tokens are real.

        lengths: the number of real tokens (or samples) of each row, [B] integers on the host. With them a forward on a
        GPU need not wait until the device has read the mask. Without a mask the first tokens of each row are the real
        ones. Lengths that are not the sums of the mask raise ValueError: in every batch on a CPU, in the first batch on
        a GPU; in later ones an assertion of the device fails.
        """
        found = check_lengths(lengths, mask, inputs, trust=self.lengths_checked)
        if not self.lengths_checked and mask is not None and mask.is_cuda and not torch.compiler.is_compiling():
            self.lengths_checked = True
        return found

    def warn_of_frozen_head(self) -> None:
        """Warn once if a new head is not trained beside other parameters: peft knows it under other names."""
        frozen = self.head is not None and not any(p.requires_grad for p in self.head.parameters())
        new = any(name.startswith("head.") for name in getattr(self.load_report, "initialized", ()))
        if not (frozen and new and self.training and torch.is_grad_enabled()) or "_warned_of_head" in vars(self):
            return
        if any(p.requires_grad for p in self.parameters()):
            self._warned_of_head = True
            warnings.warn(
                "the head has random weights and is frozen, while other parameters are trained; with peft, name it: "
                "LoraConfig(..., modules_to_save=['head'])",
                stacklevel=4,
            )

    def input_error(self, batch: Mapping[str, Any]) -> ValueError:
        """The error for a batch with an input that the family does not use, or else without its first input."""
        taken = f"{type(self).__name__} takes {', '.join(self.inputs)}"
        for name in batch:
            if name not in self.inputs:
                alternative = ALTERNATIVES.get(name)
                hint = f": {alternative}" if alternative else did_you_mean(name, self.inputs)
                return ValueError(f"{taken}; it does not use {name!r}{hint}")
        return ValueError(f"{taken}; {self.inputs[0]!r} is missing: model.preprocess makes a batch with it")

    def reset_head(self, num_classes: int, seed: int = 0) -> None:
        """Replace the last layer by a newly initialized single-label classifier; 0 classes: features (head="pool").

        The pooling layers before it, such as BERT's pooler, keep their weights unless the model had another kind of
        head (head="masked_lm"). `load_report` lists the new ones as initialized.

        Raises: ValueError after `zoo.tasks.initialize_mup`, whose initial values the new layer would not have.
        """
        if self.mup_base_width is not None:
            raise ValueError("the new head would not have the initial values of muP, which the model has: call "
                             "reset_head before zoo.tasks.initialize_mup")  # fmt: skip
        before = self.config.head
        kind = before if before in CLASSIFIER_HEADS else "classify"
        head = "pool" if num_classes == 0 else kind
        alike = before == head or {before, head} == {"classify", "pool"}
        old = dict(self.head.named_parameters(prefix="head")) if self.head is not None and alike else {}
        like = next(self.parameters())
        problem_type = {"problem_type": None} if "problem_type" in self.config.names() else {}
        self.config = self.config.replace(num_classes=num_classes, head=head, **problem_type)
        self.head = self.make_head()
        if self.head is not None:
            self.head.to(like.device, like.dtype).train(self.training)
        self.labels, self.temperature = None, 1.0
        own = {name: weight for name, weight in self.named_parameters() if name.startswith("head.")}
        kept = [name for name in own.keys() & old.keys() if not name.startswith("head.proj")]
        fresh = [name for name in own if name not in kept]
        initialize(self, seed, only=set(fresh))
        if self.load_report is not None:
            for names in (self.load_report.mapped, self.load_report.initialized):
                names[:] = [name for name in names if not name.startswith("head.") or name in kept]
            self.load_report.initialized += fresh
        with torch.no_grad():
            for name in kept:
                own[name].copy_(old[name])

    def set_checkpointing(self, enabled: bool = True) -> None:
        """Turn gradient checkpointing on or off: activations are recomputed in the backward pass."""
        for module in self.modules():
            if isinstance(module, Stack):
                module.checkpointing = enabled

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any) -> None:
        """As in torch, for this model or one that it is a part of; `load_report` no longer lists what is loaded as
        initialized. After `zoo.tasks.initialize_mup` it does: these are values of a run that began with those."""
        super()._load_from_state_dict(state_dict, prefix, *args)
        new = getattr(self.load_report, "initialized", None)
        if not new or self.mup_base_width is not None:
            return
        tied = tied_names(self)
        names = (name.removeprefix(prefix) for name in state_dict if name.startswith(prefix))
        loaded = {tied.get(name, name) for name in names}
        self.load_report.mapped += [name for name in new if tied.get(name, name) in loaded]
        new[:] = [name for name in new if tied.get(name, name) not in loaded]

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Self:
        """As in torch, which to_empty and the like use; tied parameters stay tied."""
        tied = tied_names(self)
        super()._apply(fn, recurse)
        if apart := {name: other for name, other in tied.items() if name not in tied_names(self)}:
            tie(self, apart)
        return self

    def __getattr__(self, name: str) -> Any:
        """Modules first: torch looks for parameters first, and models have few of their own."""
        modules = self.__dict__.get("_modules")
        if modules is not None and name in modules:
            return modules[name]
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name not in MODEL_NAMES:
                raise
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}: {MODEL_NAMES[name]}")

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype
