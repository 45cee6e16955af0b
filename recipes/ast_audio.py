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
    from zoo.data.audio.datamodule import AudioDataModule
    from zoo.data.audio.load import load_audio
    from zoo.tasks.classification import ClassificationTask
    from zoo.tasks.problem_types import class_weights
    from zoo.training.fit import fit
    from zoo.training.recipes.audio import audio_model, fit_to_clips, pretrained_sampling_rate

    cfg = run.config
    model = audio_model(run)  # by name, from any folder of weights, or from a ViT
    clips = load_audio(cfg.data, sampling_rate=pretrained_sampling_rate(run, model), seed=cfg.seed)
    folder = run.open(clips, model)  # a new one, or that of an unfinished run with the same settings and data
    clips = clips.with_validation(cfg.trainer.val_fraction, cfg.seed)
    model = fit_to_clips(run, model, clips)

    data = AudioDataModule(clips, model.preprocess, cfg.data.batch_size, augment=cfg.data.augment, seed=cfg.seed,
                           num_workers=cfg.data.num_workers)  # fmt: skip
    weights = class_weights(cfg.task.class_weights, clips.train.labels, len(clips.classes))
    task = ClassificationTask(model, problem_type="single_label_classification", class_weights=weights,
                              augment=data.augment, optim=cfg.optim, label_smoothing=cfg.task.label_smoothing,
                              ema=cfg.trainer.ema, seed=cfg.seed)  # fmt: skip
    return fit(run, task, data, longer_runs=LONGER_RUNS,
               example_command=["zoo", "predict", "{model}", str(folder.path / "sample.wav")])  # fmt: skip


if __name__ == "__main__":
    sys.exit(main(train, AudioSettings))
