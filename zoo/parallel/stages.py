"""A model cut into stages of consecutive blocks, each of which runs the model's own code with its own blocks."""

import copy
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from zoo.nn.attention import Attention
from zoo.nn.context import Context
from zoo.nn.frontends.packed_documents import PackedDocuments
from zoo.nn.frontends.text import TextEmbedding
from zoo.nn.frontends.waveform import WaveformEmbedding
from zoo.nn.padding import real_tokens
from zoo.nn.recurrent_core import RecurrentCore
from zoo.parallel.document_rows import document_rows, embed_each
from zoo.parallel.row_stack import RowStack
from zoo.parallel.shards import is_sharded

Loss = Callable[[Any, Mapping[str, Any]], Tensor]
LossOfModel = Callable[["LastStage", Mapping[str, Any]], Tensor]


class Tied(NamedTuple):
    """A parameter that the first and the last stage have: its name in each."""

    first: str
    last: str


# --- The model of a stage ---------------------------------------------------------------------------------------------


class StageStack(RowStack):
    """The methods that a pipeline puts before those of a stack: its blocks are those of a stage.

    numbers: of its blocks. received: hidden states from the stage before, for the next forward; sent: those of the
    last one, for the stage after it.
    """

    refusal = "in a pipeline: use the model before it is cut"
    numbers: Sequence[int]
    received: Tensor | None = None
    sent: Tensor | None = None

    def __iter__(self) -> Any:
        return (getattr(self, str(i)) for i in self.numbers)

    def run(
        self, x: Tensor, context: Context, tokens: int, keep: Tensor | None, layers: Sequence[int] | None = None
    ) -> Tensor:
        """As in RowStack, by the blocks of this stage; the last stage also has the final norm."""
        self.refuse("the outputs of single layers", layers)
        x, _ = self.run_blocks(x, context, self.numbers)
        self.sent = x
        x = x if self.norm is None else self.norm(x)
        return x if keep is None else x * keep[..., None]


class StageModel(nn.Module):
    """The methods that a pipeline puts before those of a model: it is a stage.

    is_first, is_last: of the stages. loss: of the model and a microbatch, in the last stage; set for each step.
    unpacks: why packed documents cannot stay in their rows, or None. autocast: the type of its forward passes, or None.
    """

    is_first: bool
    is_last: bool
    loss: LossOfModel | None = None
    unpacks: str | None
    autocast: torch.dtype | None
    blocks: StageStack
    context: Any
    inputs: tuple[str, ...]

    def forward(self, x: Tensor, batch: Mapping[str, Any]) -> Tensor:
        """What goes to the stage after this one [B, N, D], or in the last stage the loss of a microbatch.

        Args:
            x: Hidden states from the stage before [B, N, D]; in the first stage anything.
            batch: The microbatch; each stage computes positions and masks from it.
        """
        model: Any = super()
        self.blocks.received = None if self.is_first else x
        try:
            with nullcontext() if self.autocast is None else torch.autocast(x.device.type, self.autocast):
                if self.is_last:
                    assert self.loss is not None
                    return self.loss(LastStage(self), batch).reshape(())
                model.encode(**inputs_of(self, batch))
            assert self.blocks.sent is not None
            sent = self.blocks.sent.contiguous()  # it is sent as it lies in memory
            if torch.is_grad_enabled() and not sent.requires_grad:  # frozen: torch sends gradients back all the same
                sent = sent.detach().requires_grad_()
            return sent
        finally:
            self.blocks.received = self.blocks.sent = None

    def embed(self, *args: Any, **options: Any) -> Any:
        """As in the model; after the first stage, what the stage before has sent."""
        model: Any = super()
        if self.is_first:
            return model.embed(*args, **options)
        x = self.blocks.received
        assert x is not None
        front = getattr(self, "waves", None)
        if isinstance(front, WaveformEmbedding):
            return x, real_frames(front, x, *args[1:], **options), None
        if isinstance(getattr(self, "tokens", None), TextEmbedding) and args[0].shape[1] != x.shape[1]:
            raise ValueError(
                f"{type(self).__name__} reads {args[0].shape[1]} of {x.shape[1]} tokens, as many as a microbatch "
                "needs: these have no common shape for a pipeline; use data=, shard= or tensor= instead"
            )
        return x

    def encode_documents(
        self,
        documents: PackedDocuments,
        input_ids: Tensor,
        types: Tensor | None,
        layers: Sequence[int] | None,
        more: Mapping[str, Any],
    ) -> Any:
        """As in TextModel, with the documents where they are in the rows."""
        x, (rows, context) = self.blocks.received, document_rows(self, documents)
        if x is None:
            x = embed_each(super(), input_ids, rows.positions, types, more.get("words"))
        return self.blocks.run(x, context, input_ids.shape[1], rows.keep, layers)


class LastStage:
    """The last stage as the model that a loss calls: with the inputs of the whole model, for its output.

    These calls are a part of `StageModel.forward`; the hooks of FSDP2 around that have run before.
    """

    def __init__(self, stage: StageModel) -> None:
        self.stage, model = stage, cast(Any, super(StageModel, stage))
        self.encode, self.forward = model.encode, model.forward

    def __call__(self, **inputs: Any) -> Any:
        return self.forward(**inputs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stage, name)

    @property
    def whole(self) -> Any:
        """The class of the whole model."""
        return next(cls.__bases__[1] for cls in type(self.stage).__mro__ if cls.__bases__[:1] == (StageModel,))


def inputs_of(model: Any, batch: Mapping[str, Any]) -> dict[str, Any]:
    """The inputs of a model in a batch."""
    return {name: batch[name] for name in model.inputs if name in batch}


def real_frames(front: WaveformEmbedding, x: Tensor, mask: Tensor | None = None, lengths: Any = None) -> Tensor | None:
    """The mask of real tokens [B, N] that `WaveformEmbedding` gives with its tokens x [B, N, D]."""
    if mask is None or real_tokens(mask) is None:
        return None
    return torch.arange(x.shape[1], device=x.device) < front.frames(mask.sum(1))[:, None]


def stage_model(model: nn.Module, numbers: range, autocast: torch.dtype | None = None) -> nn.Module:
    """The stage of a model that has these blocks. Its parameters are those of the model, under the same names; others
    are left out."""
    whole: Any = model.blocks
    first, last = numbers.start == 0, numbers.stop == len(whole)
    stage: Any = shallow_copy(model, StageModel)
    stage.is_first, stage.is_last, stage.autocast = first, last, autocast
    stage.unpacks = unpacked_documents(model)
    blocks: Any = shallow_copy(whole, StageStack)
    blocks.numbers, kept = numbers, {str(i) for i in numbers}
    for name in list(blocks._modules):
        if name.isdigit() and name not in kept:
            del blocks._modules[name]
    if not last:
        blocks.norm, stage.head = None, None
    stage._modules["blocks"] = blocks
    if not first:
        stage._parameters, stage._buffers = {}, {}
        for name, module in model.named_children():
            if name not in ("blocks", "head"):
                stage._modules[name] = bare_copy(module)
    return stage


def is_stage(model: Any) -> bool:
    """Whether a model is cut: it has the parameters of some stages only."""
    return isinstance(model, StageModel)


def is_divided(model: Any) -> bool:
    """Whether a process has a part of a model only: it is sharded, or a stage."""
    return is_stage(model) or is_sharded(model.parameters())


def joined(stages: Sequence[Any]) -> nn.Module:
    """A module with the parameters of several stages of a model, which cannot be called; a single one is itself."""
    first, last = stages[0], stages[-1]
    if first is last:
        return first
    cls = next(cls for cls in type(first).__mro__ if StageModel in cls.__bases__)  # without the methods of FSDP2
    made: Any = object.__new__(cls)
    blocks: Any = object.__new__(StageStack)
    made.__dict__ = first.__dict__ | {"_modules": first._modules | {"blocks": blocks, "head": last.head}}
    modules = {name: part for stage in stages for name, part in stage.blocks._modules.items() if name.isdigit()}
    blocks.__dict__ = first.blocks.__dict__ | {"_modules": first.blocks._modules | {"norm": last.blocks.norm} | modules}
    blocks.numbers = tuple(int(name) for name in modules)
    return made


def shallow_copy(module: nn.Module, mixin: type) -> nn.Module:
    """A module with the same parameters and parts, and with the methods of `mixin` before its own."""
    cls = type(module)
    made = copy.copy(module)
    for table in ("_modules", "_parameters", "_buffers"):
        made.__dict__[table] = dict(made.__dict__[table])
    made.__class__ = type(f"{cls.__name__}Stage", (mixin, cls), {"__module__": cls.__module__})
    return made


def bare_copy(module: nn.Module) -> nn.Module:
    """A module without parameters and parts, for its settings."""
    made = copy.copy(module)
    made.__dict__ |= {"_modules": {}, "_parameters": {}, "_buffers": {}}
    return made


def unpacked_documents(model: nn.Module) -> str | None:
    """Why packed documents cannot stay in their rows, or None: what computes more than attention with a mask."""
    blocks: Any = model.blocks
    for number, block in enumerate(blocks):
        part = block.mixer if type(block.mixer) is not Attention else block.mixer.core
        plain = type(block.mixer) is Attention and type(part).__module__.startswith("zoo.nn.")
        if not plain or isinstance(part, RecurrentCore) or block.shifts_tokens:
            return f"blocks.{number} has {type(part).__name__}"
    return None


def tied_parameters(model: nn.Module) -> list[Tied]:
    """The parameters that the head shares with the front end, under both names."""
    everywhere = dict(model.named_parameters(remove_duplicate=False))
    front = {id(p): name for name, p in everywhere.items() if not name.startswith(("blocks.", "head."))}
    return [Tied(front[id(p)], name) for name, p in everywhere.items() if name.startswith("head.") and id(p) in front]
