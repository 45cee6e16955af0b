"""Train a model that gives each word of a sentence a tag: named entities, parts of speech and the like.

    python recipes/token_classification.py                  synthetic sentences: two minutes on two CPU cores
    python recipes/token_classification.py data=conll2003 model.source=google-bert/bert-base-cased
    python recipes/token_classification.py data=train.conll test=test.conll model.source=FOLDER
    python recipes/token_classification.py data=notes.jsonl tokens=words tags=ner model.source=org/name lr=3e-5

Data: files in the CoNLL format (a word in each line with its tag in the last column), tables with lists of words and
tags, folders of either with train, validation and test files, or datasets of the hub. Tags in IOB1, IOB2, BIOES or
BILOU are recognized. Long sentences are split into windows that overlap, so that no word is lost.

`model.source=` is a pretrained encoder or decoder: a run, a model folder of the zoo or of transformers, or a hub name.
The trained model is saved in runs/token_classification/model, ready for `zoo predict`. If a run is interrupted, the
same command resumes it, bit for bit.
"""

import sys

from zoo.training.main import main
from zoo.training.recipes.config import TokenClassificationSettings
from zoo.training.result import Result
from zoo.training.run import Run

LONGER_RUNS = {"synthetic": "epochs=16"}


def train(run: Run) -> Result:
    """Create the model, load the sentences, train the tagger."""
    from zoo.data.text.tagged import load_tagged
    from zoo.data.text.tagged_datamodule import TokenClassificationDataModule
    from zoo.tasks.lora import add_lora
    from zoo.tasks.token_classification import TokenClassificationTask
    from zoo.training.fit import fit
    from zoo.training.recipes.text import example_command, fit_to_texts, text_model

    cfg = run.config
    model = text_model(run, head="token")  # by name, or from any folder of weights
    sentences = load_tagged(cfg.data, seed=cfg.seed)
    run.open(sentences, model)  # a new one, or that of an unfinished run with the same settings and data
    sentences = sentences.with_validation(cfg.trainer.val_fraction, cfg.seed)
    model = fit_to_texts(run, model, sentences)

    data = TokenClassificationDataModule(sentences, model.preprocess, cfg.data.batch_size, seed=cfg.seed,
                                         group_by_length=cfg.data.group_by_length,
                                         num_workers=cfg.data.num_workers)  # fmt: skip
    if cfg.lora.rank:
        add_lora(model, cfg.lora.rank, alpha=cfg.lora.alpha, dropout=cfg.lora.adapter_dropout,
                 targets=cfg.lora.targets, seed=cfg.seed)  # fmt: skip
    task = TokenClassificationTask(model, labels=sentences.classes, label_smoothing=cfg.task.label_smoothing,
                                   optim=cfg.optim, ema=cfg.trainer.ema, seed=cfg.seed)  # fmt: skip
    return fit(run, task, data, longer_runs=LONGER_RUNS, example_command=example_command(sentences))


if __name__ == "__main__":
    sys.exit(main(train, TokenClassificationSettings))
