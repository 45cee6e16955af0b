"""Alignments of protein families as batches of a model."""

import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor

from zoo.preprocessing.alignment import GAP, Alignment, read_alignment
from zoo.preprocessing.file_bytes import read_bytes
from zoo.preprocessing.processor import Processor
from zoo.utils.errors import check_choice
from zoo.utils.escape import figure_text
from zoo.utils.type_checks import check_types

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    AlignmentInput = str | Path | Alignment

SHOWN_ROWS, SHOWN_COLUMNS = 12, 60  # of an alignment on a page
_PLOTTED = (5, 20)  # rows and columns in a small figure


@dataclass(frozen=True, kw_only=True)
class AlignmentProcessor(Processor):
    """Alignments -> {"msa": int64 [B, S, N][, "msa_mask": int64 [B, S, N]][, "attention_mask": int64 [B, N]]}.

    An alignment is a path (A3M, aligned FASTA, Stockholm) or an `Alignment`; a list of them is a batch. Residues are 0
    to 19 in the order ARNDCQEGHILKMFPSTWYV, 20 is an unknown one and 21 a gap. Alignments of different sizes are padded
    with gaps, behind: msa_mask is 1 for what is real, and missing if all have as many sequences; attention_mask is 1
    for the residues of the query, and missing if all have as many.

    max_sequences: the most sequences of an alignment; of larger ones the query and this many less one are taken. None:
        no limit.
    sampling: "random", by a fixed seed, or "first", in the order of the file.
    unknown: what a letter is that is not a residue: "error", or "X", any residue.
    """

    kind: ClassVar[str] = "alignment"
    max_sequences: int | None = 128
    sampling: Literal["random", "first"] = "random"
    unknown: Literal["error", "X"] = "error"

    def __post_init__(self) -> None:
        check_choice("sampling", self.sampling, ("random", "first"))
        check_choice("unknown", self.unknown, ("error", "X"))
        check_types(self)
        if self.max_sequences is not None and self.max_sequences < 1:
            raise ValueError(f"max_sequences={self.max_sequences}: expected at least 1, the query, or None for all")

    def __call__(self, alignments: "AlignmentInput | Sequence[AlignmentInput]") -> dict[str, Tensor]:
        """alignments: one or several.

        Raises FileNotFoundError; ValueError, of a file DataError, that names what is wrong; see `Alignment.of_rows`.
        """
        single = isinstance(alignments, str | bytes | Path | Alignment)
        items: list[Any] = [alignments] if single else list(alignments)  # type: ignore[arg-type]
        if not items:
            raise ValueError("the list of alignments is empty: expected at least one")
        return pad([self.sample(self.load(item).ids()) for item in items])

    def load(self, item: "AlignmentInput") -> Alignment:
        """An alignment as it is. Raises ValueError for another object, and as `read_alignment`."""
        if isinstance(item, Alignment):
            return item
        if isinstance(item, bytes):
            return read_bytes(item, lambda path: read_alignment(path, unknown=self.unknown), "the alignment", ".a3m")
        if not isinstance(item, str | Path):
            raise ValueError(f"given a {type(item).__name__}: expected the path of an alignment, such as family.a3m, "
                             f"or an Alignment (zoo.preprocessing.alignment)")  # fmt: skip
        if not Path(item).suffix and not Path(item).exists():
            raise ValueError(f"there is no file {str(item)[:40]!r}: expected the path of an alignment, such as "
                             f"family.a3m; sequences in memory are Alignment.of_rows([query, ...]) "
                             f"(zoo.preprocessing.alignment)")  # fmt: skip
        return read_alignment(item, unknown=self.unknown)

    def sample(self, msa: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """At most `max_sequences` of the rows of an alignment [S, N] in their order, the first one among them.

        generator: for sampling="random"; None: the same rows each time.
        """
        if self.max_sequences is None or len(msa) <= self.max_sequences:
            return msa
        count = self.max_sequences - 1
        if self.sampling == "first":
            return msa[: count + 1]
        generator = torch.Generator().manual_seed(0) if generator is None else generator
        rows = 1 + torch.randperm(len(msa) - 1, generator=generator)[:count].sort().values
        return torch.cat([msa[:1], msa[rows]])

    def check(self, config: Any) -> None:
        """Raises ValueError if a model with this config has no embedding for some of the residues."""
        if getattr(config, "vocab_size", GAP + 1) <= GAP:
            raise ValueError(f"preprocess gives residues 0 to {GAP}, but the model has vocab_size={config.vocab_size}: "
                             f"expected at least {GAP + 1}")  # fmt: skip


def pad(alignments: Sequence[Tensor]) -> dict[str, Tensor]:
    """The batch of alignments [S, N] of different sizes; see `AlignmentProcessor`."""
    rows, columns = (max(each.shape[dim] for each in alignments) for dim in (0, 1))
    msa = torch.full((len(alignments), rows, columns), GAP)
    mask = torch.zeros_like(msa)
    for own, real, each in zip(msa, mask, alignments):
        own[: each.shape[0], : each.shape[1]] = each
        real[: each.shape[0], : each.shape[1]] = 1
    batch = {"msa": msa}
    if any(each.shape[0] < rows for each in alignments):
        batch["msa_mask"] = mask
    if any(each.shape[1] < columns for each in alignments):
        batch["attention_mask"] = mask[:, 0].clone()
    return batch


# --- one alignment for a reader ---------------------------------------------------------------------------------------


def load_alignment(item: Any) -> Alignment:
    """A path or an alignment as an alignment."""
    return item if isinstance(item, Alignment) else read_alignment(item)


def shown_rows(item: Any, rows: int, columns: int) -> list[str]:
    """The beginning of an alignment, as lines of text."""
    alignment = load_alignment(item)
    lines = [row[:columns] + (" …" if len(row) > columns else "") for row in alignment.rows[:rows]]
    return lines + ([f"… {len(alignment):,} sequences"] if len(alignment) > rows else [])


def alignment_html(item: Any, alt: str = "") -> str:
    """A `pre` element with the beginning of an alignment."""
    return f"<pre>{html.escape(chr(10).join(shown_rows(item, SHOWN_ROWS, SHOWN_COLUMNS)))}</pre>"


def plot_alignment(axes: "Axes", item: Any) -> None:
    """Plot the first rows and columns as text."""
    lines = "\n".join(shown_rows(item, *_PLOTTED))
    axes.text(0.5, 0.5, figure_text(lines), ha="center", va="center", fontsize=8, family="monospace")
    axes.set_axis_off()
