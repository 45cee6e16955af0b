"""The scores of the attention heads of a model: the result of `zoo.head_importance`."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from zoo.interpret.plot import DPI, save_figure
from zoo.utils.plotting import label_text, make_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MEANINGS = {
    "gradient": "mean |d loss / d gate| of each head",
    "ablation": "loss without each head, minus the loss with all",
}
COLORS = {"gradient": "viridis", "ablation": "RdBu_r"}


@dataclass(frozen=True, eq=False)
class HeadImportance:
    """What each attention head of a model is worth, a table [layers, heads].

    Attributes:
        scores: {name of the attention: [H], float64}, in the order of the model; greater for heads that matter more.
        method: "gradient" or "ablation".
        loss: The mean loss of the model over the rows.
        rows: The number of rows that were read.
        normalized: Whether the scores of each layer were divided by their Euclidean norm.
    """

    scores: Mapping[str, Tensor]
    method: str
    loss: float
    rows: int
    normalized: bool = False

    @property
    def names(self) -> list[str]:
        """The layers."""
        return list(self.scores)

    @property
    def table(self) -> Tensor:
        """The scores [layers, heads], NaN behind the last head of layers that have fewer heads than others."""
        found = torch.full((len(self.scores), max(map(len, self.scores.values()))), torch.nan, dtype=torch.float64)
        for row, values in zip(found, self.scores.values(), strict=True):
            row[: len(values)] = values
        return found

    def order(self) -> list[tuple[str, int]]:
        """(layer, head) pairs, those with the least scores first."""
        pairs = [(value, name, head) for name, values in self.scores.items()
                 for head, value in enumerate(values.tolist())]  # fmt: skip
        return [(name, head) for _, name, head in sorted(pairs, key=lambda pair: pair[0])]

    def __str__(self) -> str:
        wide = max(map(len, self.names))
        heads = range(self.table.shape[1])
        lines = [f"{MEANINGS[self.method]}, over {self.rows} rows with a mean loss of {self.loss:.4f}"]
        lines.append(" " * wide + "".join(f"{head:>10}" for head in heads))
        for name, values in self.scores.items():
            lines.append(f"{name:{wide}}" + "".join(f"{value:10.2e}" for value in values.tolist()))
        return "\n".join(lines)

    def plot(self, path: str | Path | None = None) -> "Figure":
        """Plot the table: layers down, heads to the right; for ablation, zero is white. path: PNG file to write."""
        table = self.table
        known = table[~table.isnan()]
        most = float(known.abs().max()) or 1.0
        figure = make_figure(max(3.5, 0.35 * table.shape[1] + 2.5), max(2.2, 0.3 * len(table) + 1.0), DPI)
        axes = figure.subplots()
        least = -most if self.method == "ablation" else 0.0
        shown = axes.imshow(table, cmap=COLORS[self.method], vmin=least, vmax=most, aspect="auto")
        axes.set_yticks(range(len(table)), [label_text(name, 28, keep_end=True) for name in self.names], fontsize=8)
        axes.set_xticks(range(table.shape[1]), [str(head) for head in range(table.shape[1])], fontsize=8)
        axes.set_xlabel("head", fontsize=8)
        bar = figure.colorbar(shown, ax=axes, pad=0.02)
        bar.set_label(MEANINGS[self.method], fontsize=8)
        return save_figure(figure, path)
