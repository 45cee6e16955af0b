"""Train one of the language models of a scaling law: plays, captions and source code as one text.

    zoo scaling configs/sweeps/scaling_laws.yaml             all sizes, the fit, and its prediction of the largest run
    python recipes/scaling_laws.py                           one size: plays, image captions, Python's standard library
    python recipes/scaling_laws.py width=64 depth=4 steps=2000
    python recipes/scaling_laws.py tokens=bpe vocab_size=512
    python recipes/scaling_laws.py on_missing=skip           without the texts that are not below ZOO_DATA_DIR

The last tenth of the plays and captions and a tenth of the source files are held out (`val_fraction=`), and the loss
is that of the held-out text. The learning rate falls along a cosine to the end of each run, so that each number of
tokens is a run of its own: the loss in the middle of a longer run is not that of a shorter one. The trained model is
saved in runs/scaling_laws/model. If a run is interrupted, the same command resumes it, bit for bit.
"""

import sys

from zoo.training.main import main
from zoo.training.recipes.config import ScalingSettings
from zoo.training.result import Result
from zoo.training.run import Run


def train(run: Run) -> Result:
    """Create the model, load the texts, train on next-token prediction."""
    from zoo.data.text.datamodule import TextChunksDataModule
    from zoo.data.text.mixture import load_mixture
    from zoo.tasks.language_modeling import CausalLMTask
    from zoo.training.fit import fit
    from zoo.training.recipes.language_modeling import fit_to_text
    from zoo.training.recipes.text import text_model

    cfg = run.config
    model = text_model(run, head="lm")
    text = load_mixture(cfg.data, cfg.trainer.val_fraction)  # the same for all seeds
    model = fit_to_text(run, model, text)  # its tokens: the characters of the text, or BPE trained on it

    data = TextChunksDataModule(text, model.preprocess, cfg.data.batch_size, length=model.config.max_length,
                                seed=cfg.seed, num_workers=cfg.data.num_workers)  # fmt: skip
    run.open(data, model)  # a new one, or that of an unfinished run with the same settings and data
    task = CausalLMTask(model, optim=cfg.optim, ema=cfg.trainer.ema, seed=cfg.seed)
    return fit(run, task, data, example_command=["zoo", "generate", "{model}", "The "])


if __name__ == "__main__":
    sys.exit(main(train, ScalingSettings))
