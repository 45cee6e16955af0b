"""Train a small decoder that completes Python code and fills in its gaps, on the source of the standard library.

    python recipes/code_text.py                                 about 13 minutes on one CPU core (docs/guides/code.md)
    python recipes/code_text.py data=my_project vocab_size=1000
    python recipes/code_text.py rate=0.9 spm_rate=0.5 unit=document
    python recipes/code_text.py model.source=FOLDER lr=1e-4     a decoder with tokens for fill-in-the-middle

Files are read and never executed. Whole files are held out for validation and test (`val_fraction=` for each). Half of
what a row has of each file is rearranged as prefix, suffix and middle, so that the model learns to write what stands
between two texts (Bavarian et al. 2022). In the test it writes held-out lines, given the text before them and given
both sides, beside an n-gram cache with the same prompts; lines.csv in the run folder has all of them.

The trained model is saved in runs/code_text/model, ready for `zoo generate` and `zoo infill`. If a run is interrupted,
the same command resumes it, bit for bit.
"""

import sys

from zoo.training.main import main
from zoo.training.recipes.code_config import CodeTextSettings
from zoo.training.result import Result
from zoo.training.run import Run


def train(run: Run) -> Result:
    """Create the model, load the files, train on next tokens and on middles."""
    from zoo.data.text.code_lines import sample_lines
    from zoo.data.text.fill_in_middle import FillInMiddleDataModule
    from zoo.training.fit import fit
    from zoo.training.recipes.code import CodeTask, LinesFile, fit_to_code, load_code
    from zoo.training.recipes.text import text_model

    cfg = run.config
    model = text_model(run, head="lm")  # by name, or from any folder of weights
    files = load_code(cfg.data.name, cfg.trainer.val_fraction)
    model = fit_to_code(run, model, files)

    data = FillInMiddleDataModule(files, model.preprocess, cfg.data.batch_size, length=model.config.max_length,
                                  middle=cfg.data.fim, seed=cfg.seed, num_workers=cfg.data.num_workers)  # fmt: skip
    folder = run.open(data, model)  # a new one, or that of an unfinished run with the same settings and data
    lines = sample_lines(files.test.texts, files.train.texts, cfg.task.lines, cfg.seed)
    task = CodeTask(model, data, lines, baseline=cfg.task.ngram_baseline,
                    order="spm" if cfg.data.fim.spm_rate else "psm", optim=cfg.optim, ema=cfg.trainer.ema,
                    seed=cfg.seed)  # fmt: skip
    return fit(run, task, data, callbacks=[LinesFile(folder.path)],
               example_command=["zoo", "infill", "{model}", "for line in ", ":"])  # fmt: skip


if __name__ == "__main__":
    sys.exit(main(train, CodeTextSettings))
