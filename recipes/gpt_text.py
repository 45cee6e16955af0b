"""Train a small GPT on any text, with characters or BPE tokens, and print generated samples during training.

    python recipes/gpt_text.py                                   synthetic stories
    python recipes/gpt_text.py data=tinyshakespeare              nanoGPT's CPU setup: validation loss about 1.88
    python recipes/gpt_text.py data=my.txt tokens=bpe vocab_size=2000 max_length=256 prompt="Once upon"
    python recipes/gpt_text.py model=gpt_nano attention=linear
    python recipes/gpt_text.py data=FOLDER tokens=bpe            .jsonl, .parquet or .txt files larger than memory
    python recipes/gpt_text.py data=FOLDER "sources=[web,books]" "weights=[3,1]"    a mixture of its sub-folders

The last tenth of the text (`val_fraction=`) is held out; it selects the best step, and the reported metrics are
computed on it. The trained model is saved in runs/gpt_text/model, ready for `zoo generate`. If a run is interrupted,
the same command resumes it, bit for bit.
"""

import sys

from zoo.training.main import main
from zoo.training.recipes.config import GPTSettings
from zoo.training.result import Result
from zoo.training.run import Run

LONGER_RUNS = {"synthetic": "steps=4000", "tinyshakespeare": "steps=5000"}


def train(run: Run) -> Result:
    """Create the model, load the text, train on next-token prediction."""
    from zoo.data.datamodule import KeyedDataModule
    from zoo.data.text.corpus import load_corpus
    from zoo.data.text.datamodule import TextChunksDataModule
    from zoo.data.text.documents import find_documents, sample_texts
    from zoo.data.text.packed import PackedTextDataModule
    from zoo.tasks.language_modeling import CausalLMTask
    from zoo.training.fit import fit
    from zoo.training.recipes.language_modeling import SampleText, check_packing, fit_to_text
    from zoo.training.recipes.text import text_model

    cfg = run.config
    model = text_model(run, head="lm")  # by name, or from any folder of weights
    val_fraction = cfg.trainer.val_fraction
    files = find_documents(cfg.data)  # those of a folder that is read piece by piece; none for a text in memory
    text = sample_texts(files, cfg.data, val_fraction) if files else load_corpus(cfg.data).split_at_end(val_fraction)
    model = fit_to_text(run, model, text)

    data: KeyedDataModule
    if files:
        check_packing(model, cfg.data)
        data = PackedTextDataModule(files, model.preprocess, cfg.data, length=model.config.max_length,
                                    val_fraction=val_fraction, seed=cfg.seed)  # fmt: skip
    else:
        data = TextChunksDataModule(text, model.preprocess, cfg.data.batch_size, length=model.config.max_length,
                                    seed=cfg.seed, num_workers=cfg.data.num_workers)  # fmt: skip
    folder = run.open(data, model)  # a new one, or that of an unfinished run with the same settings and data
    task = CausalLMTask(model, optim=cfg.optim, ema=cfg.trainer.ema, seed=cfg.seed)
    prompt = cfg.sample.prompt or text.train.text.split()[0][:40]  # not all texts have spaces
    samples = SampleText(folder.path, prompt, length=cfg.sample.length, temperature=cfg.sample.temperature,
                         seed=cfg.seed)  # fmt: skip
    return fit(run, task, data, longer_runs=LONGER_RUNS, callbacks=[samples],
               example_command=["zoo", "generate", "{model}", prompt])  # fmt: skip


if __name__ == "__main__":
    sys.exit(main(train, GPTSettings))
