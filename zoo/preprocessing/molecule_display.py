"""Molecules in HTML and in plots: their structural formula, by rdkit."""

import html
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.preprocessing.molecule import read_smiles

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SIZE = 220  # pixels, width and height


def read_smiles_file(item: str | Path) -> str:
    """A SMILES string as it is, or the one in a file (.smi): its first column.

    Raises: ValueError for a file with several molecules.
    """
    if not (isinstance(item, Path) or Path(item).suffix.lower() == ".smi"):
        return item
    lines = [line for line in Path(item).read_text("utf-8").splitlines() if line.strip()]
    if len(lines) != 1:
        raise ValueError(f"{item} has {len(lines)} molecules: expected a file of one, or a table with a column of "
                         f"SMILES strings")  # fmt: skip
    return lines[0].split()[0]


def molecule_html(item: Any, alt: str) -> str:
    """An SVG of the molecule."""
    from rdkit.Chem.Draw import rdMolDraw2D

    canvas = rdMolDraw2D.MolDraw2DSVG(SIZE, SIZE)
    rdMolDraw2D.PrepareAndDrawMolecule(canvas, read_smiles(read_smiles_file(item)))
    canvas.FinishDrawing()
    svg = canvas.GetDrawingText()
    start = svg.index("<svg") + len("<svg")  # after the XML declaration
    return f'<svg role="img" aria-label="{html.escape(alt, quote=True)}"{svg[start:]}'


def plot_molecule(axes: "Axes", item: Any) -> None:
    """Plot the structural formula."""
    from PIL import Image
    from rdkit.Chem.Draw import rdMolDraw2D

    canvas = rdMolDraw2D.MolDraw2DCairo(2 * SIZE, 2 * SIZE)
    rdMolDraw2D.PrepareAndDrawMolecule(canvas, read_smiles(read_smiles_file(item)))
    canvas.FinishDrawing()
    axes.imshow(Image.open(io.BytesIO(canvas.GetDrawingText())))
    axes.set_axis_off()
