"""Several texts as one for language modeling: `data=tinyshakespeare+multi30k+python_source`."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from zoo.data.splits import Splits
from zoo.data.text.corpus import Corpus, load_corpus
from zoo.data.text.parallel import load_parallel_texts
from zoo.data.text.python_source import load_python_source
from zoo.data.text_config import MixtureSettings, ParallelTextSettings
from zoo.utils.console import announce
from zoo.utils.errors import DataError
from zoo.utils.keyed_random import seed_for


def load_mixture(settings: MixtureSettings, val_fraction: float, *, seed: int = 0) -> Splits[Corpus]:
    """Load texts and split each of them, so that training and held-out text have the same parts.

    Of `python_source` whole files are held out, of other texts the last `val_fraction`.

    Args:
        settings: Names of the texts, and options.
        val_fraction: Fraction of each text to hold out for validation and test, above 0.
        seed: Chooses the texts of a part that has more than `max_characters`.

    Raises: DataError for another fraction, a text that is missing, unless `on_missing=skip` leaves another one, and as
        `load_corpus`.
    """
    if not 0 < val_fraction < 1:
        lacking = "validation" if val_fraction <= 0 else "training"
        raise DataError(f"val_fraction={val_fraction} leaves no text for {lacking}: use e.g. val_fraction=0.1")
    parts: list[Splits[Corpus]] = []
    missing: list[str] = []
    names = settings.name.split("+")
    if len(set(names)) < len(names):
        raise DataError(f"data={settings.name}: expected texts that are all different")
    for name in names:
        try:
            part = _load_part(name, settings, val_fraction)
        except DataError as error:
            if settings.on_missing == "raise" or len(names) == 1:
                raise DataError(f"{error}; on_missing=skip leaves it out") if len(names) > 1 else error from None
            missing.append(f"{name} ({error})")
            continue
        if settings.max_characters:
            held = max(1, round(settings.max_characters * val_fraction / (1 - val_fraction)))
            train, test = limited(part.train, settings.max_characters, seed), limited(part.test, held, seed)
            part = replace(part, train=train, test=test, validation=test)
        parts.append(part)
    if not parts:
        raise DataError(f"data={settings.name}: none of the texts is there: {'; '.join(missing)}")
    if missing:
        announce(f"left out of the text: {'; '.join(missing)}")
    return joined(parts)


def joined(parts: Sequence[Splits[Corpus]]) -> Splits[Corpus]:
    """Texts one after the other; synthetic if one of them is."""
    if len(parts) == 1:
        return parts[0]
    name, source = "+".join(part.name for part in parts), "; ".join(part.source for part in parts)
    real = all(part.real for part in parts)
    train, test = (
        Corpus([text for one in corpora for text in one.texts], name, real, source)
        for corpora in ([part.train for part in parts], [part.test for part in parts])
    )
    return Splits(train, test, name, real, source, validation=test)


def limited(corpus: Corpus, max_characters: int, seed: int) -> Corpus:
    """A seeded choice of texts, in their order, of so many characters in all; the last one chosen is cut."""
    order = torch.randperm(len(corpus), generator=torch.Generator().manual_seed(seed_for(seed, len(corpus), 3)))
    left, chosen = max_characters, {}
    for row in order.tolist():
        if left <= 0:
            break
        chosen[row] = corpus.texts[row][:left]
        left -= len(chosen[row])
    return replace(corpus, texts=[chosen[row] for row in sorted(chosen)])


def _load_part(name: str, settings: MixtureSettings, val_fraction: float) -> Splits[Corpus]:
    if name == "python_source":
        return load_python_source(val_fraction=val_fraction)
    if name == "multi30k":
        pairs = load_parallel_texts(ParallelTextSettings(name=name, data_dir=settings.data_dir))
        text = "\n".join(pairs.train.sources)
        return Corpus([text], name, True, f"{pairs.source}, English training captions").split_at_end(val_fraction)
    return load_corpus(replace(settings, name=name)).split_at_end(val_fraction)
