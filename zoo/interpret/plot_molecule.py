"""Plots of attention on a molecule.

    zoo.interpret.plot_molecule.plot_molecule_attention(model, "CC(=O)Nc1ccc(O)cc1", path="attention.png")

An atom has the color of the attention that it receives, a bond that of the attention along it.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from zoo.interpret.plot import save_figure
from zoo.interpret.plot_graph import COLORS, along, edge_attention, received
from zoo.preprocessing.molecule import MoleculeProcessor, load_rdkit, read_smiles
from zoo.utils.plotting import make_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH, HEIGHT = 5.4, 4.2  # inches


def molecule_attention(
    model: Any, smiles: str, *, layer: str | None = None, head: int | None = None
) -> tuple[Tensor, Tensor]:
    """(what each atom receives [N], what goes along each bond [number of bonds]) of the attention on a molecule.

    An atom receives the sum of the weights that the other atoms give it; along a bond goes the mean of the weights in
    both directions.

    Args:
        model: A model of molecules.
        smiles: One molecule.
        layer: Name of a layer, such as "blocks.0.mixer"; None: the mean of all layers.
        head: Number of a head; None: the mean of all heads.

    Raises: ValueError for a model of other inputs, a molecule that cannot be read, and a layer or head that does not
        exist.
    """
    if not isinstance(model.preprocess, MoleculeProcessor):
        raise ValueError(f"{type(model).__name__} does not take molecules, so there is nothing to plot: expected a "
                         f"model whose preprocess is a MoleculeProcessor")  # fmt: skip
    batch = model.preprocess(smiles)
    atoms = len(batch["node_features"])
    found = edge_attention(model, batch, layer=layer, head=head)
    return received(found, atoms), along(found, batch["edge_index"][:, ::2], atoms)  # a bond is two edges


def plot_molecule_attention(
    model: Any, smiles: str, *, layer: str | None = None, head: int | None = None, path: str | Path | None = None
) -> "Figure":
    """Plot a molecule with its atoms and bonds colored by attention; see `molecule_attention` for the arguments.

    path: PNG file to write.
    """
    atoms, bonds = molecule_attention(model, smiles, layer=layer, head=head)
    load_rdkit("plotting molecules")
    from matplotlib import colormaps
    from rdkit.Chem import rdDepictor

    molecule = read_smiles(smiles)
    rdDepictor.Compute2DCoords(molecule)
    places = torch.tensor(molecule.GetConformer().GetPositions())[:, :2]
    figure = make_figure(WIDTH, HEIGHT)
    axes = figure.subplots()
    colors = colormaps[COLORS]
    shares = bonds / bonds.max().clamp(min=1e-9) if len(bonds) else bonds
    for bond, weight in zip(molecule.GetBonds(), shares.tolist()):
        ends = places[[bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()]]
        plot_bond(axes, ends, bond.GetBondTypeAsDouble(), colors(0.15 + 0.85 * weight))
    x, y = places.T.tolist()
    most = float(atoms.max()) or 1.0
    found = axes.scatter(
        x, y, c=atoms.tolist(), cmap=COLORS, vmin=0, vmax=most, s=330, edgecolors="#555555", zorder=3, clip_on=False
    )
    dark = 0.6 * most
    for atom, a, b, value in zip(molecule.GetAtoms(), x, y, atoms.tolist()):
        color = "white" if value > dark else "black"
        axes.text(a, b, atom.GetSymbol(), ha="center", va="center", color=color, fontsize=9, zorder=4)
    axes.set_aspect("equal")
    axes.margins(0.12, 0.2)
    axes.set_axis_off()
    where = layer or "mean of all layers"
    axes.set_title(f"{where}, {'mean of all heads' if head is None else f'head {head}'}", fontsize=10)
    figure.colorbar(found, ax=axes, label="attention from other atoms", shrink=0.8)
    return save_figure(figure, path)


def plot_bond(axes: Any, ends: Tensor, order: float, color: Any) -> None:
    """Plot a bond between two places [2, 2] as one line, or as two or three; that of a ring has one of two dashed."""
    along = ends[1] - ends[0]
    side = torch.stack([-along[1], along[0]]) / along.norm().clamp(min=1e-9)
    offsets = {1.0: [0.0], 2.0: [-0.09, 0.09], 3.0: [-0.15, 0.0, 0.15], 1.5: [-0.09, 0.09]}.get(order, [0.0])
    for number, offset in enumerate(offsets):
        style = (0, (2, 1)) if order == 1.5 and number else "-"
        line = ends + offset * side
        axes.plot(*line.T.tolist(), color=color, linewidth=3, linestyle=style, zorder=1, solid_capstyle="round")
