"""Sparse attention over the tokens of an image: along its rows, along its columns, and to nearby tokens (DALL-E).

The tokens of the image are in row-major order, `columns` of them in a row, after `prefix` tokens of another kind, such
as those of a text, that attend to all tokens and are attended by all. In causal models later tokens are hidden as well.
"""

from typing import Any

from zoo.nn.core import CoreSpec, attention, check_not_negative, check_positive
from zoo.nn.masks import GlobalTokensMask, Mask, Strided, Window2D
from zoo.nn.sparse.block_patterns import CausalWindow2D, WindowPartition
from zoo.nn.sparse_attention import SparseAttention


class GridAttention(SparseAttention):
    """Base class of the kinds for images. columns: tokens in a row of the image, which may have any number of rows.
    prefix: tokens before the image."""

    def __init__(self, spec: CoreSpec, columns: int = 4, prefix: int = 0) -> None:
        super().__init__(spec)
        check_positive(columns=columns)
        check_not_negative(prefix=prefix)
        self.columns, self.prefix = columns, prefix


@attention("axial_row")
class AxialRowAttention(GridAttention):
    """Tokens of an image attend within their row (Ho et al. 2019, Ramesh et al. 2021)."""

    def __init__(self, spec: CoreSpec, columns: int = 4, prefix: int = 0) -> None:
        super().__init__(spec, columns, prefix)
        self.pattern = WindowPartition(columns, prefix=prefix)


@attention("axial_column")
class AxialColumnAttention(GridAttention):
    """Tokens of an image attend within their column (Ho et al. 2019, Ramesh et al. 2021)."""

    def __init__(self, spec: CoreSpec, columns: int = 4, prefix: int = 0) -> None:
        super().__init__(spec, columns, prefix)
        column: Mask = Strided(columns)
        self.pattern = column | GlobalTokensMask(prefix) if prefix else column


@attention("conv_like")
class ConvLikeAttention(GridAttention):
    """Tokens of an image attend to a square of `kernel` by `kernel` tokens, like a convolution (Ramesh et al. 2021).

    The square is centered on the token; in causal models it ends there, as in the package dalle-pytorch: it has the
    `kernel` last rows and columns up to those of the token.
    """

    def __init__(self, spec: CoreSpec, kernel: int = 5, columns: int = 4, prefix: int = 0) -> None:
        super().__init__(spec, columns, prefix)
        check_positive(kernel=kernel)
        if kernel % 2 == 0:
            raise ValueError(f"kernel={kernel}: expected an odd number of rows and columns, such as {kernel + 1}")
        if spec.causal:
            self.pattern = CausalWindow2D(columns, kernel - 1, kernel - 1, prefix)
        else:
            self.pattern = Window2D((1, columns), kernel // 2, kernel // 2, prefix)


GRID_KINDS = ("axial_row", "axial_column", "conv_like")


def on_grid(kind: Any, columns: int, prefix: int) -> Any:
    """An attention kind, or a list of kinds over the layers, where those for images have the grid of a model.

    Raises: ValueError if a kind names another grid.
    """
    if isinstance(kind, list | tuple):
        return tuple(on_grid(each, columns, prefix) for each in kind)
    name = kind.get("kind") if isinstance(kind, dict) else kind
    if name not in GRID_KINDS:
        return kind
    given = kind if isinstance(kind, dict) else {}
    for option, value in (("columns", columns), ("prefix", prefix)):
        if given.get(option, value) != value:
            raise ValueError(
                f"attention {name!r} with {option}={given[option]}: the images of this model have {columns} tokens "
                f"in a row, after {prefix} others: omit {option}, or give {value}"
            )
    return {"kind": name, "columns": columns, "prefix": prefix} | given


def has_grid(module: Any) -> bool:
    """Whether a module is attention over a grid of a fixed size."""
    return isinstance(module, GridAttention) or bool(getattr(getattr(module, "pattern", None), "grid", None))
