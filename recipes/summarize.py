"""Train an encoder-decoder that writes a short text for a long one: from scratch, or from pretrained weights.

    python recipes/summarize.py                           synthetic clinic dialogues and notes, on two CPU cores
    python recipes/summarize.py data=meetings.jsonl source_text=transcript target_text=minutes
    python recipes/summarize.py data=samsum model.source=FOLDER lora.rank=8 lr=3e-4
    python recipes/summarize.py data=notes.parquet facts=medications model.source=google-t5/t5-small

Data: tables with a column of long texts and one of summaries, folders of tables, or datasets of the hub. Texts with
more than `max_source_length=` tokens, or than the model has positions for, are truncated, and their number is printed.
ROUGE (extra `summarize`) and, if the data has a column of facts, faithfulness, the share of facts that a summary keeps,
are computed for `val_samples` texts in validation, and with `num_beams` beams for the test split, whose summaries are
written to summaries.csv in the run folder.

`model.source=` is a pretrained encoder-decoder: a run, a model folder of the zoo or of transformers, or a hub name;
without it, byte-pair tokens are learned from the training split. The trained model is saved in runs/summarize/model,
ready for `zoo generate`. If a run is interrupted, the same command resumes it, bit for bit.
"""

import sys

from zoo.training.main import main
from zoo.training.recipes.config import SummarizeSettings
from zoo.training.result import Result
from zoo.training.run import Run

LONGER_RUNS = {"synthetic": "epochs=30"}


def train(run: Run) -> Result:
    """Create the model, load texts with their summaries, train it to write these."""
    from zoo.data.text.parallel_datamodule import ParallelDataModule
    from zoo.data.text.summaries import load_summaries
    from zoo.tasks.lora import add_lora
    from zoo.tasks.seq2seq import Seq2SeqTask
    from zoo.training.fit import fit
    from zoo.training.recipes.summaries import SummariesFile, fact_checker, references, summary_scores
    from zoo.training.recipes.translation import fit_to_pairs, seq2seq_model

    cfg = run.config
    model = seq2seq_model(run)  # by name, or from any folder of weights
    pairs = load_summaries(cfg.data, seed=cfg.seed)
    folder = run.open(pairs, model)  # a new one, or that of an unfinished run with the same settings and data
    pairs = pairs.with_validation(cfg.trainer.val_fraction, cfg.seed)
    model = fit_to_pairs(run, model, pairs)

    longest = min(cfg.data.max_target_length, model.config.max_length)
    data = ParallelDataModule(pairs, model.preprocess, cfg.data.batch_size, max_target_length=longest,
                              group_by_length=cfg.data.group_by_length, seed=cfg.seed,
                              num_workers=cfg.data.num_workers)  # fmt: skip
    if cfg.lora.rank:
        add_lora(model, cfg.lora.rank, alpha=cfg.lora.alpha, dropout=cfg.lora.adapter_dropout,
                 targets=cfg.lora.targets, seed=cfg.seed)  # fmt: skip
    checker = fact_checker(pairs)
    generation = {"num_beams": cfg.task.num_beams, "length_penalty": cfg.task.length_penalty, "max_new_tokens": longest}
    task = Seq2SeqTask(model, label_smoothing=cfg.task.label_smoothing, text_metric=summary_scores(checker),
                       references=references(pairs), val_samples=cfg.task.val_samples, generation=generation,
                       optim=cfg.optim, ema=cfg.trainer.ema, seed=cfg.seed)  # fmt: skip
    return fit(run, task, data, longer_runs=LONGER_RUNS, callbacks=[SummariesFile(folder.path, checker)],
               example_command=["zoo", "generate", "{model}", min(pairs.test.sources[:50], key=len)])  # fmt: skip


if __name__ == "__main__":
    sys.exit(main(train, SummarizeSettings))
