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
    from zoo.data.text.datamodule import TextDataModule
    from zoo.data.text.load import load_texts
    from zoo.tasks.classification import ClassificationTask
    from zoo.tasks.lora import add_lora
    from zoo.tasks.problem_types import class_weights
    from zoo.training.fit import fit
    from zoo.training.recipes.text import example_command, fit_to_texts, target_unit, text_model

    cfg = run.config
    model = text_model(run, head="classify")  # by name, or from any folder of weights
    texts = load_texts(cfg.data, seed=cfg.seed)
    run.open(texts, model)  # the run folder: a new one, or that of an unfinished run with the same settings and data
    texts = texts.with_validation(cfg.trainer.val_fraction, cfg.seed)
    model = fit_to_texts(run, model, texts)

    data = TextDataModule(texts, model.preprocess, cfg.data.batch_size, group_by_length=cfg.data.group_by_length,
                          seed=cfg.seed, num_workers=cfg.data.num_workers)  # fmt: skip
    if cfg.lora.rank:
        add_lora(model, cfg.lora.rank, alpha=cfg.lora.alpha, dropout=cfg.lora.adapter_dropout,
                 targets=cfg.lora.targets, seed=cfg.seed)  # fmt: skip
    labels, kind = texts.train.labels, texts.problem_type
    task = ClassificationTask(model, problem_type=kind, unit=target_unit(model, labels, kind),
                              class_weights=class_weights(cfg.task.class_weights, labels, len(texts.classes)),
                              optim=cfg.optim, label_smoothing=cfg.task.label_smoothing, ema=cfg.trainer.ema,
                              seed=cfg.seed)  # fmt: skip
    return fit(run, task, data, longer_runs=LONGER_RUNS, example_command=example_command(texts))


if __name__ == "__main__":
    sys.exit(main(train, FinetuneSettings))
