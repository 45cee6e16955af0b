"""Which parts of a recording are silent, by the energy of its spectrogram."""

import torch
from torch import Tensor

BELOW = 40.0  # dB below the loud parts of a recording that count as silence
LOUD = 0.95  # quantile of the levels of the frames that is taken as their level


def silent_spans(
    features: Tensor, frame: float, *, min_duration: float = 2.0, margin: float = 0.2
) -> list[tuple[int, int]]:
    """(first frame, frame after the last) of the silences in a spectrogram of Whisper [bins, T].

    A frame is silent if its energy is at least 40 dB below that of the 95th percentile of all frames: pauses in a quiet
    room. It is not a trained detector: noise counts as speech. A recording whose level does not change has no silence,
    but for one of zeros alone.

    Args:
        features: As `WhisperProcessor.long_features` gives them.
        frame: Seconds of a frame.
        min_duration: Seconds; shorter silences are left in.
        margin: Seconds of each silence beside speech that do not count as silent.
    """
    level = 10 * (10.0 ** (4 * features.double() - 4)).mean(0).log10()  # dB
    loud = level.kthvalue(max(1, round(LOUD * len(level)))).values
    same = bool(features.max() == features.min())
    silent = torch.full_like(level, same, dtype=torch.bool) | (level < loud - BELOW)
    edges = torch.nn.functional.pad(silent.int(), (1, 1)).diff().nonzero()[:, 0].view(-1, 2).tolist()
    inner, found = round(margin / frame), []
    for start, stop in edges:
        if (stop - start) * frame < min_duration:
            continue
        start, stop = start + inner * (start > 0), stop - inner * (stop < len(level))
        if start < stop:
            found.append((start, stop))
    return found
