import math

import pytest
import torch

from zoo.nn import sinusoids, sinusoids_2d


def test_sinusoids_are_those_of_distilbert_marian_and_whisper():
    from transformers.models.distilbert.modeling_distilbert import create_sinusoidal_embeddings
    from transformers.models.marian.modeling_marian import MarianSinusoidalPositionalEmbedding
    from transformers.models.whisper.modeling_whisper import sinusoids as whisper

    n, d = 50, 24
    distilbert = torch.empty(n, d)
    create_sinusoidal_embeddings(n, d, distilbert)
    torch.testing.assert_close(sinusoids(n, d), distilbert, atol=1e-6, rtol=0)
    marian = MarianSinusoidalPositionalEmbedding(n, d).create_weight()
    torch.testing.assert_close(sinusoids(n, d, "halves"), marian, atol=1e-6, rtol=0)
    torch.testing.assert_close(sinusoids(n, d, "halves_minus_one"), whisper(n, d), atol=1e-5, rtol=0)


@pytest.mark.parametrize("layout", ["interleaved", "halves", "halves_minus_one"])
def test_sinusoids_by_hand(layout):
    table = sinusoids(7, 8, layout)
    for n in (0, 1, 6):
        for i in range(4):
            angle = n / 10000 ** (i / (3 if layout == "halves_minus_one" else 4))
            at = (2 * i, 2 * i + 1) if layout == "interleaved" else (i, i + 4)
            assert table[n, list(at)].tolist() == pytest.approx([math.sin(angle), math.cos(angle)], abs=1e-6)
    with pytest.raises(ValueError, match=r"width=7: .*even width"):
        sinusoids(4, 7)


def test_sinusoids_of_a_grid_are_maes():
    table = sinusoids_2d((2, 5), 16).view(2, 5, 16)
    angles = [lambda place, i=i: place / 10000 ** (i / 4) for i in range(4)]
    for row, column in ((0, 0), (1, 3), (0, 4)):
        expected = [f(a(place)) for place in (column, row) for f in (math.sin, math.cos) for a in angles]
        assert table[row, column].tolist() == pytest.approx(expected, abs=1e-6)
    with pytest.raises(ValueError, match=r"width=6: .*multiple of 4"):
        sinusoids_2d((2, 2), 6)
