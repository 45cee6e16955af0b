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
    from zoo.data.audio.speech import load_speech
    from zoo.data.audio.speech_datamodule import SpeechDataModule
    from zoo.tasks.ctc import CTCTask
    from zoo.training.fit import fit
    from zoo.training.recipes.audio import pretrained_sampling_rate
    from zoo.training.recipes.speech import fit_to_speech, speech_model

    cfg = run.config
    model = speech_model(run)  # by name, or from any folder of weights
    speech = load_speech(cfg.data, sampling_rate=pretrained_sampling_rate(run, model), seed=cfg.seed,
                         val_fraction=cfg.trainer.val_fraction)  # fmt: skip
    folder = run.open(speech, model)  # a new one, or that of an unfinished run with the same settings and data
    speech = speech.with_validation(cfg.trainer.val_fraction, cfg.seed)
    model = fit_to_speech(run, model, speech)

    data = SpeechDataModule(speech, model, cfg.data.batch_size, tempo=cfg.data.tempo, noise=cfg.data.noise,
                            group_by_length=cfg.data.group_by_length, seed=cfg.seed,
                            num_workers=cfg.data.num_workers)  # fmt: skip
    task = CTCTask(model, augment=data.augment, width=cfg.task.beam_width, optim=cfg.optim, ema=cfg.trainer.ema,
                   seed=cfg.seed)  # fmt: skip
    return fit(run, task, data, longer_runs=LONGER_RUNS,
               example_command=["zoo", "predict", "{model}", str(folder.path / "sample.wav")])  # fmt: skip


if __name__ == "__main__":
    sys.exit(main(train, CTCSettings))
