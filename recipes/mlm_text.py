"""Pretrain a small BERT on plain text by hiding tokens; `finetune_text.py` takes the folder it leaves.

    python recipes/mlm_text.py                       sentences composed by the program
    python recipes/mlm_text.py data=sst2             the training sentences of SST-2, without their labels
    python recipes/mlm_text.py data=FOLDER max_minutes=30                all .txt files of a folder, each line a text
    python recipes/finetune_text.py data=sst2 model.source=runs/mlm_text

A tokenizer is learned from the text (`vocab_size=`) and saved with the model. A share of the lines (`val_fraction`) is held
out: it says which step is the best, and the figures are those on it. The same command goes on where it was killed, bit
for bit. `--help` lists all options.
"""

import sys

from zoo.training.main import main
from zoo.training.recipes.config import MLMSettings
from zoo.training.result import Result
from zoo.training.run import Run

LONGER = {"synthetic": "epochs=20", "sst2": "epochs=60"}


def train(run: Run) -> Result:
    """Text and model by name, hidden tokens, and a run around it."""
    from zoo.training.fit import fit
    from zoo.training.recipes.language_modeling import masked_token, open_lines

    model, data = open_lines(run)
    return fit(run, masked_token(run, model), data, steps_per_epoch=data.steps_per_epoch, sample=data.sample(),
                   longer=LONGER, try_it="python recipes/finetune_text.py model.source={model}")  # fmt: skip


if __name__ == "__main__":
    sys.exit(main(train, MLMSettings))
