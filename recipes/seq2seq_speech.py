"""Train a Whisper that writes the words of spoken phrases: an encoder of spectrograms and a decoder of text.

    python recipes/seq2seq_speech.py                     synthetic phrases, spoken by synthesized voices
    python recipes/seq2seq_speech.py data=fsdd           sequences of spoken digits, recombined in each epoch
    python recipes/seq2seq_speech.py data=FOLDER         your own clips: with a metadata.csv (file_name, text)
    python recipes/seq2seq_speech.py data=FOLDER model.source=openai/whisper-tiny lr=1e-5 language=en resample=true

The decoder learns with teacher forcing and label smoothing, the encoder of a new model also by CTC (`ctc_weight=`), the
spectrograms are masked (SpecAugment). A new model reads windows as long as the longest clip instead of 30 s. Word and
character error rates are reported: of greedy decoding for `val_samples` clips in validation and for the test set, there
with beam search if `num_beams=` is more than 1. The run folder has the transcripts of the test split in
transcripts.csv, and in alignment.png which times of some clips their tokens attend to. The trained model is saved in
runs/seq2seq_speech/model. If a run is interrupted, the same command resumes it, bit for bit.
"""

import sys

from zoo.training.main import main
from zoo.training.recipes.seq2seq_speech_config import SpeechRecognitionSettings
from zoo.training.result import Result
from zoo.training.run import Run

LONGER_RUNS = {"synthetic": "epochs=40", "fsdd": "epochs=60"}


def train(run: Run) -> Result:
    """Create the model, load the audio clips and transcripts, train it to write them."""
    from dataclasses import asdict

    from zoo.data.audio.seq2seq_speech import Seq2SeqSpeechDataModule
    from zoo.data.audio.spec_augment import SpecAugment
    from zoo.data.audio.speech import load_speech
    from zoo.tasks.error_rates import ErrorRates
    from zoo.tasks.lora import add_lora
    from zoo.tasks.seq2seq_speech import Seq2SeqSpeechTask
    from zoo.training.fit import fit
    from zoo.training.recipes.audio import pretrained_sampling_rate
    from zoo.training.recipes.transcripts import PLOTS, TranscriptsFile, fit_to_transcripts, speech_writer, transcripts

    cfg = run.config
    model = speech_writer(run)  # by name, or from any folder of weights
    speech = load_speech(cfg.data, sampling_rate=pretrained_sampling_rate(run, model), seed=cfg.seed,
                         val_fraction=cfg.trainer.val_fraction)  # fmt: skip
    folder = run.open(speech, model)  # a new one, or that of an unfinished run with the same settings and data
    speech = speech.with_validation(cfg.trainer.val_fraction, cfg.seed)
    model = fit_to_transcripts(run, model, speech)

    data = Seq2SeqSpeechDataModule(speech, model, cfg.data.batch_size, tempo=cfg.data.tempo, noise=cfg.data.noise,
                                   spec_augment=SpecAugment(**asdict(cfg.data.augment)), language=cfg.data.language,
                                   group_by_length=cfg.data.group_by_length, seed=cfg.seed,
                                   num_workers=cfg.data.num_workers)  # fmt: skip
    if cfg.lora.rank:
        add_lora(model, cfg.lora.rank, alpha=cfg.lora.alpha, dropout=cfg.lora.adapter_dropout,
                 targets=cfg.lora.targets, seed=cfg.seed)  # fmt: skip
    references = transcripts(speech)
    generation = {"num_beams": cfg.task.num_beams, "length_penalty": cfg.task.length_penalty,
                  "max_new_tokens": data.max_new_tokens, "language": cfg.data.language or None}  # fmt: skip
    task = Seq2SeqSpeechTask(model, label_smoothing=cfg.task.label_smoothing, ctc_weight=cfg.ctc_weight,
                             text_metric=ErrorRates, references=references, val_samples=cfg.task.val_samples,
                             generation=generation, optim=cfg.optim, ema=cfg.trainer.ema, seed=cfg.seed)  # fmt: skip
    task.augment = data.augment  # makes spectrograms of waveforms, with masks in training
    return fit(run, task, data, longer_runs=LONGER_RUNS, plots=PLOTS,
               callbacks=[TranscriptsFile(folder.path, references["test"])],
               example_command=["zoo", "transcribe", "{model}", str(folder.path / "sample.wav")])  # fmt: skip


if __name__ == "__main__":
    sys.exit(main(train, SpeechRecognitionSettings))
