"""The memory that a real run takes."""

from collections.abc import Callable

from torch.profiler import ProfilerActivity, profile


def most_allocated(run: Callable[[], object]) -> int:
    """Bytes of the tensors that exist at the same time at most, of those that `run` makes."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        run()
    events = found.profiler.kineto_results.events()  # type: ignore[union-attr]
    now = most = 0
    for _, size in sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]"):
        now += size
        most = max(most, now)
    return most
