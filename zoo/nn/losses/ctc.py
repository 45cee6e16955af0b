"""The CTC loss (Graves et al. 2006, https://www.cs.toronto.edu/~graves/icml_2006.pdf), and the frames a text needs."""

import torch
import torch.nn.functional as F
from torch import Tensor

# --- loss -------------------------------------------------------------------------------------------------------------


def ctc_loss(
    logits: Tensor, frames: Tensor, labels: Tensor, label_lengths: Tensor, *, blank: int = 0, reduction: str = "mean"
) -> Tensor:
    """Minus the log probability of texts, through `torch.nn.functional.ctc_loss`.

    Args:
        logits: [B, N, V], any dtype; computed in float32 at least.
        frames: [B], how many of the N frames are real.
        labels: int64 [B, L], ids of the texts, anything behind their lengths.
        label_lengths: [B].
        reduction: `mean` divides each by its text's length and takes the mean, `sum`, or `none` [B].

    Raises: ValueError for a text that has more symbols than its frames can tell apart, where that is known on the host.
    """
    if labels.device.type == "cpu":
        needed = frames_needed(labels, label_lengths)
        if len(short := (needed > frames.cpu()).nonzero()):
            i = int(short[0, 0])
            raise ValueError(
                f"row {i}: {int(label_lengths[i])} symbols need at least {int(needed[i])} frames, the clip has "
                f"{int(frames[i])}; take a model with a smaller stride, or leave such clips out"
            )
    wide = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
    log_p = wide.log_softmax(-1).transpose(0, 1)  # [N, B, V]
    return F.ctc_loss(log_p, labels, frames, label_lengths, blank=blank, reduction=reduction)


def frames_needed(labels: Tensor, label_lengths: Tensor) -> Tensor:
    """[B], the least frames of texts [B, L]: one per symbol, and a blank between two equal neighbors."""
    places = torch.arange(labels.shape[1] - 1, device=labels.device) if labels.shape[1] else labels.new_zeros(0)
    again = (labels[:, 1:] == labels[:, :-1]) & (places + 1 < label_lengths[:, None])
    return label_lengths + again.sum(1)


def _check(logits: Tensor, frames: Tensor | None, blank: int) -> None:
    if logits.ndim != 3 or not logits.is_floating_point():
        raise ValueError(f"logits {list(logits.shape)} of {logits.dtype}: expected scores [B, N, V]")
    rows, most, symbols = logits.shape
    if not 0 <= blank < symbols:
        raise ValueError(f"blank={blank} is none of {symbols} symbols")
    if frames is None:
        return
    if frames.shape != (rows,) or (rows and not 0 <= int(frames.min()) <= int(frames.max()) <= most):
        raise ValueError(f"frames {frames.tolist()}: expected {rows} counts from 0 to {most}")
