"""Tensor parallelism: the processes divide heads, hidden units and the vocabulary (Shoeybi et al. 2019, Megatron-LM).

What is divided follows from the names and types that all models share: `q`, `k`, `v`, `gate` and `out` of an attention,
`up`, `gate` and `down` of an MLP, the word embeddings and the output layer of a language model. All else is computed
alike in all processes.

With sequence parallelism (Korthikanti et al. 2022, https://arxiv.org/abs/2205.05198) the processes divide the tokens
between attentions and MLPs, see `zoo.parallel.sequence`.
"""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.device_mesh import DeviceMesh
from torch.nn import functional as F

from zoo.nn.attention import Attention
from zoo.nn.block import Block
from zoo.nn.context import Context
from zoo.nn.core import Core
from zoo.nn.frontends.perceiver_resampler import PerceiverAttention
from zoo.nn.gated_cross import GatedCrossAttention
from zoo.nn.heads import LMHead
from zoo.nn.kv_cache import LayerState
from zoo.nn.mixers.base import Mixer
from zoo.nn.mlp import MLP
from zoo.nn.pruned_heads import KEYS, QUERIES
from zoo.nn.stack import Stack
from zoo.parallel.collectives import enter, leave
from zoo.parallel.head_parts import HeadRange, context_of_heads, own_random_numbers
from zoo.parallel.local_parameters import SUMMED, WHOLE, Division, convert, distribute, part_of
from zoo.parallel.sequence import Region, SequenceBlock, SequenceGatedCross, SequenceStack
from zoo.parallel.vocabulary import VocabularyEmbedding, VocabularyLinear


class Ranks(NamedTuple):
    """The number of processes that divide a model, and the number of this one among them."""

    size: int
    own: int = 0


@dataclass
class Change:
    """What becomes of a module: the divisions of its own parameters, how it computes, and attributes for that."""

    divisions: dict[str, Division]
    mixin: type | None
    attributes: dict[str, Any]


class Layout:
    """How `ranks` processes divide a model; see `divide`."""

    def __init__(self, model: nn.Module, ranks: Ranks, *, sequence: bool = False) -> None:
        self.model, self.ranks, self.sequence = model, ranks, sequence
        self.changes: dict[nn.Module, Change] = defaultdict(lambda: Change({}, None, {}))
        self.paths = {module: path for path, module in model.named_modules()}
        self.check_parts()
        self.regions: dict[nn.Module, Region] = {}  # of the modules within stacks
        if sequence:
            self.divide_tokens()
        found = list(model.modules())
        for module in found:
            if isinstance(module, Attention):
                self.divide_attention(module)
            elif isinstance(module, MLP):
                self.divide_mlp(module)
        self.divide_vocabulary()
        if not any(d.dim is not None for change in self.changes.values() for d in change.divisions.values()):
            raise ValueError(f"plan: tensor={ranks.size}: {type(model).__name__} has neither attention nor MLPs nor a "
                             "vocabulary to divide: set tensor=1, and use shard=")  # fmt: skip

    # --- what can be divided --------------------------------------------------------------------------------------

    def check_parts(self) -> None:
        """Raise ValueError for modules whose computation cannot be divided."""
        for module, path in self.paths.items():
            name = type(module).__name__
            if isinstance(module, Mixer) or (getattr(module, "shifts_tokens", False) and not isinstance(module, Block)):
                raise ValueError(f"plan: tensor={self.ranks.size}: {path} is a {name}, whose channels this plan does "
                                 "not divide: set tensor=1, and use shard=")  # fmt: skip
            if isinstance(module, Attention) and not module.divides_heads:
                raise ValueError(f"plan: tensor={self.ranks.size}: {path} is a {name}, whose heads this plan does not "
                                 "divide: set tensor=1, and use shard=")  # fmt: skip
            if isinstance(module, nn.RNNBase):
                raise ValueError(f"plan: tensor={self.ranks.size}: {path} is a recurrent network ({name}), whose "
                                 "units depend on each other: set tensor=1, and use shard=")  # fmt: skip

    def share(self, path: str, what: str, number: int) -> int:
        """number / ranks. Raises ValueError if it is not whole."""
        if number % self.ranks.size:
            choices = ", ".join(str(n) for n in range(1, number + 1) if number % n == 0)
            raise ValueError(f"plan: tensor={self.ranks.size} does not divide the {number} {what} of {path}: choose "
                             f"tensor= among {choices}")  # fmt: skip
        return number // self.ranks.size

    def part(self, size: int, *, stored: bool = True) -> Division:
        """The rows of this process among equal parts of `size` rows each."""
        return Division(0, stored, not stored, self.ranks.own * size, size)

    def set(self, module: nn.Module | None, rows: Division, *names: str) -> None:
        """Divide parameters of a module, all of its own by default, along their first dimension."""
        if module is not None:
            own = names or tuple(name for name, value in module._parameters.items() if value is not None)
            self.changes[module].divisions |= dict.fromkeys(own, rows)

    def divide_attention(self, attention: Attention) -> None:
        """Query heads, and key and value heads; processes share these where there are fewer than processes."""
        path, spec, (count, own) = self.paths[attention], attention.core.spec, self.ranks
        heads = self.share(path, "heads", spec.heads)
        if spec.kv_heads % count and count % spec.kv_heads:
            choices = ", ".join(str(n) for n in range(1, spec.heads + 1) if spec.heads % n == 0
                                and (spec.kv_heads % n == 0 or n % spec.kv_heads == 0))  # fmt: skip
            raise ValueError(f"plan: tensor={count} neither divides the kv_heads={spec.kv_heads} of {path} nor is a "
                             f"multiple of them: choose tensor= among {choices}")  # fmt: skip
        check_linear(path, attention)
        kv_heads = max(1, spec.kv_heads // count)
        first_kv = own * spec.kv_heads // count
        shared = spec.kv_heads < count
        for module in attention.modules():  # those below get a division of their own
            self.set(module, SUMMED)
        for name in (*QUERIES, *KEYS):
            size = (heads if name in QUERIES else kv_heads) * spec.head_dim
            start = own * size if name in QUERIES else first_kv * spec.head_dim
            stored = name in QUERIES or not shared
            self.set(getattr(attention, name, None), Division(0, stored, not stored, start, size))
        gates = Division(0, not shared, shared, first_kv, kv_heads)
        if attention.gate is not None:
            last: Any = attention.gate[-1] if isinstance(attention.gate, nn.Sequential) else attention.gate
            width = last.out_features // spec.kv_heads
            self.set(last, replace(gates, start=first_kv * width, size=kv_heads * width))
        for name, kind in attention.core.head_parameters.items():
            if name in attention.core._parameters:
                self.set(attention.core, self.part(heads) if kind == "heads" else gates, name)
        self.divide_input(attention.out, heads * spec.head_dim, attention)
        local = replace(spec, heads=heads, kv_heads=kv_heads)
        self.changes[attention.core].attributes |= {"spec": local, "first_head": own * heads}
        change = self.changes[attention]
        change.mixin, change.attributes["own_heads"] = TensorAttention, HeadRange(own * heads, heads)
        change.attributes["region"] = self.regions.get(attention)

    def divide_mlp(self, mlp: MLP) -> None:
        """Hidden units."""
        path = self.paths[mlp]
        check_linear(path, mlp)
        units = self.share(path, "hidden units (mlp_dim)", mlp.up.out_features)
        self.set(mlp.up, self.part(units))
        self.set(mlp.gate, self.part(units))
        self.divide_input(mlp.down, units, mlp)
        self.changes[mlp].mixin = TensorMLP
        self.changes[mlp].attributes["region"] = self.regions.get(mlp)

    def divide_input(self, linear: nn.Linear, size: int, owner: nn.Module) -> None:
        """The inputs of the last layer; its bias is added to the sum of the results."""
        change = self.changes[linear]
        change.mixin = PartialLinear
        change.divisions["weight"] = Division(1, True, False, self.ranks.own * size, size)
        if linear.bias is not None:
            change.divisions["bias"] = WHOLE if self.regions.get(owner) is None else SUMMED

    def divide_vocabulary(self) -> None:
        """Word embeddings and the output layers of language models, and layers that share their weight."""
        users = defaultdict(list)
        for module in self.model.modules():
            for name, value in module._parameters.items():
                if value is not None:
                    users[value].append((module, name))
        heads = {module.proj for module in self.model.modules() if isinstance(module, LMHead)}
        for owners in users.values():
            words = any(module in heads or (isinstance(module, nn.Embedding) and self.paths[module].endswith("word"))
                        for module, name in owners if name == "weight")  # fmt: skip
            known = all(isinstance(module, nn.Embedding | nn.Linear) and name == "weight" for module, name in owners)
            rows = len(owners[0][0]._parameters[owners[0][1]]) if known else 0  # type: ignore[arg-type]
            if words and known and rows >= self.ranks.size**2:
                for module, _ in owners:
                    start, size = part_of(rows, *self.ranks)
                    self.set(module, Division(0, True, False, start, size))
                    embeds = isinstance(module, nn.Embedding)
                    self.changes[module].mixin = VocabularyEmbedding if embeds else VocabularyLinear

    def divide_tokens(self) -> None:
        """The tokens within the blocks of each stack."""
        for stack in self.paths:
            if isinstance(stack, Stack):
                region = Region(self.ranks.size)
                self.enter_region(region, *stack)
                self.changes[stack].mixin = SequenceStack
                self.changes[stack].attributes["region"] = region
                for number, block in enumerate(stack):
                    self.changes[block].mixin = SequenceBlock
                    self.changes[block].attributes |= {"region": region, "number": number}
        gated = [module for module in self.model.modules() if isinstance(module, GatedCrossAttention)]
        for module in gated:
            region = Region(self.ranks.size)
            self.enter_region(region, module)
            self.changes[module].mixin = SequenceGatedCross
            self.changes[module].attributes["region"] = region

    def enter_region(self, region: Region, *parts: nn.Module) -> None:
        """Modules that compute with a part of the tokens: the gradients of their parameters are summed.

        But for a norm of the memory, whose tokens all processes have.
        """
        for part in parts:
            for path, module in part.named_modules():
                self.regions[module] = region
                if path != "memory_norm":
                    self.set(module, SUMMED)

    # --- what follows ---------------------------------------------------------------------------------------------

    def division(self, module: nn.Module, name: str) -> Division:
        """How a parameter of a module is divided."""
        return self.changes[module].divisions.get(name, WHOLE) if module in self.changes else WHOLE


def named_values(model: nn.Module) -> Iterator[tuple[str, nn.Parameter, nn.Module]]:
    """(name, parameter, its module) of all parameters, those with several names once."""
    seen = set()
    for path, module in model.named_modules():
        for name, value in module._parameters.items():
            if value is not None and value not in seen:
                seen.add(value)
                yield f"{path}.{name}".removeprefix("."), value, module


def check_linear(path: str, owner: nn.Module) -> None:
    """Raise ValueError for a layer with an adapter or of another library, whose parts are not known."""
    for name in (*QUERIES, *KEYS, "up", "out", "down"):
        linear = owner._modules.get(name)
        if linear is not None and type(linear).forward is not nn.Linear.forward:
            raise ValueError(f"plan: {path}.{name} is a {type(linear).__name__}, and tensor= divides nn.Linear: merge "
                             "adapters (zoo.tasks.merge_lora), or set tensor=1")  # fmt: skip


def divide(model: nn.Module, mesh: DeviceMesh, *, sequence: bool = False) -> None:
    """Divide a model over a mesh of one dimension, in place."""
    group = mesh.get_group()
    layout = Layout(model, Ranks(mesh.size(), mesh.get_local_rank()), sequence=sequence)
    distributed: dict[nn.Parameter, nn.Parameter] = {}
    for module in list(model.modules()):
        divisions = {}
        for name, value in module._parameters.items():
            if value is not None:
                divisions[name] = layout.division(module, name)
                if value not in distributed:
                    distributed[value] = distribute(value, divisions[name], mesh)
                module._parameters[name] = distributed[value]
        change = layout.changes.get(module, Change({}, None, {}))
        convert(module, divisions, change.mixin, tensor_group=group, **change.attributes)


class PartialLinear(nn.Linear):
    """The product of this process's part of the inputs and the weight: a part of a sum, without the bias."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight)


class TensorMLP(MLP):
    """An MLP of which each process computes a part of the hidden units."""

    tensor_group: dist.ProcessGroup
    region: Region | None

    def forward(self, x: Tensor) -> Tensor:
        region, group = self.region, self.tensor_group
        if region is not None and region.active:
            y = region.leave(super().forward(region.enter(x, group)), group)
        else:
            y = leave(super().forward(enter(x, group)), group)
        return with_bias(y, self.down)


class TensorAttention(Attention):
    """An attention of which each process computes some heads."""

    tensor_group: dist.ProcessGroup
    own_heads: HeadRange
    region: Region | None
    core: Core

    def forward(
        self, x: Tensor, context: Context, state: LayerState | None = None, memory: Tensor | None = None
    ) -> Tensor:
        """As Attention."""
        group, region = self.tensor_group, self.region
        if self.kept_heads is not None and context.bias is not None and context.bias.heads > 1:
            raise ValueError(
                "plan: tensor= does not divide the heads of a layer from which some were removed (pruned_heads), where "
                "each has a position bias of its own: set tensor=1, and use shard="
            )
        context = context_of_heads(context, self.own_heads, group)
        if isinstance(self, PerceiverAttention):
            assert context.memory is not None
            context = replace(context, memory=enter(context.memory, group))
        memory = None if memory is None else enter(memory, group)
        divided = region is not None and region.active
        with self.random_numbers(x):
            if divided:
                assert region is not None
                tokens = region.tokens(context)
                y = super().forward(region.enter(x, group)[:, :tokens], context, state, memory)
                y = region.leave(y, group)
            else:
                y = leave(super().forward(enter(x, group), context, state, memory), group)
        return with_bias(y, self.out)

    def random_numbers(self, x: Tensor) -> AbstractContextManager[None]:
        """Processes drop out different weights."""
        return own_random_numbers(self.tensor_group, x.device) if self.core.dropout else nullcontext()


def with_bias(y: Tensor, linear: nn.Module) -> Tensor:
    """The bias of the last layer, which is added once to the sum of the parts."""
    bias: Any = linear.bias
    return y if bias is None else y + bias
