"""torch.fx: symbolic tracing of models, as torchvision's `create_feature_extractor` does it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from zoo.nn.block import Block
from zoo.nn.frontends.image import PatchEmbedding
from zoo.nn.heads import AttentionPooling

# Modules whose code depends on values or shapes, so that a graph calls them as a whole.
LEAVES = (PatchEmbedding, Block, AttentionPooling)


def trace_forward(model: Any, x: Any) -> Any:
    """`forward` of a model of patches, blocks and head, traced by torch.fx: x is its proxy, and the
    nodes are patches, blocks.0, ..."""
    with as_leaves(x.tracer):
        x = model.patches(x)
        for block in model.blocks:
            x = block(x)
        if model.blocks.norm is not None:
            x = model.blocks.norm(x)
        return x if model.head is None else model.head(x)


@contextmanager
def as_leaves(tracer: Any) -> Iterator[None]:
    """The tracer does not look into `LEAVES`."""
    before = tracer.is_leaf_module

    def is_leaf_module(module: nn.Module, name: str) -> bool:
        return isinstance(module, LEAVES) or before(module, name)

    tracer.is_leaf_module = is_leaf_module
    try:
        yield
    finally:
        del tracer.is_leaf_module  # the method of its class is back


def trace_error(model: nn.Module) -> ValueError:
    """The error for a model that torch.fx cannot trace, as its code depends on the values of its inputs."""
    return ValueError(
        f"torch.fx cannot trace {type(model).__name__}: its code depends on the padding of a batch. Use "
        "model.encode(**inputs, layers=[...]) for hidden states, `with zoo.capture(model) as maps:` for attention "
        "maps, or a forward hook on model.blocks[i]; ViT and AST can be traced"
    )
