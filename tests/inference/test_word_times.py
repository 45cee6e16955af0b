"""Times of words from cross-attention: against transformers' token timestamps, and what words are."""

import numpy as np
import pytest
import torch
from whisper_peers import BINS, FRAMES, transformers_whisper

import zoo
from zoo.inference.word_times import (
    cross_attention,
    dynamic_time_warping,
    last_half,
    median_filter,
    token_times,
    word_times,
    words_of,
)


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (7, 30), (30, 7), (24, 50)])
def test_paths_are_those_of_transformers(shape):
    from transformers.models.whisper.generation_whisper import _dynamic_time_warping

    for seed in range(5):
        cost = np.random.default_rng(seed).standard_normal(shape)
        for values in (cost, np.round(cost)):  # whole numbers have ties
            theirs, ours = _dynamic_time_warping(values), dynamic_time_warping(values)
            inside = (theirs[0] >= 0) & (theirs[1] >= 0)
            assert all(np.array_equal(a[inside], b) for a, b in zip(theirs, ours))


def test_median_filter():
    from transformers.models.whisper.generation_whisper import _median_filter

    x = torch.randn(2, 3, 40, generator=torch.Generator().manual_seed(0))
    assert torch.equal(median_filter(x, 7), _median_filter(x[None], 7)[0])
    assert torch.equal(median_filter(x[..., :3], 7), x[..., :3])


@torch.no_grad()
def test_times_of_tokens_are_those_of_transformers(tmp_path):
    """For the tokens that its `return_token_timestamps` has maps of."""
    theirs = transformers_whisper(tmp_path, seed=1, attn_implementation="eager")
    theirs.generation_config.alignment_heads = [[0, 1], [1, 0], [1, 1]]
    theirs.generation_config.save_pretrained(tmp_path)
    ours = zoo.load(tmp_path)
    features = torch.randn(2, BINS, FRAMES, generator=torch.Generator().manual_seed(0))
    made = theirs.generate(input_features=features, return_token_timestamps=True, return_timestamps=True, language="en",
                           task="transcribe", max_new_tokens=20, force_unique_generate_call=True,
                           return_dict_in_generate=True)  # fmt: skip
    memory = ours.states(features)
    heads = zoo.models.whisper.generation.GenerationSettings.of(ours).alignment_heads
    assert heads == ((0, 1), (1, 0), (1, 1))
    for row, ids in enumerate(made["sequences"]):
        _, maps = cross_attention(ours, memory[row : row + 1], ids[None], heads)
        times = token_times(maps[:, 3:-1]) * 0.02
        assert torch.allclose(times.float(), made["token_timestamps"][row][3:-1], atol=1e-6)
    assert len(set(made["token_timestamps"][0].tolist())) > 3


def test_a_diagonal_is_followed():
    """Each token attends to its own place, in one head of two; the other is noise."""
    tokens, positions = 12, 60
    maps = torch.full((2, tokens, positions), 0.01)
    for token in range(tokens):
        maps[0, token, 5 * token : 5 * token + 5] = 1.0
    maps[1] = 0.02 * torch.rand(tokens, positions, generator=torch.Generator().manual_seed(0))
    times = token_times(maps)
    assert (times - 5 * torch.arange(tokens)).abs().max() <= 2
    assert torch.equal(token_times(maps, slice(3, 7)) >= 0, torch.ones(4, dtype=torch.bool))


def test_words_of_a_window(tmp_path):
    transformers_whisper(tmp_path)
    model = zoo.load(tmp_path)
    text = model.preprocess.tokenizer.backend.encode(" The fox, déjà vu 42.", add_special_tokens=False).ids
    memory = model.states(torch.randn(1, BINS, FRAMES, generator=torch.Generator().manual_seed(0)))
    prefix = [301, 302, 307, 311]
    words = word_times(model, memory, prefix, text)
    assert [word.text for word in words] == ["The", "fox,", "déjà", "vu", "42."]
    times = [time for word in words for time in (word.start, word.end)]
    assert times == sorted(times) and times[0] >= 0 and times[-1] <= 1.0
    assert all(0 < word.probability < 1 for word in words)
    half = word_times(model, memory, prefix, text, positions=25)
    assert half[-1].end <= 0.5
    assert words != word_times(model, memory, prefix, text, heads=[(0, 0)])
    assert last_half(model) == [(1, 0), (1, 1)]
    assert word_times(model, memory, prefix, []) == []
    assert not any(module._forward_hooks for module in model.modules())


def test_words_are_split_at_spaces_or_characters():
    e, east, capital, stop = " é".encode(), "東".encode(), "京".encode(), "。".encode()
    pieces = {1: b" Hel", 2: b"lo", 3: b",", 4: e[:2], 5: e[2:], 6: east, 7: capital[:1], 8: capital[1:], 9: stop,
              10: b" (", 11: b"ok", 12: b" "}  # fmt: skip

    def decode(ids: list[int]) -> str:
        return b"".join(pieces[i] for i in ids).decode(errors="replace")

    assert words_of([1, 2, 3, 4, 5], decode) == [("Hello,", 3), ("é", 2)]
    assert words_of([6, 7, 8, 9, 6], decode, spaces=False) == [("東", 1), ("京。", 3), ("東", 1)]
    assert words_of([1, 2, 10, 11, 12, 1], decode) == [("Hello", 2), ("(ok", 2), ("Hel", 2)]
    assert words_of([1, 2, 7], decode) == [("Hello\ufffd", 3)]
