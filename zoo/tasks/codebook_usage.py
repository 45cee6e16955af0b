"""How much of a codebook is used: fraction of the codes, and perplexity of their frequencies."""

import torch
from torch import Tensor
from torchmetrics import Metric


class CodebookUsage(Metric):
    """The fraction of the codes of a codebook that occur in the tokens of a data set, and their perplexity.

    The perplexity is the exponential of the entropy of the frequencies: the number of codes that, used equally often,
    would have the same entropy.

    Args:
        vocab_size: Number of codes.
    """

    full_state_update = False
    higher_is_better = True
    counts: Tensor

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.add_state("counts", default=torch.zeros(vocab_size, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, ids: Tensor) -> None:
        """Count the tokens ids, of any shape."""
        self.counts += torch.bincount(ids.flatten(), minlength=len(self.counts))

    def compute(self) -> dict[str, Tensor]:
        """{"codebook_use": from 0 to 1, "perplexity": from 1 to the number of codes}."""
        p = self.counts.double() / self.counts.sum().clamp(min=1)
        entropy = -torch.xlogy(p, p).sum()
        return {"codebook_use": (self.counts > 0).double().mean(), "perplexity": entropy.exp()}
