"""Which candidate computes each part of an optimized model: measured on the machine at hand.

All candidates of all parts run in turn, several times: a machine that becomes slower for a while affects all of them
equally. A kernel computes one part after the other, as in the model: its code is warm, its weights are not.
"""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import count, pairwise

import torch
from torch import nn

from zoo.inference.optimized_parts import PLAIN, Part, kernel_of
from zoo.inference.packed_linear import ByRows, no_autocast

TIE = 1.03  # a candidate is taken before those that are faster by less
SECOND_COPY = 1.15  # weights are stored for several kernels, by the number of rows, if that is faster by more
MIN_ROUNDS, MAX_ROUNDS, SECONDS = 3, 7, 0.25  # rounds after the first, which is not counted; CPU time

# {key of a part: {number of rows: {candidate: median seconds}}}, and the candidate that is chosen for each
Seconds = dict[str, dict[int, dict[str, float]]]
Choices = dict[str, dict[int, str]]


@dataclass(frozen=True, eq=False)
class Trial:
    """One call that is timed: a candidate of a part, for a number of rows."""

    key: str
    rows: int
    candidate: str
    call: Callable[[], object]
    device: torch.device
    weights: int


def measure(parts: Mapping[str, Part], device: torch.device) -> Seconds:
    """Median seconds of each candidate of each part (a dict by key)."""
    groups = trials_of(parts, device)
    samples: dict[Trial, list[float]] = {trial: [] for group in groups for trial in group}
    started = time.process_time()
    with torch.inference_mode(), no_autocast(device):
        for number in count():
            if number > MAX_ROUNDS or (number > MIN_ROUNDS and time.process_time() - started > SECONDS):
                break
            for group in groups:
                group[-1].call()  # the code of this kernel is warm, as in the model
                for trial in group:
                    seconds = seconds_of(trial)
                    if number:
                        samples[trial].append(seconds)
    result: Seconds = {}
    for trial, values in samples.items():
        result.setdefault(trial.key, {}).setdefault(trial.rows, {})[trial.candidate] = statistics.median(values)
    return result


def trials_of(parts: Mapping[str, Part], device: torch.device) -> list[list[Trial]]:
    """What is timed, by the number of rows and the kernel; the smallest layer is the last one."""
    groups: dict[tuple[int, str], list[Trial]] = {}
    for key, part in parts.items():
        built = {name: build(part.share) for name, build in part.candidates.items()}
        if len(built) == 1:  # nothing to choose from
            continue
        for rows in part.row_counts:
            x = part.example(rows)
            for name, module in built.items():
                trial = Trial(key, rows, name, partial(module, x), device, part.weights)
                groups.setdefault((rows, kernel_of(name)), []).append(trial)
    return [sorted(groups[key], key=lambda trial: -trial.weights) for key in sorted(groups)]


def seconds_of(trial: Trial) -> float:
    """Seconds of one call: CPU time of one thread, which hardly depends on the load of the machine, else wall time."""
    if trial.device.type == "cuda":
        torch.cuda.synchronize(trial.device)
    clock = time.thread_time if trial.device.type == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    start = clock()
    trial.call()
    if trial.device.type == "cuda":
        torch.cuda.synchronize(trial.device)
    return max(clock() - start, 1e-9)  # the clocks of some systems stand still for milliseconds


def choose(parts: Mapping[str, Part], seconds: Seconds) -> Choices:
    """The candidate of each part for each number of rows: one that is as fast as the fastest, up to a tie."""
    return {key: choose_for(part, seconds.get(key, {})) for key, part in parts.items()}


def choose_for(part: Part, seconds: Mapping[int, Mapping[str, float]]) -> dict[int, str]:
    """The first candidate, in order of preference, that is as fast as the fastest and not slower than as created.

    One for all numbers of rows where it is, up to TIE, or up to SECOND_COPY if several would copy the weights.
    """
    if not seconds:  # there is one candidate
        return dict.fromkeys(part.row_counts, next(iter(part.candidates)))
    slowdown = {  # of each candidate that is not slower than the part as created
        rows: {name: times[name] / min(times.values()) for name in part.candidates if times[name] <= times[PLAIN]}
        for rows, times in seconds.items()
    }
    worst = {
        name: max(by_name[name] for by_name in slowdown.values())
        for name in part.candidates
        if all(name in by_name for by_name in slowdown.values())
    }
    for name, factor in worst.items():
        if factor <= TIE:
            return dict.fromkeys(seconds, name)
    firsts = {
        rows: next(name for name, factor in by_name.items() if factor <= TIE) for rows, by_name in slowdown.items()
    }
    best = min(worst, key=lambda name: worst[name])
    if PLAIN not in firsts.values() and worst[best] <= SECOND_COPY:  # a part as created has the weights of the original
        return dict.fromkeys(seconds, best)
    return firsts


def build(part: Part, chosen: Mapping[int, str]) -> nn.Module | None:
    """The module that computes a part as chosen, a candidate for each number of rows; None for the part as created."""
    counts = sorted(chosen)
    if set(chosen.values()) == {PLAIN}:
        return None
    built = {name: part.candidates[name](1.0) for name in dict.fromkeys(chosen.values())}
    module = built[chosen[counts[-1]]]
    for few, many in reversed(list(pairwise(counts))):
        if chosen[few] != chosen[many]:  # the limit is in the middle between them, as a ratio
            module = ByRows(built[chosen[few]], module, round((few * many) ** 0.5))
    return module
