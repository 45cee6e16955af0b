"""Train a classifier of point clouds, a set transformer or a point transformer.

    python recipes/point_clouds.py                         ten synthetic shapes, tested under all rotations
    python recipes/point_clouds.py rotation=none           the same, trained upright: it fails on rotated shapes
    python recipes/point_clouds.py model=set_transformer_tiny           a set transformer
    python recipes/point_clouds.py data=FOLDER             your own clouds: a sub-folder of .ply, .npy or .npz files
                                                           per class
    python recipes/point_clouds.py data=FOLDER rotation=z num_points=1024     upright clouds, at most 1,024 points
    python recipes/point_clouds.py data=FOLDER features=[red,green,blue]      with colors of PLY files
    python recipes/point_clouds.py data=FOLDER model.source=runs/point_clouds from a model that was trained before

Tables (.parquet, .csv, .jsonl) with a column of files and one of labels work as well. The trained model is saved in
runs/point_clouds/model, ready for `zoo predict`. If a run is interrupted, the same command resumes it, bit for bit.
"""

import sys

from zoo.training.main import main
from zoo.training.recipes.point_cloud_config import PointCloudSettings
from zoo.training.result import Result
from zoo.training.run import Run

LONGER_RUNS = {"synthetic": "epochs=60"}


def train(run: Run) -> Result:
    """Create the model, load the clouds, train the classifier."""
    from zoo.data.point_cloud.datamodule import PointCloudDataModule
    from zoo.data.point_cloud.load import load_point_clouds
    from zoo.tasks.classification import ClassificationTask
    from zoo.tasks.problem_types import class_weights
    from zoo.training.fit import fit
    from zoo.training.recipes.point_clouds import fit_to_clouds, plot_predictions, point_cloud_model, saved_processor

    cfg = run.config
    model = point_cloud_model(run)  # by name, or from a folder of weights
    clouds = load_point_clouds(cfg.data, processor=saved_processor(run, model), seed=cfg.seed)
    folder = run.open(clouds, model)  # a new one, or that of an unfinished run with the same settings and data
    clouds = clouds.with_validation(cfg.trainer.val_fraction, cfg.seed)
    model = fit_to_clouds(run, model, clouds)

    data = PointCloudDataModule(clouds, model.preprocess, cfg.data.batch_size, augment=cfg.data.augment, seed=cfg.seed,
                                num_workers=cfg.data.num_workers)  # fmt: skip
    weights = class_weights(cfg.task.class_weights, clouds.train.labels, len(clouds.classes))
    task = ClassificationTask(model, problem_type="single_label_classification", class_weights=weights,
                              augment=data.augment, optim=cfg.optim, label_smoothing=cfg.task.label_smoothing,
                              ema=cfg.trainer.ema, seed=cfg.seed)  # fmt: skip
    return fit(run, task, data, longer_runs=LONGER_RUNS, plots={"clouds": plot_predictions},
               example_command=["zoo", "predict", "{model}", str(folder.path / "sample.npy")])  # fmt: skip


if __name__ == "__main__":
    sys.exit(main(train, PointCloudSettings))
