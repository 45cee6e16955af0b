"""Train an Audio Spectrogram Transformer on sounds, and leave a model folder that `zoo predict` reads.

    python recipes/ast_audio.py                      sounds synthesized by the program: a minute or two on two CPU cores
    python recipes/ast_audio.py data=fsdd            spoken digits
    python recipes/ast_audio.py data=fsdd held_out_speaker=theo                  tested on a voice that it has never heard
    python recipes/ast_audio.py data=FOLDER          a sub-folder of sound files for each class
    python recipes/ast_audio.py data=FOLDER model.source=MIT/ast-finetuned-audioset-10-10-0.4593 lr=1e-4 resample=true
    python recipes/ast_audio.py data=FOLDER vit=timm/deit_tiny_patch16_224.fb_in1k lr=3e-4

Files are wav, flac, ogg, mp3 and what libsndfile reads besides; tables (.parquet .csv .jsonl) with a column of sounds
and one of labels, and data sets of the hub, are read as well. The same command goes on where it was killed, bit for
bit. `--help` lists all options.
"""

import sys

from zoo.training.main import main
from zoo.training.recipes.config import AudioSettings
from zoo.training.result import Result
from zoo.training.run import Run

LONGER = {"synthetic": "epochs=20", "fsdd": "epochs=60"}


def train(run: Run) -> Result:
    """Model and sounds by name, a classifier of them, and a run around it."""
    from zoo.training.fit import fit
    from zoo.training.recipes.audio import audio_classifier, open_audio
    from zoo.training.recipes.text import export_model

    model, data = open_audio(run)
    task = audio_classifier(run, model, data)
    assert run.folder is not None
    result = fit(run, task, data, steps_per_epoch=data.steps_per_epoch, sample=data.sample(), longer=LONGER,
                     try_it=f"zoo predict {{model}} {run.folder.path / 'sample.wav'}")  # fmt: skip
    export_model(run, result)
    return result


if __name__ == "__main__":
    sys.exit(main(train, AudioSettings))
