"""Train an encoder-decoder that translates texts, from scratch with its own tokenizer, or from pretrained weights.

    python recipes/translate.py                          synthetic sentences: a few minutes on two CPU cores
    python recipes/translate.py data=multi30k            captions of images, English to German (Multi30k)
    python recipes/translate.py data=train.en,train.de test=test.en,test.de
    python recipes/translate.py data=pairs.tsv source_text=english target_text=french vocab_size=16000
    python recipes/translate.py data=opus_books:de-en source_text=de target_text=en model.source=FOLDER lr=3e-5

Byte-pair tokens are learned from the source and target texts of the training split together. BLEU is that of sacrebleu
(extra `translate`): greedy for `val_samples` pairs in validation, by beam search (`num_beams=`) for the test split. The
run folder has the translations of the test split in translations.csv, and in alignment.png which source words the words
of some of them attend to. The trained model is saved in runs/translate/model, ready for `zoo generate`. If a run is
interrupted, the same command resumes it, bit for bit.
"""

import sys

from zoo.training.main import main
from zoo.training.recipes.config import TranslateSettings
from zoo.training.result import Result
from zoo.training.run import Run

LONGER_RUNS = {"synthetic": "epochs=20", "multi30k": "epochs=30"}


def train(run: Run) -> Result:
    """Create the model, load the pairs of texts, train it to write the targets."""
    from zoo.data.text.parallel import load_parallel_texts
    from zoo.data.text.parallel_datamodule import ParallelDataModule
    from zoo.tasks.lora import add_lora
    from zoo.tasks.seq2seq import Seq2SeqTask
    from zoo.training.fit import fit
    from zoo.training.recipes.translation import PLOTS, TranslationsFile, bleu_or_none, fit_to_pairs, seq2seq_model

    cfg = run.config
    model = seq2seq_model(run)  # by name, or from any folder of weights
    pairs = load_parallel_texts(cfg.data, seed=cfg.seed)
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
    references = {"val": (pairs.validation or pairs.test).targets, "test": pairs.test.targets}
    generation = {"num_beams": cfg.task.num_beams, "length_penalty": cfg.task.length_penalty, "max_new_tokens": longest}
    task = Seq2SeqTask(model, label_smoothing=cfg.task.label_smoothing, text_metric=bleu_or_none(),
                       references=references, val_samples=cfg.task.val_samples, generation=generation,
                       optim=cfg.optim, ema=cfg.trainer.ema, seed=cfg.seed)  # fmt: skip
    return fit(run, task, data, longer_runs=LONGER_RUNS, callbacks=[TranslationsFile(folder.path)], plots=PLOTS,
               example_command=["zoo", "generate", "{model}", min(pairs.test.sources[:50], key=len)])  # fmt: skip


if __name__ == "__main__":
    sys.exit(main(train, TranslateSettings))
