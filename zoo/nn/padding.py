"""Masks of a batch that mark its padding."""

import torch
from torch import Tensor


def real_tokens(mask: Tensor) -> Tensor | None:
    """attention_mask [B, N] -> bool [B, N], True for real tokens; None if all are real.

    Waits for the device once. Raises ValueError for a mask with numbers other than 0 and 1.
    """
    if mask.dtype == torch.bool:
        return None if bool(mask.all()) else mask
    real = mask != 0
    all_real, valid = torch.stack([real.all(), (mask == real).all()]).tolist()
    if not valid:
        odd = mask[mask != real][0].item()
        raise ValueError(f"attention_mask contains {odd}: expected 1 (or True) for real tokens and 0 for padding")
    return None if all_real else real
