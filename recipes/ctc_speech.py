"""Train a speech recognizer with CTC: a wav2vec 2.0 model that transcribes audio to characters.

    python recipes/ctc_speech.py                     synthetic audio: letters spelled in tones
    python recipes/ctc_speech.py data=fsdd           sequences of spoken digits, recombined in each epoch
    python recipes/ctc_speech.py data=FOLDER         your own clips: with a metadata.csv (file_name, text)
    python recipes/ctc_speech.py data=FOLDER model.source=facebook/wav2vec2-base lr=1e-4 freeze=[waves] resample=true

Word and character error rates are reported: of greedy decoding in validation, of beam search (`beam_width=`) on the
test set. The trained model is saved in runs/ctc_speech/model, ready for `zoo predict`. If a run is interrupted, the
same command resumes it, bit for bit.
"""

import sys

from zoo.training.main import main
from zoo.training.recipes.config import CTCSettings
from zoo.training.result import Result
from zoo.training.run import Run

LONGER_RUNS = {"synthetic": "epochs=20", "fsdd": "epochs=40"}


def train(run: Run) -> Result:
    """Create the model, load the audio clips and transcripts, train with the CTC loss."""
    from zoo.training.fit import fit
    from zoo.training.recipes.speech import open_speech, speech_task
    from zoo.training.recipes.text import export_model

    model, data = open_speech(run)
    task = speech_task(run, model, data)
    assert run.folder is not None
    result = fit(run, task, data, steps_per_epoch=data.steps_per_epoch, sample=data.sample(), longer_runs=LONGER_RUNS,
                 example_command=["zoo", "predict", "{model}", str(run.folder.path / "sample.wav")])  # fmt: skip
    export_model(run, result)
    return result


if __name__ == "__main__":
    sys.exit(main(train, CTCSettings))
