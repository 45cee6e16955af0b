"""wav2vec 2.0 (Baevski et al. 2020): a convolutional waveform encoder and a Transformer encoder."""

from zoo.models.wav2vec2.model import FAMILY, Wav2Vec2, Wav2Vec2Config

__all__ = ["FAMILY", "Wav2Vec2", "Wav2Vec2Config"]
