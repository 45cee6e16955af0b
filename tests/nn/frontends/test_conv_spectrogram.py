"""Whisper's convolutional stem."""

import pytest
import torch
from peers import error

from zoo.nn import initialize
from zoo.nn.frontends.conv_spectrogram import ConvSpectrogramEmbedding


def stem(dropout: float = 0.0) -> ConvSpectrogramEmbedding:
    made = ConvSpectrogramEmbedding(6, 20, 8, dropout=dropout)
    initialize(made, 0)
    return made


def test_it_is_that_of_transformers():
    """With its table of sinusoids, as freshly made."""
    from transformers import WhisperConfig
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    sizes = dict(num_mel_bins=6, max_source_positions=10, d_model=8, encoder_layers=0, encoder_attention_heads=2)
    theirs, ours, x = WhisperEncoder(WhisperConfig(**sizes)).eval(), stem(), torch.randn(3, 6, 20)
    ours.conv1.load_state_dict(theirs.conv1.state_dict())
    ours.conv2.load_state_dict(theirs.conv2.state_dict())
    with torch.no_grad():
        expected = theirs(x).last_hidden_state
        assert error(theirs.layer_norm(ours(x)), expected) <= 1e-5
    assert not ours.positions.requires_grad and "positions" in ours.state_dict()


def test_dropout_is_for_training_only():
    made, x = stem(dropout=0.5), torch.randn(1, 6, 20)
    assert torch.equal(made.eval()(x), made(x)) and not torch.equal(made.train()(x), made.eval()(x))


def test_sizes_that_do_not_fit():
    with pytest.raises(ValueError, match="an even number of frames"):
        ConvSpectrogramEmbedding(6, 21, 8)
    for shape in ((1, 20, 6), (1, 6, 22), (6, 20)):
        with pytest.raises(ValueError, match=r"expected spectrograms \[B, 6 mel bins, 20 frames\]"):
            stem()(torch.zeros(shape))
