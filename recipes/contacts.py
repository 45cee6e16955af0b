"""Train a model that predicts which residues of a protein are in contact, from an alignment of its family.

    python recipes/contacts.py                        synthetic families
    python recipes/contacts.py depth=4 epochs=12      a larger model, trained longer
    python recipes/contacts.py data=FOLDER long_range=24 max_sequences=128
    python recipes/contacts.py data=FOLDER model.source=runs/contacts/model lr=5e-4
    python recipes/contacts.py masked_msa_weight=2    also learn to predict masked residues of the alignment

A folder has an alignment for each family (.a3m, .sto, .afa, also compressed as .gz), whose first sequence is the query,
and a contact map of the same name: .npy or .npz of 0 and 1 [N, N], or .txt with two numbers of residues in each line;
in sub-folders train, validation and test if there are any.

The synthetic families are sampled from Potts models with known contacts. None that is tested is trained on. Beside the
precision of the model, at L/5, L/2 and L of long-range pairs, stand those of mutual information with the average
product correction and of mean-field direct coupling analysis, on the same sequences. The run folder has each family in
families.csv, and maps of some in contacts.png.

The trained model is saved in runs/contacts/model, ready for `zoo predict`. If a run is interrupted, the same command
resumes it, bit for bit.
"""

import sys

from zoo.training.main import main
from zoo.training.recipes.contacts_config import ContactSettings
from zoo.training.result import Result
from zoo.training.run import Run

LONGER_RUNS = {"synthetic": "epochs=12"}


def train(run: Run) -> Result:
    """Create the model, load the alignments and contact maps, train, test on families that the model has not seen."""
    from zoo.data.alignments.datamodule import AlignmentDataModule
    from zoo.data.alignments.load import load_families
    from zoo.tasks.contacts import ContactTask
    from zoo.training.fit import fit
    from zoo.training.recipes.contacts import PLOTS, FamiliesFile, alignment_model

    cfg = run.config
    model = alignment_model(run)  # by name, or from any folder of weights
    families = load_families(cfg.data, seed=cfg.seed)
    folder = run.open(families, model)  # a new one, or that of an unfinished run with the same settings and data
    families = families.with_validation(cfg.trainer.val_fraction, cfg.seed)

    data = AlignmentDataModule(families, model.preprocess, cfg.data.batch_size, seed=cfg.seed,
                               group_by_length=cfg.data.group_by_length, num_workers=cfg.data.num_workers)  # fmt: skip
    task = ContactTask(model, min_separation=cfg.data.min_separation, long_range=cfg.data.long_range,
                       baselines=cfg.task.baselines, masked_msa_weight=cfg.task.masked_msa_weight,
                       mask_probability=cfg.task.mask_probability, optim=cfg.optim, ema=cfg.trainer.ema,
                       seed=cfg.seed)  # fmt: skip
    return fit(run, task, data, longer_runs=LONGER_RUNS, callbacks=[FamiliesFile(folder.path)], plots=PLOTS,
               example_command=["zoo", "predict", "{model}", str(folder.path / "sample.a3m")])  # fmt: skip


if __name__ == "__main__":
    sys.exit(main(train, ContactSettings))
