"""What a run of pairs shows of itself: pictures to search in, and a sheet of texts with what was found for them."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from zoo.data.pairs import PairSet, PairSets
from zoo.run import hardware
from zoo.run.run import Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from zoo.run.run import Result

SHOWN = 200  # test pictures that are written as files
QUERIES, ANSWERS = 8, 6  # of the sheet


def save_pictures(run: Run, sets: PairSets[Tensor]) -> Path:
    """Test pictures as files, something to search in; returns their folder."""
    from PIL import Image

    assert run.folder is not None
    folder = run.folder.path / "pictures"
    if hardware.rank() == 0:
        folder.mkdir(exist_ok=True)
        for number in range(min(SHOWN, len(sets.test))):
            file = folder / f"{number:03d} {file_name(sets.test.captions[number][0])}.png"
            Image.fromarray(sets.test.things[number].permute(1, 2, 0).numpy()).save(file)
    return folder


def file_name(text: str) -> str:
    """A caption as part of a file's name."""
    return "".join(c if c.isalnum() or c in " -" else "_" for c in text)[:60].strip()


def retrieval(run: "Run", task: Any, result: "Result") -> "Figure | None":
    """Some test captions with the pictures found for them, best first; the right one is framed."""
    from matplotlib.figure import Figure
    from torch.distributed.fsdp import FSDPModule

    data = getattr(task.trainer, "datamodule", None)
    pairs: PairSet[Tensor] | None = getattr(data, "shown", None)
    if pairs is None or isinstance(task.model, FSDPModule):
        return None
    rows = torch.linspace(0, len(pairs) - 1, min(QUERIES, len(pairs))).long()
    found, scores = ranked(task.evaluated, data, rows)
    figure = Figure(figsize=(1.25 * ANSWERS + 3.4, 1.3 * len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), ANSWERS + 1, squeeze=False, width_ratios=[2.6] + [1] * ANSWERS)
    for line, row, best, score in zip(axes, rows.tolist(), found.tolist(), scores.tolist()):
        line[0].text(1, 0.5, wrapped(pairs.captions[row][0]), ha="right", va="center", fontsize=9)
        line[0].set_axis_off()
        for place, (number, value) in enumerate(zip(best, score), 1):
            show(line[place], pairs.things[number], f"{value:.2f}", right=number == row)
        for rest in line[1 + len(best) :]:
            rest.set_axis_off()
    share = result.figures.get("test_text_to_image_r1")
    figure.suptitle(f"text to picture among {len(pairs)} test pictures" + (f", R@1 {share:.1%}" if share else ""))
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
    """(numbers, scores), both [len(rows), ANSWERS], of the test pictures most like the captions of `rows`."""
    model.eval()
    device = next(model.parameters()).device
    pictures, texts = [], []
    for batch in batches(data.test, len(data.test)):
        ready = data.ready({name: value.to(device) for name, value in batch.items()})
        output = model(**{name: ready[name] for name in model.inputs if name in ready})
        pictures.append(output.image_features.float().cpu())
        texts.append(output.text_features.float().cpu())
    scores = torch.cat(texts)[rows] @ torch.cat(pictures).T
    best = scores.topk(min(ANSWERS, scores.shape[1]))
    return best.indices, best.values


def batches(rows: Any, count: int, size: int = 256) -> Sequence[dict[str, Tensor]]:
    """A set of pairs, in its order."""
    from zoo.data.loader import Keys

    return [rows.__getitems__(Keys(list(range(i, min(i + size, count))), 0)) for i in range(0, count, size)]


def wrapped(text: str, width: int = 26) -> str:
    """A caption in lines of some letters."""
    import textwrap

    return "\n".join(textwrap.wrap(text, width)[:4])
