"""Molecules that the program puts together: rings, joined by linkers into scaffolds, with substituents.

Every molecule is a valid SMILES string, different from all others. Molecules of one scaffold differ in their
substituents alone, and a few scaffolds have many molecules, as in collections of compounds that were made and measured.
The properties are those that rdkit computes: the octanol-water partition coefficient logP (Wildman and Crippen, J.
Chem. Inf. Comput. Sci. 39, 1999) and the number of rings. The dataset is for learning and testing the library, not for
ranking models.
"""

import random
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

from zoo.preprocessing.molecule import load_rdkit, read_smiles

MOLECULES, SCAFFOLDS = 5000, 500
MOST_REPEATED = 2000  # molecules that were there already, one after another
PROPERTIES = ("logp", "rings")

# The first atom is bound to what comes before. `_` is a place for a substituent or another ring, `~` such a place on
# nitrogen; digits are ring closures, which are numbered again in each molecule.
RINGS = """c1c_c_c_c_c1_ c1c_c_c_c_c1_ c1c_c_c_c_c1_ c1nc_c_c_c1_ c1c_nc_c_c1_ c1c_c_nc_c1_ c1nc_c_c_n1 c1c_nc_nc1_
c1nc_c_nc1_ c1nnc_c_c1_ c1oc_c_c1_ c1c_oc_c1_ c1sc_c_c1_ c1c_sc_c1_ c1nc_c_s1 c1sc_nc1_ c1oc_nc1_ c1noc_c1_
c1[nH]c_c_c1_ c1c_n[nH]c1_ c1c_c_c2c_c_c_c_c2c1_ c1c_nc2c_c_c_c_c2c1_ c1nc2c_c_c_c_c2c_c1_
c1nc_nc2c_c_c_c_c12 c1c_[nH]c2c_c_c_c_c12 c1oc2c_c_c_c_c2c1_ c1sc2c_c_c_c_c2c1_ c1nc2c_c_c_c_c2s1
c1nc2c_c_c_c_c2[nH]1 c1c_c2OCOc2c_c1_ c1c_c2OCCOc2c_c1_ n1nc_c_c1_ n1c_nc_c1_ n1nc_nc1_ n1c_c_c2c_c_c_c_c12
C1C_C1_ C1C_C_C1_ C1C_C_C_C1_ C1C_C_C_C_C1_ C1C_CC_CCC1 C1CCc2c_c_c_c_c2C1_ C1=CC_C_CC1_ C1COC_C1_ C1CCOC_C1_
C1CN~C_C1_ C1CCN~C_C1 C1CC_N~CC1 N1C_C_C_C1_ N1C_C_C_C_C1_ N1C_CN~CC1_ N1CC_OC_C1_ N1CC_SCC1 N1CC_C_C1=O
N1CC_CC_CC1=O N1CCc2c_c_c_c_c2C1 N1CC_N~C1=O""".split()  # noqa: SIM905
LINKERS = """- - - C CC O N S CO OC CN NC C(=O) C(=O)N NC(=O) S(=O)(=O) /C=C/ C#C OCC NS(=O)(=O) C(=O)O CCC CNC
NC(=O)N C(C) C(=O)NC C(O)""".split()  # noqa: SIM905
TO_NITROGEN = "- C CC C(=O) CC(=O) S(=O)(=O) OCC CCC NC(=O) C(C)".split()  # noqa: SIM905
FROM_NITROGEN = "C CC C(=O) C(=O)C CCO S(=O)(=O) C(=O)N CCC".split()  # noqa: SIM905
BETWEEN_NITROGENS = "C(=O) CC C(=O)C CCC".split()  # noqa: SIM905
SUBSTITUENTS = """C C CC C(C)C C(C)(C)C CCCC F F Cl Cl Br I O OC OC OCC OC(F)(F)F N NC N(C)C NC(C)=O C(=O)O C(=O)OC
C(=O)OCC C(=O)N C(=O)N(C)C C#N C(F)(F)F [N+](=O)[O-] S(C)(=O)=O S(N)(=O)=O SC C=O C(C)=O CO CN CCO C=C
C#C""".split()  # noqa: SIM905
ON_NITROGEN = "C C CC C(C)C C(C)=O S(C)(=O)=O CCO CC#N CC(F)(F)F C(=O)OC".split()  # noqa: SIM905

Pick = Callable[[Sequence[str]], str]


def make_molecules(n: int, *, scaffolds: int = SCAFFOLDS, seed: int) -> list[str]:
    """`n` different molecules as canonical SMILES, in random order, the same for the same arguments.

    scaffolds: number of combinations of rings and linkers to begin with; some are too small for many molecules.

    Raises: ValueError for more molecules than so many scaffolds have.
    """
    chem = load_rdkit("synthetic molecules")
    uniform = random.Random(seed).random  # the only method with a guaranteed sequence across Python versions

    def pick(options: Sequence[str]) -> str:
        return options[int(uniform() * len(options))]

    frames = [_frame(pick, uniform) for _ in range(scaffolds)]
    found: dict[str, None] = {}
    repeated = 0  # times that a molecule was there already, since the last new one
    while len(found) < n:
        if repeated == MOST_REPEATED:
            raise ValueError(f"n={n}: {scaffolds} scaffolds gave {len(found)} different molecules: expected fewer "
                             f"molecules, or more scaffolds=")  # fmt: skip
        frame = frames[int(uniform() ** 1.5 * len(frames))]  # the first ones have more molecules
        smiles = chem.MolToSmiles(read_smiles(_with_substituents(frame, pick, uniform)))
        repeated = repeated + 1 if smiles in found else 0
        found.setdefault(smiles)
    return sorted(found, key=lambda _: uniform())


def properties(smiles: Sequence[str], name: str) -> list[float]:
    """A property of molecules, `logp` or `rings`."""
    load_rdkit("properties of molecules")
    from rdkit.Chem import Crippen, rdMolDescriptors

    if name not in PROPERTIES:
        raise ValueError(f"{name!r}: expected one of the properties {', '.join(PROPERTIES)}")
    compute: Any = Crippen.MolLogP if name == "logp" else rdMolDescriptors.CalcNumRings  # type: ignore[attr-defined]
    return [compute(read_smiles(each)) for each in smiles]


def make_dataset(n: int, *, seed: int) -> dict[str, list[Any]]:
    """The columns of a table of `n` molecules: `smiles`, and each of `PROPERTIES`."""
    smiles = make_molecules(n, seed=seed)
    return {"smiles": smiles, **{name: properties(smiles, name) for name in PROPERTIES}}


def _frame(pick: Pick, uniform: Callable[[], float]) -> str:
    """Rings and linkers with their free places: one ring (one in ten), two, or three in a row or around one."""
    numbers = count(10)  # of two digits, as the form %10 wants
    frame = _numbered(pick([ring for ring in RINGS if ring[0] != "n"]), numbers)  # n needs a bond to what is before
    for _ in range(0 if uniform() < 0.1 else 1 if uniform() < 0.65 else 2):  # rings that are added
        places = [i for i, letter in enumerate(frame) if letter in "_~"]
        if not places:
            break
        place = places[int(uniform() * len(places))]
        ring = pick(RINGS)
        to_nitrogen = ring[0] in "Nn"
        if frame[place] == "~":
            linker = pick(BETWEEN_NITROGENS if to_nitrogen else FROM_NITROGEN)
        else:
            linker = pick(TO_NITROGEN if to_nitrogen else LINKERS)
        branch = f"({linker.removeprefix('-')}{_numbered(ring, numbers)})"
        frame = frame[:place] + branch + frame[place + 1 :]
    return frame


def _numbered(ring: str, numbers: "count[int]") -> str:
    """A ring with new numbers for its closures, written as %10, %11, ..."""
    new = {digit: f"%{next(numbers)}" for digit in sorted(set(ring) & set("12"))}
    return "".join(new.get(letter, letter) for letter in ring)


def _with_substituents(frame: str, pick: Pick, uniform: Callable[[], float]) -> str:
    """The SMILES string of a frame with substituents at some of its places, two on average."""
    places = sum(letter in "_~" for letter in frame)
    chance = min(0.8, 2 / max(1, places))
    parts = []
    for letter in frame:
        if letter in "_~":
            letter = f"({pick(SUBSTITUENTS if letter == '_' else ON_NITROGEN)})" if uniform() < chance else ""
        parts.append(letter)
    return "".join(parts)
