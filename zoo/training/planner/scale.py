"""From the traces of few blocks and rows to those of many."""

from dataclasses import replace

from zoo.parallel.exchanges import add_up
from zoo.training.planner.trace import NUMBERS, Segment, Trace, Work


def repeated(found: Trace, depth: int) -> Trace:
    """A trace of three blocks as one of `depth` blocks, with copies of the second one above each other in memory."""
    segments = list(found.segments)
    at, back = (i for i, s in enumerate(segments) if s.unit == "blocks.1")  # its forward and its backward pass
    kept, count = segments[at + 1].after - segments[at - 1].after, depth - 3
    made: list[Segment] = []
    for i, segment in enumerate(segments):
        if i == at:
            for number in range(count + 1):
                made.append(lifted(segment, number * kept, f"blocks.{number + 1}"))
                if number < count:
                    made.append(lifted(segments[i + 1], number * kept, ""))
        elif i == back:
            made.extend(lifted(segment, n * kept, f"blocks.{n + 1}") for n in reversed(range(count + 1)))
        else:
            unit = f"blocks.{depth - 1}" if segment.unit == "blocks.2" else segment.unit
            made.append(lifted(segment, count * kept if at < i < back else 0, unit))
    return replace(found, segments=tuple(made))


def lifted(segment: Segment, size: int, unit: str) -> Segment:
    """A segment with `size` more bytes below it."""
    return replace(segment, unit=unit, peak=segment.peak + size, after=segment.after + size)


def of_rows(one: Trace, two: Trace, rows: int) -> Trace:
    """The trace of a microbatch of any number of rows, from those of one row and of two."""

    def at(a: float, b: float) -> float:
        return max(0, a + (rows - 1) * (b - a))

    segments = []
    for a, b in zip(one.segments, two.segments, strict=True):
        of_one = {(x.operation, x.over): x for x in add_up(a.work.exchanges)}
        exchanges = []
        for y in add_up(b.work.exchanges):
            x = of_one[y.operation, y.over]
            exchanges.append(replace(y, count=int(at(x.count, y.count)), bytes=int(at(x.bytes, y.bytes))))
        work = Work(exchanges=exchanges)
        for name in NUMBERS:
            setattr(work, name, at(getattr(a.work, name), getattr(b.work, name)))
        segments.append(Segment(a.phase, a.unit, int(at(a.peak, b.peak)), int(at(a.after, b.after)), work))
    return Trace(tuple(segments), int(at(one.hidden, two.hidden)))
