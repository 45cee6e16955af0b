"""Pretrain a small BERT on plain text with masked language modeling, for fine-tuning with `finetune_text.py`.

    python recipes/mlm_text.py                                   synthetic sentences
    python recipes/mlm_text.py data=sst2                         sentences of SST-2, without their labels
    python recipes/mlm_text.py data=FOLDER max_minutes=30        all .txt files of a folder, one text per line
    python recipes/finetune_text.py data=sst2 model.source=runs/mlm_text

A tokenizer is trained on the text (`vocab_size=`) and saved with the model. A fraction of the lines (`val_fraction=`)
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
    from zoo.training.fit import fit
    from zoo.training.recipes.language_modeling import masked_lm_task, open_lines

    model, data = open_lines(run)
    return fit(run, masked_lm_task(run, model), data, steps_per_epoch=data.steps_per_epoch, sample=data.sample(),
               longer_runs=LONGER_RUNS,
               example_command=["python", "recipes/finetune_text.py", "model.source={model}"])  # fmt: skip


if __name__ == "__main__":
    sys.exit(main(train, MLMSettings))
