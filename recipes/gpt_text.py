"""Train a small GPT on any text, character by character or by learned pieces; it writes samples while it learns.

    python recipes/gpt_text.py                                   stories composed by the program
    python recipes/gpt_text.py data=tinyshakespeare              nanoGPT's setting for a CPU: validation loss about 1.88
    python recipes/gpt_text.py data=my.txt tokens=bpe vocab_size=2000 max_length=256 prompt="Once upon"
    python recipes/gpt_text.py model=gpt_nano attention=linear

The last tenth of the text is held out: it says which step is the best, and the figures are those on it. The same
command goes on where it was killed, bit for bit. `--help` lists all options.
"""

import sys

from zoo.training.main import main
from zoo.training.recipes.config import GPTSettings
from zoo.training.result import Result
from zoo.training.run import Run

LONGER = {"synthetic": "steps=4000", "tinyshakespeare": "steps=5000"}


def train(run: Run) -> Result:
    """Text and model by name, the next token, and a run around it."""
    from zoo.training.fit import fit
    from zoo.training.recipes.language_modeling import Samples, next_token, open_stream

    model, data, first = open_stream(run)
    assert run.folder is not None
    s = run.settings.sample
    prompt = s.prompt or first
    samples = Samples(run.folder.path, prompt, length=s.length, temperature=s.temperature,
                      seed=run.settings.seed)  # fmt: skip
    return fit(run, next_token(run, model), data, steps_per_epoch=data.steps_per_epoch, sample=data.sample(),
                   longer=LONGER, callbacks=[samples], try_it=f'zoo generate {{model}} "{prompt}"')  # fmt: skip


if __name__ == "__main__":
    sys.exit(main(train, GPTSettings))
