"""What a run of pairs shows of itself: pictures to search in, and a sheet of texts with what was found for them."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from zoo.data.keyed_batches import Keys
from zoo.data.pairs.dataset import PairDataset, PairSplits
from zoo.retrieval import html_page
from zoo.training.run import Run
from zoo.utils import distributed

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from zoo.training.result import Result

SHOWN = 200  # test pictures that are written as files
QUERIES, ANSWERS = 8, 6  # of the sheet
PAGED, PAGE_ANSWERS = 24, 8  # of the page


def save_images(run: Run, sets: PairSplits[Tensor]) -> Path:
    """Test pictures as files, something to search in; returns their folder."""
    from PIL import Image

    assert run.folder is not None
    folder = run.folder.path / "pictures"
    if distributed.rank() == 0:
        folder.mkdir(exist_ok=True)
        for number in range(min(SHOWN, len(sets.test))):
            file = folder / f"{number:03d} {file_name(sets.test.captions[number][0])}.png"
            Image.fromarray(sets.test.items[number].permute(1, 2, 0).numpy()).save(file)
    return folder


def file_name(text: str) -> str:
    """A caption as part of a file's name."""
    return "".join(c if c.isalnum() or c in " -" else "_" for c in text)[:60].strip()


def retrieval(run: "Run", task: Any, result: "Result") -> "Figure | None":
    """Some test captions with the pictures found for them, best first, the right ones framed; all things, sounds too,
    also as a page, `retrieval.html`.
    """
    from torch.distributed.fsdp import FSDPModule

    data = getattr(task.trainer, "datamodule", None)
    pairs: PairDataset[Any] | None = getattr(data, "test_pairs", None)
    if pairs is None or isinstance(task.model, FSDPModule):
        return None
    rows = some_rows(pairs, PAGED)
    found, scores = ranked(task.evaluated, data, rows)
    write_page(run, pairs, rows, found, scores, headline(pairs, result))
    return sheet(pairs, rows, found, scores, headline(pairs, result)) if isinstance(pairs.items, Tensor) else None


def some_rows(pairs: PairDataset[Any], count: int) -> Tensor:
    """Rows of different captions, spread over a set."""
    first: dict[str, int] = {}
    for row in torch.randperm(len(pairs), generator=torch.Generator().manual_seed(0)).tolist():
        first.setdefault(pairs.captions[row][0], row)
    return torch.tensor(sorted(list(first.values())[:count]))


def headline(pairs: PairDataset[Any], result: "Result") -> str:
    """What is seen, and the figure."""
    thing = "image" if isinstance(pairs.items, Tensor) else "audio"
    share = result.figures.get(f"test_text_to_{thing}_r1")
    kind = {"image": "picture", "audio": "sound"}[thing]
    return f"text to {kind} among {len(pairs)} of the test" + ("" if share is None else f", R@1 {share:.1%}")


def write_page(run: "Run", pairs: PairDataset[Any], rows: Tensor, found: Tensor, scores: Tensor, title: str) -> None:
    """`retrieval.html`: what was found for captions, to look at and to listen to."""
    assert run.folder is not None and run.data is not None
    results = []
    for row, best, score in zip(rows.tolist(), found.tolist(), scores.tolist()):
        cards = [html_page.Card(thing(pairs, i), value, pairs.captions[i][0], right=is_right(pairs, i, row))
                 for i, value in zip(best, score)]  # fmt: skip
        results.append((pairs.captions[row][0], cards))
    note = f"{run.data.name} ({'real' if run.data.real else 'NOT REAL DATA'}; {run.data.source})"
    html_page.write_page(run.folder.path / "retrieval.html", results, title=title, note=note)


def thing(pairs: PairDataset[Any], row: int) -> Any:
    """A picture uint8 [C, H, W], or (waveform, rate)."""
    return pairs.items[row] if isinstance(pairs.items, Tensor) else (pairs.items[row], pairs.items.sampling_rate)


def is_right(pairs: PairDataset[Any], row: int, asked: int) -> bool:
    """Whether what is said of one thing holds of another."""
    return row == asked if pairs.classes is None else bool(pairs.classes[row] == pairs.classes[asked])


def sheet(pairs: PairDataset[Tensor], rows: Tensor, found: Tensor, scores: Tensor, title: str) -> "Figure":
    """The first queries in one picture."""
    from matplotlib.figure import Figure

    rows, found, scores = rows[:QUERIES], found[:QUERIES, :ANSWERS], scores[:QUERIES, :ANSWERS]
    figure = Figure(figsize=(1.25 * ANSWERS + 3.4, 1.3 * len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), ANSWERS + 1, squeeze=False, width_ratios=[2.6] + [1] * ANSWERS)
    for line, row, best, score in zip(axes, rows.tolist(), found.tolist(), scores.tolist()):
        line[0].text(1, 0.5, wrapped(pairs.captions[row][0]), ha="right", va="center", fontsize=9)
        for place, (number, value) in enumerate(zip(best, score), 1):
            show(line[place], pairs.items[number], f"{value:.2f}", right=is_right(pairs, number, row))
        for empty in (line[0], *line[1 + len(best) :]):
            empty.set_axis_off()
    figure.suptitle(title)
    return figure


def show(axis: Any, picture: Tensor, title: str, *, right: bool) -> None:
    """One picture with its score, framed if it is the right one."""
    axis.imshow(picture.permute(1, 2, 0).numpy(), interpolation="nearest")
    axis.set_title(title, fontsize=7, pad=2)
    axis.set_xticks([])
    axis.set_yticks([])
    for spine in axis.spines.values():
        spine.set(color="tab:green" if right else "0.8", linewidth=3 if right else 0.5)


@torch.no_grad()
def ranked(model: Any, data: Any, rows: Tensor) -> tuple[Tensor, Tensor]:
    """(numbers, scores), best first, both [len(rows), at most PAGE_ANSWERS], of the test things most like captions."""
    model.eval()
    device = next(model.parameters()).device
    items, texts = [], []
    for batch in batches(data.test, len(data.test)):
        ready = data.ready({name: value.to(device) for name, value in batch.items()})
        output = model(**{name: ready[name] for name in model.inputs if name in ready})
        (other,) = (name for name in output.present if name != "text")
        items.append(output.features(other).float().cpu())
        texts.append(output.features("text").float().cpu())
    scores = torch.cat(texts)[rows] @ torch.cat(items).T
    best = scores.topk(min(PAGE_ANSWERS, scores.shape[1]))
    return best.indices, best.values


def batches(rows: Any, count: int, size: int = 256) -> Sequence[dict[str, Tensor]]:
    """A set of pairs, in its order."""
    return [rows.__getitems__(Keys(list(range(i, min(i + size, count))), 0)) for i in range(0, count, size)]


def wrapped(text: str, width: int = 26) -> str:
    """A caption in lines of some letters."""
    import textwrap

    return "\n".join(textwrap.wrap(text, width)[:4])
