"""Molecules in HTML and in plots: their structural formula, by rdkit."""

import html
import io
from typing import TYPE_CHECKING, Any

from zoo.preprocessing.molecule import read_smiles, read_smiles_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SIZE = 220  # pixels, width and height


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
