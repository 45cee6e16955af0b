"""Whisper (Radford et al. 2022): speech recognition and translation, an encoder-decoder of log-mel spectrograms."""

from zoo.models.whisper.model import FAMILY, Whisper, WhisperConfig

__all__ = ["FAMILY", "Whisper", "WhisperConfig"]
