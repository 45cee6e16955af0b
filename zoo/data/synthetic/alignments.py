"""Synthetic protein families with known contacts: alignments sampled from Potts models.

A family has a contact map (`contact_maps.py`) and a Potts model whose couplings are nonzero on its contacts alone:
P(x) ~ exp(sum_i h_i(x_i) + sum_contacts J_ij(x_i, x_j)). A coupling is partly that of all families (residues of unlike
charge attract, greasy ones stick together, a large one wants a small one), partly its own. Sequences are sampled by
Gibbs sampling along trees of descent, so that they resemble each other (phylogeny), and chains of contacts correlate
residues that are not in contact (indirect correlation): what the mutual information of columns does not distinguish
from direct coupling. Some sequences are fragments, and some residues are deleted.

The dataset is for learning and testing the library, not for ranking models.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from zoo.data.synthetic.contact_maps import make_contact_map
from zoo.preprocessing.alignment import GAP
from zoo.utils.keyed_random import seed_for

TRAIN, VALIDATION, TEST = 2000, 60, 100
LENGTHS = (28, 40)  # residues of the shortest and the longest family
DEPTH = 64  # sequences of a family
SEQUENCE_FAMILIES, SEQUENCES = 16, 512  # for models of single sequences
SHARED = 0.7  # fraction of the variance of couplings that all families have in common
STRENGTH = 0.6  # standard deviation of the entries of a coupling
FIELD = 0.7  # standard deviation of the fields of a residue, which conserve it
ROOTS = 4  # subfamilies without a common ancestor
MUTATED = 0.3  # fraction of the residues that are sampled again from one generation to the next
_SWEEPS = 20  # of the ancestors
_CHUNK = 32  # families that are sampled together, whatever their number
# Of the residues ARNDCQEGHILKMFPSTWYV: frequencies in proteins (percent), charges, hydropathy (Kyte and Doolittle 1982,
# https://doi.org/10.1016/0022-2836(82)90515-0), volumes (cubic angstroms; Zamyatnin 1972).
_FREQUENCIES = (8.3, 5.5, 4.1, 5.4, 1.4, 3.9, 6.7, 7.1, 2.3, 5.9, 9.7, 5.8, 2.4, 3.9, 4.7, 6.6, 5.3, 1.1, 2.9, 6.9)
_CHARGES = (0, 1, 0, -1, 0, 0, -1, 0, 0.1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0)
_HYDROPATHY = (1.8, -4.5, -3.5, -3.5, 2.5, -3.5, -3.5, -0.4, -3.2, 4.5, 3.8, -3.9, 1.9, 2.8, -1.6, -0.8, -0.7, -0.9,
               -1.3, 4.2)  # fmt: skip
_VOLUMES = (88.6, 173.4, 114.1, 111.1, 108.5, 143.8, 138.4, 60.1, 153.2, 166.7, 166.7, 168.6, 162.9, 189.9, 112.7, 89.0,
            116.1, 227.8, 193.6, 140.0)  # fmt: skip


@dataclass(frozen=True)
class Family:
    """One family. msa: residues int64 [S, N], the query first. contacts: bool [N, N]."""

    msa: Tensor
    contacts: Tensor


def make_families(
    n: int, *, seed: int, depth: int = DEPTH, lengths: tuple[int, int] = LENGTHS, gaps: bool = True
) -> list[Family]:
    """Generate families, the same ones for the same arguments.

    Args:
        n: Number of families.
        seed: Decides all of them; a family does not depend on how many there are.
        depth: Sequences of each; a power of two times 4.
        lengths: Residues of the shortest and the longest family.
        gaps: Whether some residues of the sequences are missing.

    Raises: ValueError for another depth, and for lengths below 24.
    """
    generations = depth // ROOTS
    if depth < ROOTS or generations & (generations - 1) or depth % ROOTS:
        raise ValueError(f"depth={depth}: expected {ROOTS} times a power of two, such as 64 or 128 sequences")
    if not 24 <= lengths[0] <= lengths[1]:
        raise ValueError(f"lengths={lengths}: expected the least and the greatest number of residues, at least 24")
    found = []
    for start in range(0, n, _CHUNK):
        found += _chunk(_CHUNK, seed_for(seed, start // _CHUNK), depth, lengths, gaps)
    return found[:n]


@dataclass(frozen=True)
class PottsModels:
    """Potts models of F families of at most N sites with at most D neighbors each.

    fields: [F, N, 20]. neighbors: int64 [F, N, D], the sites that a site is coupled to; unused places repeat a site.
    couplings: [F, N, D, 20, 20], by state of the neighbor and own state; 0 in unused places.
    """

    fields: Tensor
    neighbors: Tensor
    couplings: Tensor

    def conditional(self, states: Tensor, site: int) -> Tensor:
        """Logits float [F, S, 20] of one site given all others, for states int64 [F, S, N]."""
        families, places = self.neighbors.shape[0], self.neighbors.shape[2]
        at = self.neighbors[:, site]
        near = states.gather(2, at[:, None].expand(-1, states.shape[1], -1))
        first = torch.arange(families * places).view(families, 1, places) * 20
        table = self.couplings[:, site].reshape(-1, 20)
        energy = torch.nn.functional.embedding_bag((near + first).flatten(0, 1), table, mode="sum")
        return self.fields[:, None, site] + energy.view(*states.shape[:2], 20)

    def sweep(self, states: Tensor, generator: torch.Generator, fraction: float = 1.0) -> None:
        """Sample each site of states [F, S, N] once more, in place, or a random `fraction` of them (Gibbs sampling)."""
        for site in range(states.shape[2]):
            total = self.conditional(states, site).softmax(-1).cumsum(-1)
            level = torch.rand(*states.shape[:2], 1, generator=generator) * total[..., -1:]
            new = torch.searchsorted(total, level)[..., 0].clamp(max=19)
            if fraction < 1.0:
                kept = torch.rand(states.shape[:2], generator=generator) >= fraction
                new = torch.where(kept, states[..., site], new)
            states[..., site] = new


def potts_models(contacts: list[np.ndarray], generator: torch.Generator) -> PottsModels:
    """A Potts model for each contact map, with sites for the longest of them."""
    size = max(map(len, contacts))
    degree = max(int(each.sum(1).max()) for each in contacts)
    frequencies = torch.tensor(_FREQUENCIES)
    fields = (frequencies / frequencies.sum()).log() + FIELD * torch.randn(len(contacts), size, 20, generator=generator)
    neighbors = torch.zeros(len(contacts), size, degree, dtype=torch.int64)
    couplings = torch.zeros(len(contacts), size, degree, 20, 20)
    shared = shared_coupling()
    for family, own in enumerate(contacts):
        used = [0] * size
        for i, j in np.argwhere(np.triu(own)).tolist():
            coupling = SHARED**0.5 * shared + (1 - SHARED) ** 0.5 * torch.randn(20, 20, generator=generator)
            for a, b, table in ((i, j, coupling.T), (j, i, coupling)):
                neighbors[family, a, used[a]] = b
                couplings[family, a, used[a]] = STRENGTH * table
                used[a] += 1
    return PottsModels(fields, neighbors, couplings)


def shared_coupling() -> Tensor:
    """The part of couplings that all families have in common, [20, 20], symmetric, of mean 0 and variance 1."""
    charge, grease, volume = (torch.tensor(values, dtype=torch.float32) for values in
                              (_CHARGES, _HYDROPATHY, _VOLUMES))  # fmt: skip
    grease, volume = ((x - x.mean()) / x.std() for x in (grease, volume))
    found = -2 * charge[:, None] * charge + 0.6 * grease[:, None] * grease - 0.4 * volume[:, None] * volume
    found = found - found.mean(0) - found.mean(1)[:, None] + found.mean()
    return found / found.std()


def sample_by_descent(models: PottsModels, depth: int, generator: torch.Generator) -> Tensor:
    """Sequences int64 [F, depth, N] along trees: independent ancestors, then each has two children until there are
    enough; a child is its parent with a fraction of the sites sampled again."""
    families, size = models.neighbors.shape[:2]
    states = torch.randint(20, (families, ROOTS, size), generator=generator)
    for _ in range(_SWEEPS):
        models.sweep(states, generator)
    while states.shape[1] < depth:
        states = states.repeat_interleave(2, 1)
        models.sweep(states, generator, MUTATED)
    return states


def with_gaps(msa: Tensor, generator: torch.Generator) -> Tensor:
    """The alignment [S, N] with deletions: a tenth of the sequences are fragments, one residue in fifty is missing;
    the query has all residues."""
    count, size = msa.shape
    missing = torch.rand(count, size, generator=generator) < 0.02
    fragment = torch.rand(count, generator=generator) < 0.1
    cut = (torch.rand(count, generator=generator) * size / 2).long()
    at = torch.arange(size)
    before = torch.rand(count, generator=generator) < 0.5
    outside = torch.where(before[:, None], at < cut[:, None], at >= size - cut[:, None])
    missing |= fragment[:, None] & outside
    missing[0] = False
    return msa.masked_fill(missing, GAP)


def _chunk(n: int, seed: int, depth: int, lengths: tuple[int, int], gaps: bool) -> list[Family]:
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    maps = [make_contact_map(rng, int(rng.integers(lengths[0], lengths[1] + 1))) for _ in range(n)]
    states = sample_by_descent(potts_models(maps, generator), depth, generator)
    msas = [own[:, : len(contacts)] for own, contacts in zip(states, maps)]
    return [Family(with_gaps(msa, generator) if gaps else msa.clone(), torch.from_numpy(contacts))
            for msa, contacts in zip(msas, maps)]  # fmt: skip
