"""The CTC loss (Graves et al. 2006, https://www.cs.toronto.edu/~graves/icml_2006.pdf) and checks of its inputs."""

import torch
import torch.nn.functional as F
from torch import Tensor


def ctc_loss(
    logits: Tensor, frames: Tensor, labels: Tensor, label_lengths: Tensor, *, blank: int = 0, reduction: str = "mean"
) -> Tensor:
    """CTC loss, the negative log probability of the texts, by `torch.nn.functional.ctc_loss`.

    Under `torch.use_deterministic_algorithms` a GPU leaves it to the CPU, which adds gradients in a fixed order.

    Args:
        logits: [B, N, V], any dtype; computed in float32 or higher precision.
        frames: [B], number of real frames of each row.
        labels: int64 [B, L], ids of the texts; values after their lengths are ignored.
        label_lengths: [B].
        reduction: `mean` (each loss divided by the length of its text, then averaged), `sum` or `none` ([B]).

    Raises: ValueError for a text that needs more frames than its clip has; checked for labels on the CPU.
    """
    if labels.ndim != 2 or labels.is_floating_point():
        raise ValueError(f"labels of shape {list(labels.shape)} and {labels.dtype}: expected whole numbers [B, L]")
    labels, label_lengths = labels.long(), label_lengths.long()
    if labels.device.type == "cpu":
        needed = frames_needed(labels, label_lengths)
        if len(short := (needed > frames.cpu()).nonzero()):
            i = int(short[0, 0])
            raise ValueError(
                f"row {i}: {int(label_lengths[i])} symbols need at least {int(needed[i])} frames, but the clip has "
                f"{int(frames[i])}; use a model with a smaller stride, or remove such clips"
            )
    upcast = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
    log_p = upcast.log_softmax(-1).transpose(0, 1)  # [N, B, V]
    if log_p.is_cuda and torch.are_deterministic_algorithms_enabled():  # torch's gradient on a GPU is not
        log_p, labels, frames, label_lengths = (x.cpu() for x in (log_p, labels, frames, label_lengths))
    loss = F.ctc_loss(log_p, labels, frames, label_lengths, blank=blank, reduction=reduction)
    return loss.to(logits.device)


def frames_needed(labels: Tensor, label_lengths: Tensor) -> Tensor:
    """Number of frames that texts [B, L] need, [B]: one per symbol, and a blank between equal neighbors."""
    positions = torch.arange(labels.shape[1] - 1, device=labels.device) if labels.shape[1] else labels.new_zeros(0)
    repeated = (labels[:, 1:] == labels[:, :-1]) & (positions + 1 < label_lengths[:, None])
    return label_lengths + repeated.sum(1)


def check_logits(logits: Tensor, frames: Tensor | None, blank: int) -> None:
    """Raise ValueError for logits, frames or a blank id that do not fit together."""
    if logits.ndim != 3 or not logits.is_floating_point():
        raise ValueError(f"logits: expected floats [B, N, V], got {list(logits.shape)} of {logits.dtype}")
    rows, length, symbols = logits.shape
    if not 0 <= blank < symbols:
        raise ValueError(f"blank={blank}: expected 0 to {symbols - 1}, as the logits have {symbols} symbols")
    if frames is None:
        return
    if frames.shape != (rows,) or (rows and not 0 <= int(frames.min()) <= int(frames.max()) <= length):
        raise ValueError(f"frames: expected {rows} numbers from 0 to {length}, got {frames.tolist()}")
