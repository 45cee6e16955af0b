"""What a model of point clouds takes from the data: classes, features of the points; plots of its predictions."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from zoo.data.keyed_batches import Keys
from zoo.data.point_cloud.datamodule import PointCloudDataModule
from zoo.data.point_cloud.dataset import PointCloudSplits
from zoo.data.splits import balanced_rows
from zoo.models.base import Model
from zoo.preprocessing.point_cloud import PointCloudProcessor
from zoo.training.parse import SettingsError
from zoo.training.pretrained import set_classes
from zoo.training.result import Result
from zoo.training.run import Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN, COLUMNS = 10, 5  # clouds of the plot, and those in a row


def point_cloud_model(run: Run, head: str = "classify", **fields: Any) -> Model:
    """The model of the settings. Raises: SettingsError, also for a model that does not take point clouds."""
    c = run.config
    model = run.build_model(head, **fields)
    if model.inputs[0] != "points":
        name = c.model.source or c.model.name
        raise SettingsError(f"{name} is a {model.family} model: expected one of point clouds, such as "
                            f"set_transformer_tiny")  # fmt: skip
    return model


def saved_processor(run: Run, model: Model) -> PointCloudProcessor | None:
    """The processor that pretrained weights were saved with; None for a new model, which takes what the data has."""
    c = run.config
    if not c.model.source:
        return None
    processor: PointCloudProcessor = model.preprocess or model.default_preprocess()
    if c.data.features and tuple(c.data.features) != processor.features:
        raise SettingsError(f"data.features={c.data.features}: the model of model.source= takes "
                            f"{list(processor.features) or 'coordinates alone'}; omit data.features=")  # fmt: skip
    return processor


def fit_to_clouds(run: Run, model: Model, clouds: PointCloudSplits[Any]) -> Model:
    """The model for the clouds: a pretrained one with their classes; a new one built again for their features, too.

    Raises: SettingsError for clouds with other features than those of a pretrained model.
    """
    c, columns = run.config, 3 + clouds.features
    processor = saved_processor(run, model)
    if processor is not None:
        if columns != processor.in_features:
            raise SettingsError(f"model.source={c.model.source}: its points have {processor.in_features} numbers, "
                                f"those of {clouds.name} {columns}")  # fmt: skip
        set_classes(model, clouds.classes, c.seed)
    else:
        head = model.config.head
        model = point_cloud_model(run, head, in_features=columns, num_classes=len(clouds.classes))
        processor = replace(model.default_preprocess(), features=tuple(c.data.features))
        model.labels = list(clouds.classes)
    if c.data.num_points is not None:
        processor = replace(processor, num_points=c.data.num_points)
    model.preprocess = processor
    return model


def plot_predictions(run: Run, task: Any, result: Result) -> "Figure | None":
    """Test clouds of as many classes as possible, with what the model predicts and how sure it is."""
    data: Any = getattr(task.trainer, "datamodule", None)
    if not isinstance(data, PointCloudDataModule):
        return None
    rows = balanced_rows(data.test.labels, min(SHOWN, len(data.test)), data.seed).tolist()
    rows.sort(key=lambda row: int(data.test.labels[row]))
    _, outputs = _outputs(task, data, rows)
    sure, best = outputs.softmax(-1).max(-1)
    figure, axes = _cloud_axes(len(rows), COLUMNS)
    for place, row in enumerate(rows):
        cloud = data.test.clouds[row]
        _scatter(axes[place], cloud, c=cloud[:, 2].numpy(), cmap="viridis")
        true, found = data.classes[int(data.test.labels[row])], data.classes[int(best[place])]
        text = f"{found} ({sure[place]:.0%})" if found == true else f"{found} ({sure[place]:.0%}), not {true}"
        axes[place].set_title(text, fontsize=9, color="black" if found == true else "tab:red")
    return figure


def plot_segments(run: Run, task: Any, result: Result) -> "Figure | None":
    """Some test clouds, of different objects as far as their classes show it: the true classes of their points above,
    and below those that the model predicts."""
    data: Any = getattr(task.trainer, "datamodule", None)
    if not isinstance(data, PointCloudDataModule):
        return None
    import matplotlib.pyplot as plt

    objects = torch.stack([cloud[:, -1].max() for cloud in data.test.clouds])
    rows = balanced_rows(objects, min(COLUMNS, len(data.test)), data.seed).tolist()
    batch, outputs = _outputs(task, data, rows)
    colors = plt.get_cmap("tab20" if len(data.classes) <= 20 else "gist_ncar")
    counts = batch["labeled"].sum(1).tolist()
    figure, axes = _cloud_axes(2 * len(rows), len(rows))
    shown: set[int] = set()
    for place, (labels, found) in enumerate(zip(batch["labels"].split(counts), outputs.argmax(-1).split(counts))):
        cloud = batch["points"][place][batch["labeled"][place]]
        for axis, classes in ((axes[place], labels), (axes[place + len(rows)], found)):
            values = classes.float() / max(1, len(data.classes) - 1)
            _scatter(axis, cloud, c=colors(values.numpy()))
        shown |= set(labels.tolist()) | set(found.tolist())
        axes[place].set_title("true", fontsize=9, y=0.95)
        right = (labels == found).float().mean()
        axes[place + len(rows)].set_title(f"predicted ({right:.0%} right)", fontsize=9, y=0.95)
    marks = [plt.Line2D([], [], marker="o", linestyle="", color=colors(i / max(1, len(data.classes) - 1)))
             for i in sorted(shown)]  # fmt: skip
    figure.legend(marks, [data.classes[i] for i in sorted(shown)], loc="outside lower center", ncols=6, fontsize=8)
    return figure


def _outputs(task: Any, data: PointCloudDataModule, rows: list[int]) -> tuple[dict[str, Any], Tensor]:
    """(the batch of some test clouds, the outputs of the model)."""
    batch = data.augment(data.test.__getitems__(Keys(rows, 0)), seed=data.seed, step=0, train=False)
    model = task.evaluated.eval()
    with torch.inference_mode():
        return batch, task.output_of(model, batch)


def _cloud_axes(count: int, columns: int) -> tuple["Figure", list[Any]]:
    """A figure with as many axes in three dimensions, in rows of `columns`."""
    import matplotlib.pyplot as plt

    lines = -(-count // columns)
    figure = plt.figure(figsize=(2.2 * columns, 2.6 * lines), layout="constrained")
    return figure, [figure.add_subplot(lines, columns, i + 1, projection="3d") for i in range(count)]


def _scatter(axes: Any, cloud: Tensor, **colors: Any) -> None:
    axes.scatter(*cloud[:, :3].T.numpy(), s=7, linewidths=0, **colors)
    axes.set_box_aspect([1, 1, 1])
    axes.set_aspect("equal")
    axes.set_axis_off()
