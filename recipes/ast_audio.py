"""Train an audio classifier, an Audio Spectrogram Transformer (AST), from scratch or from pretrained weights.

    python recipes/ast_audio.py                                  synthetic audio: 2-3 minutes on two CPU cores
    python recipes/ast_audio.py data=fsdd                        spoken digits (Free Spoken Digit Dataset)
    python recipes/ast_audio.py data=fsdd held_out_speaker=theo  test on a speaker who is not in the training set
    python recipes/ast_audio.py data=FOLDER                      your own clips: a subfolder of audio files per class
    python recipes/ast_audio.py data=FOLDER model.source=MIT/ast-finetuned-audioset-10-10-0.4593 lr=1e-4 resample=true
    python recipes/ast_audio.py data=FOLDER vit=timm/deit_tiny_patch16_224.fb_in1k lr=3e-4

Audio files can be wav, flac, ogg, mp3 or anything else that libsndfile reads. Tables (.parquet, .csv, .jsonl) with an
audio and a label column, and datasets on the Hugging Face hub, work as well. The trained model is saved in
runs/ast_audio/model, ready for `zoo predict`. If a run is interrupted, the same command resumes it, bit for bit.
"""

import sys

from zoo.training.main import main
from zoo.training.recipes.config import AudioSettings
from zoo.training.result import Result
from zoo.training.run import Run

LONGER_RUNS = {"synthetic": "epochs=20", "fsdd": "epochs=60"}


def train(run: Run) -> Result:
    """Create the model, load the audio clips, train the classifier."""
    from zoo.training.fit import fit
    from zoo.training.recipes.audio import audio_classifier, open_audio
    from zoo.training.recipes.text import export_model

    model, data = open_audio(run)
    task = audio_classifier(run, model, data)
    assert run.folder is not None
    result = fit(run, task, data, steps_per_epoch=data.steps_per_epoch, sample=data.sample(), longer_runs=LONGER_RUNS,
                 example_command=["zoo", "predict", "{model}", str(run.folder.path / "sample.wav")])  # fmt: skip
    export_model(run, result)
    return result


if __name__ == "__main__":
    sys.exit(main(train, AudioSettings))
