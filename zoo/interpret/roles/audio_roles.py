"""Roles of heads over audio: neighbors in time and frequency, onsets and harmonics of generated tones."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.interpret.plot_audio import mel_bin
from zoo.interpret.roles.batches import PositionBins, RoleBatch, Target, grid_offsets, split_rows
from zoo.preprocessing.audio import name_of

TONES = 16  # generated clips of each kind
SECONDS = 2.0  # of the longest generated clip
NOISE = 1e-3
ONSETS = 3  # in a generated clip


@dataclass(frozen=True)
class TokenGrid:
    """The tokens of an audio model: `prefix` others, then rows of frequency with columns of time.

    Attributes:
        prefix: Number of tokens before those of the audio.
        times: (start, end) of each column in samples [columns, 2].
        bands: (lowest, end) mel bin of each row [rows, 2]; None for tokens that have all frequencies.
        whole: Whether only columns that end within a clip are real; otherwise those whose middle is.
    """

    prefix: int
    times: Tensor
    bands: Tensor | None = None
    whole: bool = False

    @property
    def grid(self) -> tuple[int, int]:
        return (1 if self.bands is None else len(self.bands)), len(self.times)

    @property
    def tokens(self) -> int:
        return self.prefix + math.prod(self.grid)

    def real_columns(self, samples: int) -> Tensor:
        """The columns that are real in a clip of so many samples, bool [columns]."""
        return self.times[:, 1] <= samples if self.whole else self.times.mean(1) < samples

    def over(self, patches: Tensor) -> Tensor:
        """Flags of patches [rows, columns] -> of tokens [N], False for the prefix."""
        return F.pad(patches.flatten(), (self.prefix, 0))


def token_grid(model: Any, processor: Any, samples: int) -> TokenGrid:
    """The tokens of a clip of so many samples; spectrograms have a fixed number, waveforms have those of the clip."""
    if hasattr(model, "waves"):
        starts = torch.arange(int(model.frames(samples))).double() * math.prod(model.config.conv_strides)
        return TokenGrid(0, torch.stack([starts, starts + model.waves.min_samples], 1), whole=True)
    frame = processor.frame_shift / 1000 * processor.sampling_rate
    if not hasattr(model, "patches"):  # Whisper, two frames for a token
        starts = torch.arange(model.config.frames // 2).double() * 2 * frame
        return TokenGrid(0, torch.stack([starts, starts + 2 * frame], 1))
    (rows, columns), (high, wide) = model.patches.grid, model.patches.patch_size
    up, right = model.patches.proj.stride
    starts, bands = torch.arange(columns).double() * right, torch.arange(rows) * up
    times = torch.stack([starts, starts + wide], 1) * frame
    return TokenGrid(model.patches.prefix, times, torch.stack([bands, bands + high], 1) if rows > 1 else None)


def audio_batches(model: Any, processor: Any, clips: Sequence[Any], sampling_rate: int | None) -> Iterator[RoleBatch]:
    """Batches of the given clips: each alone in length for the roles of neighbors, and cut to equal length for those of
    positions."""
    waves = [processor.load(clip, name_of(clip, i), sampling_rate) for i, clip in enumerate(clips)]
    for index, wave in enumerate(waves):
        processor.check_length(name_of(clips[index], index), len(wave))
    shortest = min(map(len, waves))
    for indices in split_rows([token_grid(model, processor, len(wave)).tokens for wave in waves]):
        yield clip_batch(model, processor, [waves[i] for i in indices])
    if len(waves) > 1:
        for indices in split_rows([token_grid(model, processor, shortest).tokens] * len(waves)):
            yield position_batch(model, processor, [waves[i][:shortest] for i in indices])


def inputs_of(processor: Any, waves: Sequence[Tensor]) -> dict[str, Tensor]:
    inputs: dict[str, Tensor] = processor([(wave, processor.sampling_rate) for wave in waves])
    return inputs


def clip_batch(model: Any, processor: Any, waves: Sequence[Tensor]) -> RoleBatch:
    """A batch of clips with the roles of neighbors in time, and on spectrograms also in frequency."""
    grid = token_grid(model, processor, max(map(len, waves)))
    queries = real_tokens(grid, list(map(len, waves)))
    rows, columns = grid.grid
    patch = torch.arange(rows * columns)
    down, right = patch // columns, patch % columns
    same_row, step = down[:, None] == down, right[None] - right[:, None]

    def over(weights: Tensor) -> Tensor:
        return F.pad(weights, (grid.prefix, 0, grid.prefix, 0))[None]

    column = torch.arange(grid.tokens) - grid.prefix
    later = queries & (column % columns > 0)
    earlier = queries & F.pad(queries[:, 1:], (0, 1)) & (column % columns < columns - 1)
    targets = {
        "previous": Target(over(same_row & (step == -1)), later),
        "next": Target(over(same_row & (step == 1)), earlier),
        "same": Target(over(patch[:, None] == patch), queries),
    }
    if rows > 1:
        near = torch.maximum((down[:, None] - down).abs(), step.abs()) == 1
        targets["local"] = Target(over(near), queries)
    if grid.prefix:
        targets["first"] = Target((torch.arange(grid.tokens) == 0)[None, None], queries)
    return RoleBatch(inputs_of(processor, waves), {"encoder": targets})


def real_tokens(grid: TokenGrid, lengths: Sequence[int]) -> Tensor:
    """The tokens of clips with these numbers of samples that are not padding [B, N]."""
    return torch.stack([grid.over(grid.real_columns(length).expand(grid.grid)) for length in lengths])


def position_batch(model: Any, processor: Any, waves: Sequence[Tensor]) -> RoleBatch:
    """A batch of clips of equal length for the roles of positions."""
    grid = token_grid(model, processor, len(waves[0]))
    queries = real_tokens(grid, [len(waves[0])])[0]
    bins = PositionBins(grid_offsets(grid.grid, grid.prefix), queries)
    return RoleBatch(inputs_of(processor, waves), positions={"encoder": bins})


# --- generated tones ----------------------------------------------------------------------------------------------


def tone_batches(model: Any, processor: Any, seed: int) -> tuple[list[RoleBatch], dict[str, str]]:
    """(batches of generated clips, {role: why it is left out})."""
    rate, most = processor.sampling_rate, processor.max_samples
    samples = int(min(SECONDS * rate, most or math.inf))
    grid = token_grid(model, processor, samples)
    generator = torch.Generator().manual_seed(seed)
    sizes = [len(indices) for indices in split_rows([grid.tokens] * TONES)]
    batches: list[RoleBatch] = []
    left_out: dict[str, str] = {}
    if int(grid.real_columns(samples).sum()) < 8:
        left_out["onset"] = f"a clip of {samples / rate:.2g} s has less than 8 tokens in time"
    else:
        batches += [onset_batch(processor, grid, samples, size, generator) for size in sizes]
    if grid.bands is None:
        left_out["harmonic"] = "each token has all frequencies of its time"
    elif len(grid.bands) < 4:
        left_out["harmonic"] = (
            f"the model has {len(grid.bands)} rows of patches: expected at least 4 bands of frequency"
        )
    else:
        batches += [harmonic_batch(processor, grid, samples, size, generator) for size in sizes]
    return batches, left_out


def onset_batch(processor: Any, grid: TokenGrid, samples: int, rows: int, generator: torch.Generator) -> RoleBatch:
    """Clips of tones that begin abruptly and fade away, at random times; targets are the tokens in which one begins."""
    rate = processor.sampling_rate
    line = torch.arange(samples) / rate
    waves, begins = [], []
    for _ in range(rows):
        shifts = torch.rand(ONSETS, generator=generator)
        times = (torch.arange(ONSETS) + 0.15 + 0.7 * shifts) * samples / ONSETS
        wave = NOISE * torch.randn(samples, generator=generator)
        for time in times.tolist():
            hertz = 200 * 8 ** torch.rand(1, generator=generator)
            since = (line - time / rate).clamp(min=0)
            wave += 0.3 * torch.sin(2 * math.pi * hertz * since) * torch.exp(-8 * ONSETS * rate / samples * since)
        waves.append(wave)
        inside = (grid.times[:, None, 0] <= times) & (times < grid.times[:, None, 1])  # columns x onsets
        begins.append(grid.over(inside.any(1).expand(grid.grid)))
    targets = torch.stack(begins)
    queries = real_tokens(grid, [samples])[0] & ~targets
    return RoleBatch(inputs_of(processor, waves), {"encoder": {"onset": Target(targets[:, None], queries)}})


def harmonic_batch(processor: Any, grid: TokenGrid, samples: int, rows: int, generator: torch.Generator) -> RoleBatch:
    """Clips of two steady partials of one tone, octaves apart. Queries are the patches that have one of them; they look
    at patches of the same time that have the other one, not at those without any."""
    line = torch.arange(samples) / processor.sampling_rate
    columns = grid.grid[1]
    column = torch.arange(math.prod(grid.grid)) % columns
    real = real_tokens(grid, [samples])[0]
    waves, weights, queries = [], [], []
    for _ in range(rows):
        partials, bands = two_partials(processor, grid, generator)
        phases = 2 * math.pi * torch.rand(2, generator=generator)
        angles = [2 * math.pi * hertz * line + phase for hertz, phase in zip(partials, phases, strict=True)]
        noise = NOISE * torch.randn(samples, generator=generator)
        waves.append(0.25 * torch.stack(angles).sin().sum(0) + noise)
        of_patch = bands[:, None].expand(grid.grid).flatten()
        pair = (of_patch[:, None] + of_patch == 3).float() - (of_patch == 0).float()
        pair = pair * (column[:, None] == column)
        weights.append(F.pad(pair, (grid.prefix, 0, grid.prefix, 0)))
        queries.append(grid.over(of_patch > 0) & real)
    target = Target(torch.stack(weights), torch.stack(queries))
    return RoleBatch(inputs_of(processor, waves), {"encoder": {"harmonic": target}})


def two_partials(processor: Any, grid: TokenGrid, generator: torch.Generator) -> tuple[list[float], Tensor]:
    """(frequencies in Hz of two partials that no row has both of; 1 for rows with the first, 2 with the second)."""
    assert grid.bands is not None
    lowest, highest = max(100.0, 1.5 * processor.low_freq), 0.45 * processor.sampling_rate
    while True:
        octaves, place = torch.rand(2, generator=generator).tolist()
        ratio = 2 ** (1 + int(octaves * 5))
        if lowest * ratio >= highest:
            continue
        base = lowest * (highest / ratio / lowest) ** place
        partials = [base, base * ratio]
        centers = torch.tensor([mel_bin(processor, processor.num_mel_bins, hertz) for hertz in partials])
        holds = (grid.bands[:, :1] - 0.5 <= centers) & (centers < grid.bands[:, 1:] - 0.5)
        if bool(holds.any(0).all()) and not bool(holds.all(1).any()):
            return partials, holds[:, 0] + 2 * holds[:, 1]
