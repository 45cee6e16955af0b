"""Pretrain a small BERT on plain text, or an ESM on proteins, by masked language modeling, for `finetune_text.py`.

    python recipes/mlm_text.py                                   synthetic sentences
    python recipes/mlm_text.py data=sst2                         sentences of SST-2, without their labels
    python recipes/mlm_text.py data=FOLDER max_minutes=30        all .txt files of a folder, one text per line
    python recipes/finetune_text.py data=sst2 model.source=runs/mlm_text
    python recipes/mlm_text.py model=esm2_t6_8m width=64 depth=3 heads=4 data=proteins.fasta

A tokenizer is trained on the text (`vocab_size=`) and saved with the model; one of proteins has its alphabet, and
without data= learns synthetic families. Beside it then stands how well the frequencies of the residues predict those
that are masked, of synthetic families at each site. A fraction of the lines (`val_fraction=`)
is held out; it selects the best step, and the reported metrics are computed on it. If a run is interrupted, the same
command resumes it, bit for bit.
"""

import sys

from zoo.training.main import main
from zoo.training.recipes.config import MLMSettings
from zoo.training.result import Result
from zoo.training.run import Run

LONGER_RUNS = {"synthetic": "epochs=20", "sst2": "epochs=60"}


def train(run: Run) -> Result:
    """Create the model, load the text, train on masked-token prediction."""
    from zoo.data.text.corpus import load_corpus
    from zoo.data.text.datamodule import TextLinesDataModule
    from zoo.training.fit import fit
    from zoo.training.recipes.language_modeling import masked_lm_task
    from zoo.training.recipes.text import text_model, with_new_tokenizer

    cfg = run.config
    model = text_model(run, head="masked_lm")  # by name, or from any folder of weights
    synthetic = "proteins" if model.modality == "protein" else "sentences"
    lines = load_corpus(cfg.data, synthetic=synthetic).split_lines(cfg.trainer.val_fraction, cfg.seed)
    if model.preprocess is None:
        model = with_new_tokenizer(run, model, lines.train.texts, head="masked_lm")

    data = TextLinesDataModule(lines, model.preprocess, cfg.data.batch_size, max_length=cfg.data.max_length,
                               group_by_length=cfg.data.group_by_length, seed=cfg.seed,
                               num_workers=cfg.data.num_workers)  # fmt: skip
    run.open(data, model)  # the run folder: a new one, or that of an unfinished run with the same settings and data
    return fit(run, masked_lm_task(run, model, data), data, longer_runs=LONGER_RUNS,
               example_command=["python", "recipes/finetune_text.py", "model.source={model}"])  # fmt: skip


if __name__ == "__main__":
    sys.exit(main(train, MLMSettings))
