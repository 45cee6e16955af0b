"""What a model of point clouds takes from the data: classes, features of the points; a plot of its predictions."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

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


def point_cloud_model(run: Run, **fields: Any) -> Model:
    """The model of the settings. Raises: SettingsError, also for a model that does not take point clouds."""
    c = run.config
    model = run.build_model("classify", **fields)
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


def fit_to_clouds(run: Run, model: Model, clouds: PointCloudSplits) -> Model:
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
        model = point_cloud_model(run, in_features=columns, num_classes=len(clouds.classes))
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
    import matplotlib.pyplot as plt

    rows = balanced_rows(data.test.labels, min(SHOWN, len(data.test)), data.seed).tolist()
    rows.sort(key=lambda row: int(data.test.labels[row]))
    batch = data.augment(data.test.__getitems__(Keys(rows, 0)), seed=data.seed, step=0, train=False)
    model = task.evaluated.eval()
    with torch.inference_mode():
        inputs = {name: batch[name] for name in ("points", "attention_mask", "lengths")}
        sure, best = task.output_of(model, inputs).softmax(-1).max(-1)
    lines = -(-len(rows) // COLUMNS)
    figure = plt.figure(figsize=(2.2 * COLUMNS, 2.6 * lines), layout="constrained")
    for place, row in enumerate(rows):
        axes: Any = figure.add_subplot(lines, COLUMNS, place + 1, projection="3d")
        x, y, z = data.test.clouds[row][:, :3].T.numpy()
        axes.scatter(x, y, z, c=z, cmap="viridis", s=7, linewidths=0)
        axes.set_box_aspect([1, 1, 1])
        axes.set_aspect("equal")
        axes.set_axis_off()
        true, found = data.classes[int(data.test.labels[row])], data.classes[int(best[place])]
        text = f"{found} ({sure[place]:.0%})" if found == true else f"{found} ({sure[place]:.0%}), not {true}"
        axes.set_title(text, fontsize=9, color="black" if found == true else "tab:red")
    return figure
