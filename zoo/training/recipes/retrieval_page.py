"""Retrieval results of a contrastive run: test images as files, a plot, and an HTML page."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.fabric.utilities.apply_func import move_data_to_device
from torch import Tensor

from zoo.data.audio.tables import AudioClips
from zoo.data.keyed_batches import Keys
from zoo.data.pairs.datamodule import PairDataModule
from zoo.data.pairs.dataset import PairDataset
from zoo.retrieval import html_page
from zoo.training.run import Run
from zoo.training.run_dir import RunFolder
from zoo.utils import distributed
from zoo.utils.escape import figure_text
from zoo.utils.plotting import display_width, make_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from zoo.training.result import Result

MAX_IMAGES = 200  # test images that are saved as files
PLOT_QUERIES, PLOT_RESULTS = 8, 6
PAGE_QUERIES, PAGE_RESULTS = 24, 8


def save_images(run_folder: RunFolder, pairs: PairDataset[Tensor]) -> Path:
    """Save test images as files, to search in; returns their folder."""
    from PIL import Image

    folder = run_folder.path / "images"
    if distributed.rank() == 0:
        folder.mkdir(exist_ok=True)
        for number in range(min(MAX_IMAGES, len(pairs))):
            file = folder / f"{number:03d} {file_name(pairs.captions[number][0])}.png"
            Image.fromarray(pairs.items[number].permute(1, 2, 0).numpy()).save(file)
    return folder


def file_name(text: str) -> str:
    """A caption as part of a file name."""
    return "".join(c if c.isalnum() or c in " -" else "_" for c in text)[:60].strip()


def retrieval(run: "Run", task: Any, result: "Result") -> "Figure | None":
    """Plot of the best results for some test captions (images only); also writes `retrieval.html`."""
    data = getattr(task.trainer, "datamodule", None)
    if not isinstance(data, PairDataModule):
        return None
    pairs: PairDataset[Any] = data.splits.test
    rows = sample_rows(pairs, PAGE_QUERIES)
    found, scores = search(task.evaluated, data, rows)
    title = page_title(pairs, result)
    write_page(run, pairs, rows, found, scores, title)
    return None if isinstance(pairs.items, AudioClips) else plot_results(pairs, rows, found, scores, title)


def sample_rows(pairs: PairDataset[Any], count: int) -> Tensor:
    """Random rows with different captions."""
    first: dict[str, int] = {}
    for row in torch.randperm(len(pairs), generator=torch.Generator().manual_seed(0)).tolist():
        first.setdefault(pairs.captions[row][0], row)
        if len(first) == count:
            break
    return torch.tensor(sorted(first.values()))


def page_title(pairs: PairDataset[Any], result: "Result") -> str:
    """Title with the modality, the number of test items and R@1."""
    modality = "audio" if isinstance(pairs.items, AudioClips) else "image"
    recall = result.metrics.get(f"test_text_to_{modality}_r1")
    title = f"text-to-{modality} retrieval, {len(pairs)} test items"
    return title if recall is None else f"{title}, R@1 {recall:.1%}"


def write_page(run: "Run", pairs: PairDataset[Any], rows: Tensor, found: Tensor, scores: Tensor, title: str) -> None:
    """Write `retrieval.html`: the best results for captions, as images or audio players."""
    assert run.folder is not None and run.data is not None
    results = []
    for row, best, score in zip(rows.tolist(), found.tolist(), scores.tolist()):
        cards = [html_page.Card(get_item(pairs, i), value, pairs.captions[i][0], right=is_correct(pairs, i, row))
                 for i, value in zip(best, score)]  # fmt: skip
        results.append((pairs.captions[row][0], cards))
    note = f"{run.data.name} ({run.data.kind}; {run.data.source})"
    html_page.write_page(run.folder.path / "retrieval.html", results, title=title, note=note)


def get_item(pairs: PairDataset[Any], row: int) -> Any:
    """An image, uint8 [C, H, W], or (waveform, sampling rate)."""
    return (pairs.items[row], pairs.items.sampling_rate) if isinstance(pairs.items, AudioClips) else pairs.items[row]


def is_correct(pairs: PairDataset[Any], row: int, query: int) -> bool:
    """Whether an item is a correct result for the caption of row `query`."""
    return row == query if pairs.classes is None else bool(pairs.classes[row] == pairs.classes[query])


def plot_results(pairs: PairDataset[Tensor], rows: Tensor, found: Tensor, scores: Tensor, title: str) -> "Figure":
    """Plot the results of the first queries; correct ones have a green frame."""
    rows, found, scores = (x[:PLOT_QUERIES] for x in (rows, found[:, :PLOT_RESULTS], scores[:, :PLOT_RESULTS]))
    count = found.shape[1]
    figure = make_figure(max(6.5, 1.25 * count + 3.4), 1.3 * len(rows) + 0.5)
    axes = figure.subplots(len(rows), count + 1, squeeze=False, width_ratios=[2.6] + [1] * count)
    for line, row, best, score in zip(axes, rows.tolist(), found.tolist(), scores.tolist()):
        line[0].text(1, 0.5, figure_text(wrap(pairs.captions[row][0])), ha="right", va="center", fontsize=9)
        for column, (number, value) in enumerate(zip(best, score), 1):
            plot_image(line[column], pairs.items[number], f"{value:.2f}", correct=is_correct(pairs, number, row))
        line[0].set_axis_off()
    figure.suptitle(f"{figure_text(title)}\nscores of the best results; a thick green frame: correct", fontsize=10)
    return figure


def plot_image(axis: Any, image: Tensor, title: str, *, correct: bool) -> None:
    """Plot one image with its score, with a green frame if it is correct."""
    axis.imshow(image.permute(1, 2, 0).numpy(), interpolation="nearest")
    axis.set_title(title, fontsize=7, pad=2)
    axis.set_xticks([])
    axis.set_yticks([])
    for spine in axis.spines.values():
        spine.set(color="tab:green" if correct else "0.8", linewidth=3 if correct else 0.5)


@torch.no_grad()
def search(model: Any, data: Any, rows: Tensor) -> tuple[Tensor, Tensor]:
    """(indices, scores) of the test items most similar to captions, best first, [len(rows), at most PAGE_RESULTS]."""
    model.eval()
    device = next(model.parameters()).device
    items, texts = [], []
    for batch in batches(data.test, len(data.test)):
        ready = data.ready(move_data_to_device(batch, device))
        output = model(**{name: ready[name] for name in model.inputs if name in ready})
        (other,) = (name for name in output.present if name != "text")
        items.append(output.features(other).float().cpu())
        texts.append(output.features("text").float().cpu())
    scores = torch.cat(texts)[rows] @ torch.cat(items).T
    best = scores.topk(min(PAGE_RESULTS, scores.shape[1]))
    return best.indices, best.values


def batches(rows: Any, count: int, size: int = 256) -> Sequence[dict[str, Tensor]]:
    """Batches of a dataset of pairs, in order."""
    return [rows.__getitems__(Keys(list(range(i, min(i + size, count))), 0)) for i in range(0, count, size)]


def wrap(text: str, width: int = 26) -> str:
    """A caption, wrapped to at most four lines."""
    import textwrap

    if display_width(text) > len(text):
        width //= 2
    return "\n".join(textwrap.wrap(text, width, max_lines=4, placeholder=" …"))
