"""Contacts from the statistics of one alignment: mutual information, and mean-field direct coupling analysis.

Neither is trained. Residues in contact change together in evolution; so do residues that are linked through others
(indirect correlation) and sequences of common descent (phylogeny). Direct coupling analysis explains all correlations
of pairs at once by a Potts model, the average product correction removes what a residue has in common with all others.
"""

import torch
from torch import Tensor

from zoo.preprocessing.alignment import GAP

STATES = GAP + 1  # 20 residues, 20 = unknown, 21 = gap
ROWS = 1024  # sequences that are compared with all others at once


def sequence_weights(msa: Tensor, identity: float = 0.8) -> Tensor:
    """Weights float64 [S] of the sequences of an alignment int64 [S, N]: 1 / number of sequences like it.

    Sequences are alike if at least the fraction `identity` of their columns is equal; above 1 each is like itself
    alone. The sum is the effective number of sequences (Morcos et al. 2011, https://arxiv.org/abs/1110.5223).
    """
    _check(msa)
    one_hot = torch.nn.functional.one_hot(msa, STATES).flatten(1).float()
    counts = []
    for start in range(0, len(msa), ROWS):  # the whole matrix of a large alignment takes gigabytes
        alike = one_hot[start : start + ROWS] @ one_hot.T >= identity * msa.shape[1] - 1e-4
        alike.diagonal(start).fill_(True)
        counts.append(alike.sum(1))
    return 1 / torch.cat(counts).double()


def frequencies(msa: Tensor, weights: Tensor, pseudocount: float) -> tuple[Tensor, Tensor]:
    """Frequencies of the 21 states (an unknown residue counts as a gap) of columns [N, 21] and pairs [N, N, 21, 21].

    pseudocount: the fraction of the whole that is spread evenly over all states, in single columns and in pairs.
    """
    states = STATES - 1
    x = torch.nn.functional.one_hot(msa.clamp(max=states - 1), states).double()
    size, total = msa.shape[1], weights.sum()
    single = torch.einsum("s,sna->na", weights, x) / total
    flat = x.flatten(1)
    pairs = (flat.T @ (flat * weights[:, None]) / total).view(size, states, size, states).transpose(1, 2)
    single = (1 - pseudocount) * single + pseudocount / states
    pairs = (1 - pseudocount) * pairs + pseudocount / states**2
    here = torch.arange(size)
    pairs[here, here] = torch.diag_embed(single)
    return single, pairs


def average_product_correction(scores: Tensor) -> Tensor:
    """Symmetric scores [N, N] minus the product of their means by row and column over the mean of all.

    The means are those of pairs i, j with i != j.

    Dunn et al. 2008, https://doi.org/10.1093/bioinformatics/btm604. The diagonal of the result is 0.
    """
    size = len(scores)
    off = scores.masked_fill(torch.eye(size, dtype=torch.bool), 0)
    rows = off.sum(1) / max(size - 1, 1)
    mean = rows.mean()
    corrected = off - rows[:, None] * rows[None] / mean if mean > 0 else off
    return corrected.fill_diagonal_(0)


def mutual_information(msa: Tensor, *, identity: float = 0.8, pseudocount: float = 0.05,
                       corrected: bool = True) -> Tensor:  # fmt: skip
    """Mutual information of each pair of columns in nats, float64 [N, N], of an alignment int64 [S, N].

    Args:
        identity: From which fraction of equal columns on sequences share their weight; see `sequence_weights`.
        pseudocount: See `frequencies`.
        corrected: Whether to apply the average product correction.

    Raises: ValueError for what is not an alignment of residues 0 to 21.
    """
    single, pairs = frequencies(msa, sequence_weights(msa, identity), pseudocount)
    expected = single[:, None, :, None] * single[None, :, None, :]
    found = torch.special.xlogy(pairs, pairs / expected.clamp(min=1e-300)).sum((2, 3))
    found.fill_diagonal_(0)
    return average_product_correction(found) if corrected else found


def mean_field_dca(msa: Tensor, *, identity: float = 0.8, pseudocount: float = 0.5,
                   corrected: bool = True) -> Tensor:  # fmt: skip
    """Strength of the direct coupling of each pair of columns, float64 [N, N], of an alignment int64 [S, N].

    Mean-field direct coupling analysis (Morcos et al. 2011): the couplings of a Potts model are minus the inverse of
    the covariances of all states but one. The strength is the norm of the couplings in the gauge in which their rows
    and columns sum to zero, without those of the gap (Ekeberg et al. 2013, https://arxiv.org/abs/1211.1281).

    Args and errors as for `mutual_information`.
    """
    couplings = mean_field_couplings(msa, identity=identity, pseudocount=pseudocount)[..., :-1, :-1]
    couplings = couplings - couplings.mean(2, keepdim=True) - couplings.mean(3, keepdim=True) + couplings.mean(
        (2, 3), keepdim=True)  # fmt: skip
    strength = couplings.square().sum((2, 3)).sqrt().fill_diagonal_(0)
    return average_product_correction(strength) if corrected else strength


def mean_field_couplings(msa: Tensor, *, identity: float = 0.8, pseudocount: float = 0.5) -> Tensor:
    """Couplings float64 [N, N, 21, 21] of the mean-field Potts model, 0 for the last state, the gap, and for i = j."""
    single, pairs = frequencies(msa, sequence_weights(msa, identity), pseudocount)
    size, states = single.shape
    covariance = pairs - single[:, None, :, None] * single[None, :, None, :]
    kept = covariance[..., :-1, :-1].transpose(1, 2).reshape(size * (states - 1), size * (states - 1))
    inverse = torch.linalg.inv(kept).view(size, states - 1, size, states - 1).transpose(1, 2)
    couplings = torch.zeros_like(pairs)
    couplings[..., :-1, :-1] = -inverse
    here = torch.arange(size)
    couplings[here, here] = 0
    return couplings


def _check(msa: Tensor) -> None:
    if msa.ndim != 2 or msa.is_floating_point() or not msa.numel():
        raise ValueError(f"an alignment of shape {list(msa.shape)} and {msa.dtype}: expected whole numbers [S, N], a "
                         f"row for each sequence")  # fmt: skip
    if msa.min() < 0 or msa.max() >= STATES:
        raise ValueError(f"an alignment with residues {int(msa.min())} to {int(msa.max())}: expected 0 to {GAP}, as "
                         f"AlignmentProcessor gives them")  # fmt: skip
