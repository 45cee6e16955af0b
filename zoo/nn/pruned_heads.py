"""Attention without some of its heads: a smaller module that computes what the whole one does with these heads at zero.

Heads are named by their numbers among the query heads. Keys and values that no query head reads are removed with them.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from zoo.nn.attention import Attention
from zoo.nn.core import Core, CoreSpec
from zoo.utils.errors import did_you_mean

# Projections of an attention whose rows belong to query heads, and to key and value heads.
QUERIES, KEYS = ("q", "q_global", "output_gate"), ("k", "v", "k_global", "v_global")


@dataclass(frozen=True)
class KeptHeads:
    """The query heads of a layer that stay, and the key and value heads that they read, as increasing numbers."""

    heads: tuple[int, ...]
    kv_heads: tuple[int, ...]

    @classmethod
    def of(cls, name: str, spec: CoreSpec, heads: Sequence[int]) -> "KeptHeads":
        """The heads that stay of a layer called `name`, any of 0 to spec.heads - 1, each once.

        Raises ValueError if there are none, or if groups would keep unequally many.
        """
        if not heads:
            raise ValueError(
                f"{name} would have no heads: a layer keeps at least one of its {spec.heads} heads (without any it "
                "would add nothing but the bias of its output)"
            )
        kept, shared = tuple(sorted(heads)), spec.heads // spec.kv_heads
        groups = [head // shared for head in kept]
        counts = {group: groups.count(group) for group in groups}
        if len(set(counts.values())) > 1:
            read = ", ".join(f"{count} of group {group}" for group, count in counts.items())
            raise ValueError(
                f"{name}: groups of {shared} query heads share keys and values, and the kept heads are {read}: keep "
                "equally many query heads of each group that stays, so that they can share what is left"
            )
        return cls(kept, tuple(counts))


def attention_layers(model: nn.Module) -> dict[str, Attention]:
    """{name: attention} of all attentions whose heads can be removed: those within blocks and between towers, not the
    pooling of a head, which is replaced with the head."""
    named = {name: part for name, part in model.named_modules() if isinstance(part, Attention)}
    return {name: part for name, part in named.items() if "head" not in name.split(".")}


def remove_heads(model: nn.Module, removed: Mapping[str, Sequence[int]]) -> None:
    """Remove heads from the attentions of a new model, in place: {name of the attention: numbers of its query heads}.

    Raises ValueError for an attention or a head that the model does not have, and where none would be left.
    """
    layers = attention_layers(model)
    for name, heads in removed.items():
        if name not in layers:
            known = f"it has {', '.join(layers)}" if layers else "it has none whose heads can be removed"
            raise ValueError(f"pruned_heads: this {type(model).__name__} has no attention called "
                             f"{name!r}{did_you_mean(name, layers)}: {known:.300}")  # fmt: skip
        attention = layers[name]
        check_attention(name, attention)
        spec = attention.core.spec
        if odd := [head for head in heads if not 0 <= head < spec.heads]:
            raise ValueError(f"pruned_heads: {name} has the heads 0 to {spec.heads - 1}, and no head {odd[0]}")
        kept = KeptHeads.of(name, spec, [head for head in range(spec.heads) if head not in heads])
        keep_heads(attention, kept)


def keep_heads(attention: Attention, kept: KeptHeads) -> None:
    """Leave an attention only some of its heads, in place."""
    spec = attention.core.spec
    for path, dim, index in head_rows(attention, kept):
        owner_path, _, name = path.rpartition(".")
        owner: Any = attention.get_submodule(owner_path)
        old = owner._parameters[name]
        new = nn.Parameter(old.detach().index_select(dim, index.to(old.device)), old.requires_grad)
        owner._parameters[name] = new
        if isinstance(owner, nn.Linear) and name == "weight":
            owner.out_features, owner.in_features = new.shape
    numbers = spec.kept or range(spec.heads)
    attention.kept_heads = tuple(numbers[head] for head in kept.heads)
    attention.core.spec = replace(spec, heads=len(kept.heads), kv_heads=len(kept.kv_heads), kept=attention.kept_heads)


def head_rows(attention: Attention, kept: KeptHeads) -> Iterator[tuple[str, int, Tensor]]:
    """(name of a parameter, dimension, entries that stay) of the parameters of an attention that belong to heads."""
    core, dim = attention.core, attention.head_dim
    for names, heads in ((QUERIES, kept.heads), (KEYS, kept.kv_heads)):
        rows = entries(heads, dim)
        for name in names:
            if (linear := attention._modules.get(name)) is not None:
                yield from ((f"{name}.{part}", 0, rows) for part, _ in linear.named_parameters(recurse=False))
    yield "out.weight", 1, entries(kept.heads, dim)
    if isinstance(attention.gate, nn.Module):
        last = f"gate.{len(attention.gate) - 1}" if isinstance(attention.gate, nn.Sequential) else "gate"
        linear = attention.get_submodule(last)
        yield f"{last}.weight", 0, entries(kept.kv_heads, len(linear.weight) // core.spec.kv_heads)  # type: ignore[arg-type]
    for name, kind in core.head_parameters.items():
        if core._parameters.get(name) is not None:
            yield f"core.{name}", 0, torch.tensor(kept.heads if kind == "heads" else kept.kv_heads, device="cpu")


def entries(heads: Sequence[int], size: int) -> Tensor:
    """The entries of heads that have `size` entries each."""
    starts = torch.tensor(heads, device="cpu")[:, None] * size
    return (starts + torch.arange(size, device="cpu")).flatten()


def check_attention(name: str, attention: Attention) -> None:
    """Raise ValueError for an attention whose heads cannot be taken apart."""
    core = attention.core
    for part in (*QUERIES, *KEYS, "out"):
        linear = attention._modules.get(part)
        if linear is not None and type(linear).forward is not nn.Linear.forward:
            raise ValueError(f"{name}.{part} is a {type(linear).__name__}, whose heads cannot be removed: merge "
                             "adapters (zoo.tasks.merge_lora), or prune before zoo.optimize")  # fmt: skip
    if odd := [part for part, _ in core.named_parameters() if part not in core.head_parameters]:
        raise ValueError(f"{name}: {type(core).__name__} has the parameter {odd[0]!r}, which belongs to no single "
                         "head: its heads cannot be removed")  # fmt: skip
    if not type(core).__module__.startswith("zoo.") and not has_separate_heads(core):
        raise ValueError(f"{name}: the heads of {type(core).__name__} read each other, so none can be removed alone")


def has_separate_heads(core: Core) -> bool:
    """Whether a custom core gives the same weights of its other heads when the queries of its first change."""
    spec, generator = core.spec, torch.Generator().manual_seed(0)
    like = next((x for x in (*core.parameters(), *core.buffers())), torch.empty(0, device="cpu"))
    if like.is_meta:  # of a file: it was tested before it was saved
        return True
    sizes = ((1, spec.heads, 5, spec.head_dim), (1, spec.kv_heads, 5, spec.head_dim))
    q, k = (torch.randn(size, generator=generator, device="cpu").to(like.device, like.dtype) for size in sizes)
    other = torch.cat([-q[:, :1], q[:, 1:]], 1)
    with torch.no_grad():
        return torch.equal(core.maps(q, k)[:, 1:], core.maps(other, k)[:, 1:])
