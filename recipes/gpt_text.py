"""Train a small GPT on any text, with characters or BPE tokens, and print generated samples during training.

    python recipes/gpt_text.py                                   synthetic stories
    python recipes/gpt_text.py data=tinyshakespeare              nanoGPT's CPU setup: validation loss about 1.88
    python recipes/gpt_text.py data=my.txt tokens=bpe vocab_size=2000 max_length=256 prompt="Once upon"
    python recipes/gpt_text.py model=gpt_nano attention=linear

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
    from zoo.training.fit import fit
    from zoo.training.recipes.language_modeling import SampleText, causal_lm_task, open_stream

    model, data, first_word = open_stream(run)
    assert run.folder is not None
    s = run.settings.sample
    prompt = s.prompt or first_word
    samples = SampleText(run.folder.path, prompt, length=s.length, temperature=s.temperature, seed=run.settings.seed)
    return fit(run, causal_lm_task(run, model), data, steps_per_epoch=data.steps_per_epoch, sample=data.sample(),
               longer_runs=LONGER_RUNS, callbacks=[samples],
               example_command=["zoo", "generate", "{model}", prompt])  # fmt: skip


if __name__ == "__main__":
    sys.exit(main(train, GPTSettings))
