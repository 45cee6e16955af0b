"""Train a small waveform model to write what is said, character by character, and leave a folder for `zoo predict`.

    python recipes/ctc_speech.py                     letters spelled in tones, synthesized by the program
    python recipes/ctc_speech.py data=fsdd           strings of spoken digits, put together anew in each epoch
    python recipes/ctc_speech.py data=FOLDER         with metadata.csv (file_name, text), or train and test tables
    python recipes/ctc_speech.py data=FOLDER model.source=facebook/wav2vec2-base lr=1e-4 freeze=[waves] resample=true

Validations decode the best symbol of each frame, the test by a beam over texts (`beam=`); both say word and character
error rates. The same command goes on where it was killed, bit for bit. `--help` lists all options.
"""

import sys

from zoo.training.main import main
from zoo.training.recipes.config import CTCSettings
from zoo.training.result import Result
from zoo.training.run import Run

LONGER = {"synthetic": "epochs=20", "fsdd": "epochs=40"}


def train(run: Run) -> Result:
    """Model and sounds by name, their texts, and a run around it."""
    from zoo.training.fit import fit
    from zoo.training.recipes.speech import open_speech, speech_task
    from zoo.training.recipes.text import export_model

    model, data = open_speech(run)
    task = speech_task(run, model, data)
    assert run.folder is not None
    result = fit(run, task, data, steps_per_epoch=data.steps_per_epoch, sample=data.sample(), longer=LONGER,
                     try_it=f"zoo predict {{model}} {run.folder.path / 'sample.wav'}")  # fmt: skip
    export_model(run, result)
    return result


if __name__ == "__main__":
    sys.exit(main(train, CTCSettings))
