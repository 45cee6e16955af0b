"""Predict properties of molecules from SMILES strings: regression or classification with a transformer of graphs.

    python recipes/molecules.py                                  logP of synthetic molecules: minutes on two CPU cores
    python recipes/molecules.py label=rings                      their number of rings, as classes
    python recipes/molecules.py data=solubility.csv smiles=SMILES label=logS
    python recipes/molecules.py data=toxic.csv label=toxic class_weights=balanced early_stopping_patience=5
    python recipes/molecules.py data=solubility.csv label=logS model.source=runs/molecules

Atoms are nodes, bonds are edges, and attention goes along the bonds. Molecules are held out by their scaffold, so that
the test says how well the model does on rings that it has not seen; `split=random` holds out single molecules. The
baseline beside it is a ridge regression, or logistic regression, on Morgan fingerprints. Needs rdkit:
pip install attention-zoo[molecules]. The trained model is saved in runs/molecules/model, ready for
`zoo predict runs/molecules CCO`. If a run is interrupted, the same command resumes it, bit for bit.
"""

import sys

from zoo.training.main import main
from zoo.training.recipes.molecules_config import MoleculeSettings
from zoo.training.result import Result
from zoo.training.run import Run

LONGER_RUNS = {"synthetic": "epochs=150"}


def train(run: Run) -> Result:
    """Create the model, load the molecules, train the classifier or regression."""
    from zoo.data.graph.molecules import MoleculesDataModule, load_molecules
    from zoo.tasks.classification import ClassificationTask
    from zoo.tasks.problem_types import class_weights
    from zoo.training.fit import fit
    from zoo.training.recipes.molecules import example_command, fit_to_molecules, molecule_model, target_unit

    cfg = run.config
    model = molecule_model(run)  # by name, or from a run of this recipe
    molecules = load_molecules(cfg.data, seed=cfg.seed)
    run.open(molecules, model)  # the run folder: a new one, or that of an unfinished run with the same settings
    molecules = molecules.with_validation(cfg.trainer.val_fraction, cfg.seed)
    model = fit_to_molecules(run, model, molecules)

    data = MoleculesDataModule(molecules, model.preprocess, cfg.data.batch_size, seed=cfg.seed,
                               num_workers=cfg.data.num_workers)  # fmt: skip
    labels, kind = molecules.train.labels, molecules.problem_type
    task = ClassificationTask(model, problem_type=kind, unit=target_unit(molecules),
                              class_weights=class_weights(cfg.task.class_weights, labels, len(molecules.classes)),
                              optim=cfg.optim, label_smoothing=cfg.task.label_smoothing, ema=cfg.trainer.ema,
                              seed=cfg.seed)  # fmt: skip
    return fit(run, task, data, longer_runs=LONGER_RUNS, example_command=example_command(molecules))


if __name__ == "__main__":
    sys.exit(main(train, MoleculeSettings))
