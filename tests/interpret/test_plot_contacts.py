"""Plots of contact maps: what stands above and below the diagonal."""

from pathlib import Path

import numpy as np
import pytest
import torch
from plot_checks import check_texts

from zoo.interpret.plot_contacts import plot_contacts


def test_predictions_are_above_the_diagonal_and_true_contacts_below(tmp_path: Path) -> None:
    predicted, true = torch.zeros(6, 6), torch.zeros(6, 6)
    predicted[0, 5] = predicted[5, 0] = 4.0
    predicted[0, 1] = 9.0  # nearer than min_separation: not shown, and not in the range of the colors
    true[1, 4] = true[4, 1] = 1.0
    figure = plot_contacts([predicted, predicted], [true, None], titles=["one", "two"], sequences=["MKTAYI"] * 2,
                           min_separation=2, path=tmp_path / "a.png")  # fmt: skip
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    first, second = (np.ma.filled(axis.images[0].get_array(), np.nan) for axis in figure.axes)
    assert first[0, 5] == 1 and first[5, 0] == 0 and first[4, 1] == 1 and first[1, 4] == 0
    assert np.isnan(first[0, 1]) and np.isnan(first[3, 3])
    assert second[0, 5] == 1 and second[5, 0] == 1
    texts = check_texts(figure)
    assert {"one", "two", "predicted above, true below", "predicted"} <= set(texts)
    assert texts.count("M") == 4
    (axis,) = plot_contacts(torch.rand(60, 60)).axes
    assert axis.get_xlim() == (0.5, 60.5) and all(tick == round(tick) for tick in axis.get_xticks())


def test_what_is_not_a_contact_map_is_refused() -> None:
    square = torch.rand(4, 4)
    with pytest.raises(ValueError, match=r"contact maps \[\(4, 3\)\]: expected \[N, N\]"):
        plot_contacts(square[:, :3])
    with pytest.raises(ValueError, match="the same size on both sides"):
        plot_contacts(square, torch.rand(5, 5))
    with pytest.raises(ValueError, match="not finite"):
        plot_contacts(torch.full((4, 4), torch.nan))
    with pytest.raises(ValueError, match="2 predicted maps and 1 below"):
        plot_contacts([square, square], [square])
    with pytest.raises(ValueError, match="sequence 0 has 3 residues, its map 4"):
        plot_contacts(square, sequences=["MKT"])
