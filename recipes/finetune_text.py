"""Train or fine-tune a classifier of texts, and leave a model folder that `zoo predict` reads.

    python recipes/finetune_text.py                  sentences composed by the program: two minutes on two CPU cores
    python recipes/finetune_text.py data=sst2        a small encoder from scratch on film reviews
    python recipes/finetune_text.py data=reviews.csv text=review label=stars model.source=FOLDER
    python recipes/finetune_text.py data=pairs.jsonl text=premise,hypothesis model.source=org/name lr=3e-5
    python recipes/finetune_text.py data=sst2 model.source=runs/mlm_text export=transformers

`model.source=` is any encoder or decoder of the zoo: a folder of ours or of transformers, a run, or a name on the hub.
Without it a tokenizer is learned from the training texts and a small model starts from nothing. `lora.rank=8` trains
adapters, `freeze=[tokens, blocks.0]`, `layer_decay=0.9`, `class_weights=balanced` and `early_stopping_patience=3` are what they say.
The same command goes on where it was killed, bit for bit. `--help` lists all options.
"""

import sys

from zoo.training.main import main
from zoo.training.recipes.config import FinetuneSettings
from zoo.training.result import Result
from zoo.training.run import Run

LONGER = {"synthetic": "epochs=24", "sst2": "epochs=20"}


def train(run: Run) -> Result:
    """Model and texts by name, a classifier of them, and a run around it."""
    from zoo.training.fit import fit
    from zoo.training.recipes.text import export_model, open_texts, text_classifier, try_text

    model, data, sets = open_texts(run)
    task = text_classifier(run, model, data, sets)
    result = fit(run, task, data, steps_per_epoch=data.steps_per_epoch, sample=data.sample(), longer=LONGER,
                     try_it=try_text(sets))  # fmt: skip
    export_model(run, result)
    return result


if __name__ == "__main__":
    sys.exit(main(train, FinetuneSettings))
