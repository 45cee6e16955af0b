"""The contact maps of `zoo predict ... --out contacts.png`."""

import argparse
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

from zoo.cli.predict_inputs import Row
from zoo.cli.predict_outputs import PLOT, SUFFIXES
from zoo.inference.contacts import MIN_SEPARATION, contact_maps, predicts_contacts
from zoo.interpret.plot_contacts import plot_contacts
from zoo.models.base import Model
from zoo.utils.escape import say

PLOTTED = 8  # maps in one file


def check_plot(model: Model, args: argparse.Namespace) -> None:
    """Raise ValueError for a model that predicts no contacts, and for options of tables."""
    if not predicts_contacts(model):
        raise ValueError(f"--out {args.out}: {PLOT} is for contact maps, and the model has head={model.config.head!r}: "
                         f"expected a file that ends with {', '.join(SUFFIXES)}")  # fmt: skip
    given = {"--top-k": args.top_k, "--batch-size": args.batch_size, "--truncation": args.truncation is not None,
             "--on-error": args.on_error != "raise"}  # fmt: skip
    if odd := next((flag for flag, value in given.items() if value), None):
        raise ValueError(f"{odd} is for tables of contacts, and --out {args.out} is a plot of contact maps: omit it")


def plot_maps(model: Model, rows: Iterable[Row], out: Path) -> None:
    """Plot the contact maps of the first rows, and say if there are more. Raises ValueError for one without a map."""
    source = iter(rows)
    shown = list(islice(source, PLOTTED))
    if not shown:
        raise ValueError("there is nothing to predict: the input is empty")
    maps = []
    for row in shown:
        if isinstance(row.item, Exception):
            raise ValueError(f"{row.name}: {row.item}") from row.item
        try:
            maps += contact_maps(model, row.item)
        except ValueError as error:
            raise ValueError(str(error) if row.name in str(error) else f"{row.name}: {error}") from error
    titles = [str(row.values.get("name") or Path(row.values.get("file", row.name)).name) for row in shown]
    letters = ["".join([letter if len(letter) == 1 else "?" for letter in one.residues]) for one in maps]
    plot_contacts([one.probabilities for one in maps], titles=titles, sequences=letters, names=("probability", ""),
                  min_separation=MIN_SEPARATION, path=out)  # fmt: skip
    say(f"{out}: {len(maps)} contact maps" + (f", of the first {PLOTTED} inputs" if next(source, None) else ""))
