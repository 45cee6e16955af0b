"""ESM-2 (Lin et al. 2023) and ESM-1b (Rives et al. 2021): BERT for proteins, with a token for each residue."""

from zoo.models.esm.model import FAMILY, Esm, EsmConfig

__all__ = ["FAMILY", "Esm", "EsmConfig"]
