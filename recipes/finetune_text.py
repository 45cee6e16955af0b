"""Fine-tune a pretrained text model for classification or regression, or train a small one from scratch.

    python recipes/finetune_text.py                  synthetic sentences: two minutes on two CPU cores
    python recipes/finetune_text.py data=sst2        sentiment of movie reviews (SST-2), from scratch
    python recipes/finetune_text.py data=reviews.csv text=review label=stars model.source=FOLDER
    python recipes/finetune_text.py data=pairs.jsonl text=premise,hypothesis model.source=org/name lr=3e-5
    python recipes/finetune_text.py data=sst2 model.source=runs/mlm_text export=transformers

`model.source=` is a pretrained encoder or decoder: a run, a model folder of the zoo or of transformers, or a hub name.
Without it, a tokenizer is trained on the texts and a small model starts from random weights. Options for fine-tuning
include `lora.rank=8`, `freeze=[tokens, blocks.0]`, `layer_decay=0.9`, `class_weights=balanced` and
`early_stopping_patience=3`. The trained model is saved in runs/finetune_text/model, ready for `zoo predict`. If a run
is interrupted, the same command resumes it, bit for bit.
"""

import sys

from zoo.training.main import main
from zoo.training.recipes.config import FinetuneSettings
from zoo.training.result import Result
from zoo.training.run import Run

LONGER_RUNS = {"synthetic": "epochs=24", "sst2": "epochs=20"}


def train(run: Run) -> Result:
    """Create the model, load the texts, train the classifier."""
    from zoo.training.fit import fit
    from zoo.training.recipes.text import example_command, export_model, open_texts, text_classifier

    model, data, sets = open_texts(run)
    task = text_classifier(run, model, data, sets)
    result = fit(run, task, data, steps_per_epoch=data.steps_per_epoch, sample=data.sample(), longer_runs=LONGER_RUNS,
                 example_command=example_command(sets))  # fmt: skip
    export_model(run, result)
    return result


if __name__ == "__main__":
    sys.exit(main(train, FinetuneSettings))
