"""Context parallelism: the processes of a group divide the tokens of each sequence, whose activations they share.

Everything outside of attention is computed for each token by itself. Around attention the processes exchange what they
need, in one of two ways:

- "ulysses" (Jacobs et al. 2023, https://arxiv.org/abs/2309.14509): an all-to-all gives each process all tokens of some
  heads, and another one brings the outputs back. Any kind of attention that treats heads alike computes what it does in
  one process, with masks and biases of the whole sequence.
- "gather": each process computes its queries with the keys and values of all tokens, which are gathered. Any number of
  heads is divisible, and few heads of keys and values are cheap to gather (as in Llama 3, section 3.3.2 of
  https://arxiv.org/abs/2407.21783); the attention weights must be those of a query by itself, as with a softmax.
"""

from typing import Literal, cast

from torch import distributed as dist
from torch import nn

from zoo.nn.attention import Attention
from zoo.nn.block import Block
from zoo.nn.frontends.text import TextEmbedding
from zoo.nn.heads import FrameClassificationHead, LMHead, TokenClassificationHead
from zoo.nn.recurrent_core import RecurrentCore
from zoo.nn.stack import Stack
from zoo.parallel.context_core import divide_core
from zoo.parallel.context_stack import DividedStack, DividedText
from zoo.parallel.token_slices import TokenSlices

Method = Literal["ulysses", "gather"]
METHODS: tuple[Method, ...] = ("ulysses", "gather")


def context_parallel(
    model: nn.Module, group: dist.ProcessGroup, method: Method | None = None, *, gather_output: bool | None = None
) -> nn.Module:
    """Divide the tokens of each sequence over the processes of a group, in place.

    All processes of the group receive the same batch, with all tokens; lengths need not be divisible. Gradients of
    parameters are those of the tokens of this process: average them over the processes, as DDP and FSDP2 do over a
    group that includes these. `slices_of(model)` computes the loss of divided outputs.

    Args:
        model: Any model whose blocks are attention and MLPs; before DDP or FSDP2 wrap it, after tensor parallelism.
        group: The processes that divide a sequence.
        method: See the top of this file; None takes "ulysses" where the heads are divisible, else "gather".
        gather_output: Whether the hidden states of all tokens are gathered before the head, so that all processes have
            the same output. None gathers them unless the head scores each token by itself (language models, token
            classification): its output is then that of the tokens of this process [B, n, V].

    Returns: The model.

    Raises: ValueError for a part whose tokens cannot be divided, by its name; for heads that are not divisible.
    """
    if method is not None and method not in METHODS:
        raise ValueError(f"method={method!r}: expected one of {', '.join(METHODS)}, or None")
    slices = TokenSlices.of(group)
    stacks = stacks_of(model)
    chosen = {name: choose_method(stack, name, slices.ranks, method) for name, stack in stacks.items()}
    whole = scored_by_token(model) is None if gather_output is None else gather_output
    last = last_stack(model)
    for name, stack in stacks.items():
        for block in stack:
            divide_core(cast(Attention, block.mixer).core, slices, chosen[name])
        change_class(stack, DividedStack)
        divided = cast(DividedStack, stack)
        divided.slices, divided.method = slices, chosen[name]
        divided.gathers = whole or stack is not last
    for module in list(model.modules()):
        if isinstance(getattr(module, "tokens", None), TextEmbedding) and hasattr(module, "encode_documents"):
            change_class(module, DividedText)
    return model


def stacks_of(model: nn.Module) -> dict[str, Stack]:
    """The stacks of blocks of a model, by name. Raises ValueError if it has none."""
    stacks = {name: module for name, module in model.named_modules() if isinstance(module, Stack)}
    if not stacks:
        raise ValueError(f"{type(model).__name__} has no stack of blocks whose tokens could be divided")
    return stacks


def slices_of(model: nn.Module) -> TokenSlices | None:
    """How the outputs of a model are divided: None for a model whose output is that of all tokens."""
    for module in model.modules():
        if isinstance(module, DividedStack) and not module.gathers:
            return module.slices
    return None


def divides_tokens(model: nn.Module) -> bool:
    """Whether processes divide the tokens of a model, also of one that gathers its output."""
    return any(isinstance(module, DividedStack) for module in model.modules())


def change_class(module: nn.Module, mixin: type) -> None:
    """Put the methods of `mixin` before those of a module; its parameters and their names stay."""
    if not isinstance(module, mixin):
        cls = type(module)
        module.__class__ = type(f"Divided{cls.__name__}", (mixin, cls), {"__module__": cls.__module__})


def last_stack(model: nn.Module) -> Stack | None:
    """The stack whose output the head of a model reads."""
    for owner in (model, model._modules.get("decoder")):
        if isinstance(stack := getattr(owner, "blocks", None), Stack):
            return stack
    return None


def scored_by_token(model: nn.Module) -> nn.Module | None:
    """The head of a model, if it scores each token by itself, and no loss of the model reads more."""
    head = None if getattr(model, "has_loss", False) else getattr(model, "head", None)
    if isinstance(head, FrameClassificationHead):
        return None if head.mix is not None else head
    return head if isinstance(head, LMHead | TokenClassificationHead) else None


# --- What can be divided ----------------------------------------------------------------------------------------------


def choose_method(stack: Stack, name: str, ranks: int, method: Method | None = None, tensor: int = 1) -> Method:
    """The method of all blocks of a stack. Raises ValueError where there is none.

    tensor: number of processes that will divide the heads before (`Plan.tensor`).
    """
    for number, block in enumerate(stack):
        if reason := block_obstacle(block):
            raise ValueError(f"{name}.{number} cannot divide the tokens of a sequence: {reason}")
    found: dict[Method, str] = {}
    for each in METHODS if method is None else (method,):
        reasons = [(number, method_obstacle(block, ranks, each, tensor)) for number, block in enumerate(stack)]
        reasons = [(number, reason) for number, reason in reasons if reason]
        if not reasons:
            return each
        found[each] = f"{name}.{reasons[0][0]}: {reasons[0][1]}"
    raise ValueError(f"context={ranks} processes cannot divide the tokens of a sequence. " + ". ".join(
        f"With method={each!r}, {reason}" for each, reason in found.items()
    ))  # fmt: skip


def block_obstacle(block: nn.Module) -> str | None:
    """Why the tokens of a block cannot be divided, by any method."""
    if not isinstance(block, Block):
        return f"it is a {type(block).__name__}, whose parts are not known: use data= or shard= instead of context="
    mixer = block.mixer
    if computes_by(mixer) is not Attention:
        return (
            f"its mixer is {type(mixer).__name__}, which reads tokens in an order or by projections of its own, "
            "not plain attention: use data=, shard= or tensor= instead of context="
        )
    if block.shifts_tokens:
        return f"its MLP {type(block.mlp).__name__} reads the token before: use data=, shard= or tensor= instead"
    if block.drop_path:
        return (
            f"drop_path={block.drop_path:g} skips all tokens of a sample at once, by random numbers of each process: "
            "set drop_path=0"
        )
    return None


def method_obstacle(block: Block, ranks: int, method: Method, tensor: int) -> str | None:
    """Why a method does not serve for the attention of a block."""
    core = cast(Attention, block.mixer).core
    if method == "ulysses":
        for name, whole in (("heads", core.spec.heads), ("kv_heads", core.spec.kv_heads)):
            if (count := max(1, whole // tensor)) % ranks:
                return f"{name}={count} cannot be divided over {ranks} processes: choose a divisor of {count}"
        return None
    if isinstance(core, RecurrentCore):
        return f"attention={core.kind!r} is a recurrence over the tokens, whose queries need all tokens before"
    if not computes_by(core).__module__.startswith("zoo.nn."):
        return f"{type(core).__name__} computes attention by a `forward` of its own, which may need all queries"
    return None


def computes_by(module: nn.Module) -> type:
    """The class whose `forward` a module has, apart from what this package puts before it."""
    classes = [cls for cls in type(module).__mro__ if not cls.__module__.startswith("zoo.parallel.")]
    return next(cls for cls in classes if "forward" in vars(cls))
