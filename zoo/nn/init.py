"""Initial values: each a pure function of (seed, parameter name, shape).

So two models that differ in attention start equal in all they share, a fresh head at load is the same everywhere, and
sharded and single-process starts agree. `initialize` is the one place; a module that owns unusual parameters has a
method `initialize(draw)`, where `draw("w")` is the generator of its parameter or buffer `w`.
"""

import hashlib
import math
from collections.abc import Callable, Set
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

Initializer = Callable[[str], torch.Generator]
STD = 0.02  # of embeddings and tokens


def generator(seed: int, name: str, shape: tuple[int, ...] = ()) -> torch.Generator:
    digest = hashlib.blake2b(f"{seed}/{name}/{tuple(shape)}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big"))


def initialize(model: nn.Module, seed: int, only: Set[str] | None = None) -> None:
    """Draw all parameters and buffers in place, or those named in `only` (a fresh head of a loaded model).

    Modules of other packages (a core of one's own) keep what their constructor gave them. A tensor with several names
    (a tied word table) is drawn once, by its first.
    """
    drawn: set[int] = set()
    for path, module in model.named_modules():
        own = dict(module.named_parameters(recurse=False)) | dict(module.named_buffers(recurse=False))
        names = {key: f"{path}.{key}" if path else key for key in own}

        def draw(key: str, own: dict[str, Tensor] = own, names: dict[str, str] = names) -> torch.Generator:
            return generator(seed, names[key], own[key].shape)

        if not own or not known(module) or (only is not None and only.isdisjoint(names.values())):
            continue
        wanted = {key for key, t in own.items() if (only is None or names[key] in only) and id(t) not in drawn}
        kept = {key: t.detach().clone() for key, t in own.items() if key not in wanted}
        drawn.update(id(t) for t in own.values())
        with torch.no_grad():
            reset(module, draw)
            for key, value in kept.items():
                own[key].copy_(value)


def known(module: nn.Module) -> bool:
    return type(module).__module__.split(".")[0] in ("zoo", "torch") and not getattr(module, "foreign", False)


def reset(module: nn.Module, draw: Initializer) -> None:
    """The rule for one module's own parameters."""
    own: Any = module
    if hasattr(own, "initialize"):
        own.initialize(draw)
    elif isinstance(module, nn.LayerNorm | nn.RMSNorm | nn.GroupNorm):
        nn.init.ones_(own.weight)
        if getattr(own, "bias", None) is not None:
            nn.init.zeros_(own.bias)
    elif isinstance(module, nn.Embedding):
        trunc_normal_(own.weight, STD, draw("weight"))
    elif isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d):
        # the published 0.02 at a fan-in of 768, and more for narrow layers, which learn too slowly from 0.02
        trunc_normal_(own.weight, (3 * own.weight[0].numel()) ** -0.5, draw("weight"))
        if getattr(own, "bias", None) is not None:
            nn.init.zeros_(own.bias)
    else:
        raise NotImplementedError(f"{type(module).__name__} owns parameters and has no initialize(draw)")


def normal_(tensor: Tensor, std: float, draw: torch.Generator) -> None:
    tensor.copy_(torch.empty(tensor.shape).normal_(0.0, std, generator=draw))


def trunc_normal_(tensor: Tensor, std: float, draw: torch.Generator) -> None:
    """A normal distribution cut off at two standard deviations; drawn on the host, so alike on every device."""
    here = tensor.device.type == "cpu" and tensor.dtype == torch.float32
    fresh = tensor if here else torch.empty(tensor.shape)
    nn.init.trunc_normal_(fresh, 0.0, std, -2 * std, 2 * std, generator=draw)
    if not here:
        tensor.copy_(fresh)


def orthogonal_gaussian(tensor: Tensor, draw: torch.Generator) -> None:
    """Rows [F, P] that are each Gaussian, N(0, 1), and orthogonal within blocks of P (Choromanski et al. 2021, eq. 8).

    The signs of R make Q uniform over rotations, and norms drawn apart from the directions make each row Gaussian:
    without either the estimate of the kernel is biased.
    """
    rows, dim = tensor.shape
    blocks = []
    for _ in range(math.ceil(rows / dim)):
        q, r = torch.linalg.qr(torch.empty(dim, dim).normal_(generator=draw))
        blocks.append((q * r.diagonal().sign()).mT)
    norms = torch.empty(rows, dim).normal_(generator=draw).norm(dim=1, keepdim=True)
    tensor.copy_(torch.cat(blocks)[:rows] * norms)


class uninitialized(TorchFunctionMode):
    """Within it torch's own `nn.init` calls do nothing: constructors allocate, and `initialize` draws afterwards."""

    paused = False

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if not uninitialized.paused and getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)


class initialized_by_itself:
    """Around the constructor of a module of somebody else's, which initializes itself."""

    def __enter__(self) -> None:
        self.before, uninitialized.paused = uninitialized.paused, True

    def __exit__(self, *_: object) -> None:
        uninitialized.paused = self.before
