"""Synthetic contact maps of proteins: strands that pair into sheets, helices that pack, a few single contacts.

A chain is a row of helices and strands with loops between them. Neighboring strands are often hairpins; strands that
are further apart pair parallel or antiparallel, helices pack with every third or fourth residue, as in the maps of real
proteins: contacts are sparse and lie on short lines. No structure in space is behind them.
"""

import numpy as np

Array = np.ndarray

HELIX, STRAND = "helix", "strand"
MAX_DEGREE = 4  # contacts of a residue beyond its own helix
LONG_RANGE = 12  # residues between partners that a map has enough of
_TRIES = 1000
_LENGTHS = {HELIX: (7, 13), STRAND: (4, 8)}  # residues of a segment, from and below


def make_contact_map(rng: np.random.Generator, length: int) -> Array:
    """A symmetric map, bool [length, length], with at least length / 4 contacts of residues 12 or more apart.

    Pairs with |i - j| < 4 are no contacts. Raises ValueError for a length below 24, which has no room for them.
    """
    if length < 24:
        raise ValueError(f"length={length}: expected at least 24 residues, for contacts that are 12 or more apart")
    for _ in range(_TRIES):
        contacts = _one_map(rng, length)
        if long_range_contacts(contacts) >= length / 4:
            return contacts
    raise ValueError(f"length={length}: no map with enough contacts was found in {_TRIES} tries")


def long_range_contacts(contacts: Array, separation: int = LONG_RANGE) -> int:
    """Number of contacts i, j with j - i >= separation."""
    return int(np.triu(contacts, separation).sum())


def _one_map(rng: np.random.Generator, length: int) -> Array:
    contacts = np.zeros((length, length), dtype=bool)
    segments = _segments(rng, length)
    for kind, start, stop in segments:
        if kind == HELIX:
            for i in range(start, stop - 4):
                contacts[i, i + 4] = True
    strands = [segment[1:] for segment in segments if segment[0] == STRAND]
    helices = [segment[1:] for segment in segments if segment[0] == HELIX]
    pairs = [(a, b) for a in range(len(strands)) for b in range(a + 1, len(strands))]
    hairpins = [(a, b) for a, b in pairs if b == a + 1 and rng.random() < 0.6]
    distant = [(a, b) for a, b in pairs if b > a + 1 and rng.random() < 0.6]
    degree = np.zeros(length, dtype=int)
    for a, b in [*hairpins, *distant]:
        antiparallel = b == a + 1 or rng.random() < 0.5
        _add_line(rng, contacts, degree, strands[a], strands[b], 1.0, antiparallel)
    others = [(a, b) for k, a in enumerate(helices) for b in [*helices[k + 1 :], *strands]]
    for one, other in others:
        if rng.random() < 0.5:
            step = 3.6 if other in helices else 2.0
            _add_line(rng, contacts, degree, min(one, other), max(one, other), step, rng.random() < 0.6)
    for _ in range(rng.integers(0, 4)):
        i, j = sorted(rng.integers(0, length, 2).tolist())
        if j - i >= 6:
            _add(contacts, degree, i, j)
    return contacts | contacts.T


def _segments(rng: np.random.Generator, length: int) -> list[tuple[str, int, int]]:
    """(kind, first residue, end) of the helices and strands of a chain, in order."""
    helical = rng.random() * 0.8  # fraction of helices in this protein
    segments: list[tuple[str, int, int]] = []
    at = int(rng.integers(0, 3))
    while True:
        kind = HELIX if rng.random() < helical else STRAND
        stop = at + int(rng.integers(*_LENGTHS[kind]))
        if stop > length:
            return segments
        segments.append((kind, at, stop))
        at = stop + int(rng.integers(2, 5))


def _add_line(rng: np.random.Generator, contacts: Array, degree: Array, first: tuple[int, int],
              second: tuple[int, int], step: float, antiparallel: bool) -> None:  # fmt: skip
    """Contacts of two segments, one in `step` residues along both, with gaps and small shifts at random."""
    size = min(first[1] - first[0], second[1] - second[0])
    shift = int(rng.integers(0, 2)) if second[1] - second[0] > size else 0
    for k in range(int((size - 1) / step) + 1):
        along = round(k * step)
        i = first[0] + along
        j = second[1] - 1 - shift - along if antiparallel else second[0] + shift + along
        if rng.random() < 0.9 and j - i >= 4:
            _add(contacts, degree, i, j)
        if step > 1 and rng.random() < 0.3 and i + 1 < j - 4:
            _add(contacts, degree, i + 1, j)


def _add(contacts: Array, degree: Array, i: int, j: int) -> None:
    if not contacts[i, j] and degree[i] < MAX_DEGREE and degree[j] < MAX_DEGREE:
        contacts[i, j] = True
        degree[i] += 1
        degree[j] += 1
