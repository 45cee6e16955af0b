"""What a speech recognizer takes from the data: its vocabulary and, if it is new, the sampling rate."""

from dataclasses import replace

from zoo.data.splits import Splits
from zoo.models.base import Model
from zoo.models.registry import find_variant
from zoo.preprocessing.ctc_vocabulary import Vocabulary
from zoo.preprocessing.waveform import WaveformFeatureExtractor
from zoo.training.parse import SettingsError
from zoo.training.pretrained import has_new_head, require_audio_processor
from zoo.training.run import Run


def speech_model(run: Run) -> Model:
    """The model of the settings. Raises: SettingsError, also if it does not take waveforms."""
    name, source = run.config.model.name, run.config.model.source
    other = SettingsError(f"{source or name} does not take waveforms: expected a wav2vec 2.0 or a HuBERT")
    if not source and not hasattr(find_variant(name).model, "frames"):  # it lacks fields in the file of the recipe, too
        raise other
    model = run.build_model("ctc")
    if not hasattr(model, "frames"):
        raise other
    if source:
        require_audio_processor(f"model.source={source}", model.preprocess, WaveformFeatureExtractor)
    return model


def fit_to_speech(run: Run, model: Model, speech: Splits) -> Model:
    """The model with a vocabulary: that of a pretrained recognizer, else the characters of the transcripts."""
    pretrained = model.preprocess if run.config.model.source else None
    vocabulary = pretrained.vocabulary if pretrained and not has_new_head(model) else None
    if vocabulary is None:
        vocabulary = Vocabulary.of(speech.train.texts())
        model = run.build_model("ctc", vocab_size=len(vocabulary))
    sampling_rate = speech.train.sampling_rate
    extractor = pretrained or WaveformFeatureExtractor(sampling_rate=sampling_rate, return_attention_mask=True)
    model.preprocess = replace(extractor, vocabulary=vocabulary)
    return model
