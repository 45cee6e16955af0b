"""Train a model that gives each point of a cloud a class, such as the part of an object that it is on.

    python recipes/point_segmentation.py                    synthetic objects of parts, tested under all rotations
    python recipes/point_segmentation.py rotation=none      the same, trained upright: it fails on rotated objects
    python recipes/point_segmentation.py data=FOLDER        your own clouds: .ply, .npz or .npy files, whose property or
                                                            array "label" is the class of each point
    python recipes/point_segmentation.py data=FOLDER point_label=part class_names=[wall,floor,door]
    python recipes/point_segmentation.py data=FOLDER rotation=z num_points=4096 features=[red,green,blue]
    python recipes/point_segmentation.py data=FOLDER model.source=runs/point_segmentation     from a model that was
                                                            trained before, or from a classifier of point clouds

Tables (.parquet, .csv, .jsonl) with a column of files work as well. The best step is that of the highest mean IoU.
Beside it stand the most frequent class and a linear model on the neighborhoods of the points. The trained model is
saved in runs/point_segmentation/model, ready for `zoo predict`. If a run is interrupted, the same command resumes it,
bit for bit.
"""

import sys

from zoo.training.main import main
from zoo.training.recipes.point_cloud_config import PointSegmentationSettings
from zoo.training.result import Result
from zoo.training.run import Run

LONGER_RUNS = {"synthetic": "epochs=60"}


def train(run: Run) -> Result:
    """Create the model, load the clouds, train it on the classes of their points."""
    from zoo.data.point_cloud.datamodule import LabeledPointsDataModule
    from zoo.data.point_cloud.load_points import load_labeled_points
    from zoo.tasks.point_segmentation import PointSegmentationTask
    from zoo.tasks.problem_types import class_weights
    from zoo.training.fit import fit
    from zoo.training.recipes.point_clouds import fit_to_clouds, plot_segments, point_cloud_model, saved_processor

    cfg = run.config
    model = point_cloud_model(run, "token")  # by name, or from a folder of weights
    clouds = load_labeled_points(cfg.data, processor=saved_processor(run, model), seed=cfg.seed)
    folder = run.open(clouds, model)  # a new one, or that of an unfinished run with the same settings and data
    clouds = clouds.with_validation(cfg.trainer.val_fraction, cfg.seed)
    model = fit_to_clouds(run, model, clouds)

    data = LabeledPointsDataModule(clouds, model.preprocess, cfg.data.batch_size, augment=cfg.data.augment,
                                   seed=cfg.seed, num_workers=cfg.data.num_workers)  # fmt: skip
    weights = class_weights(cfg.task.class_weights, clouds.train.labels, len(clouds.classes))
    task = PointSegmentationTask(model, problem_type="single_label_classification", class_weights=weights,
                                 augment=data.augment, optim=cfg.optim, label_smoothing=cfg.task.label_smoothing,
                                 ema=cfg.trainer.ema, seed=cfg.seed)  # fmt: skip
    return fit(run, task, data, longer_runs=LONGER_RUNS, plots={"clouds": plot_segments},
               example_command=["zoo", "predict", "{model}", str(folder.path / "sample.npy")])  # fmt: skip


if __name__ == "__main__":
    sys.exit(main(train, PointSegmentationSettings))
