"""CTC: loss and decoding against all paths written out, the vocabulary, error rates."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis_examples import examples

from zoo.inference.ctc_decoding import beam, greedy
from zoo.nn.losses.ctc import ctc_loss, frames_needed
from zoo.preprocessing.ctc_vocabulary import Vocabulary


def read(path: tuple[int, ...], blank: int) -> tuple[int, ...]:
    """The text of a path, the definition."""
    return tuple(symbol for symbol, _ in itertools.groupby(path) if symbol != blank)


def by_hand(logits: torch.Tensor, blank: int = 0) -> dict[tuple[int, ...], float]:
    """Log probability of every text of one row [N, V], summed over all paths."""
    log_p = logits.double().log_softmax(-1)
    texts: dict[tuple[int, ...], float] = {}
    for path in itertools.product(range(logits.shape[1]), repeat=len(logits)):
        p = math.exp(sum(float(log_p[n, symbol]) for n, symbol in enumerate(path)))
        texts[read(path, blank)] = texts.get(read(path, blank), 0.0) + p
    return {text: math.log(p) for text, p in texts.items()}


@pytest.mark.parametrize("blank", [0, 2])
@pytest.mark.parametrize("seed", range(4))
def test_a_beam_that_drops_nothing_is_exact(seed: int, blank: int) -> None:
    logits = 2 * torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(seed))
    for row, predictions in zip(logits, beam(logits, width=400, blank=blank)):
        expected = by_hand(row, blank)
        found = {tuple(ids): score for ids, score in predictions}
        assert len(found) == len(predictions), "a text stands there twice"
        assert found == pytest.approx(expected, abs=1e-9)
        scores = [score for _, score in predictions]
        assert scores == sorted(scores, reverse=True)


@settings(deadline=None, max_examples=examples(30))
@given(st.integers(0, 10_000), st.integers(1, 6), st.integers(1, 8))
def test_a_narrow_beam_claims_no_more_than_there_is(seed: int, frames: int, width: int) -> None:
    logits = 3 * torch.randn(1, frames, 3, generator=torch.Generator().manual_seed(seed))
    expected = by_hand(logits[0])
    predictions = beam(logits, width=width)[0]
    assert len(predictions) <= width and len({tuple(ids) for ids, _ in predictions}) == len(predictions)
    assert all(score <= expected[tuple(ids)] + 1e-9 for ids, score in predictions)


def test_the_beam_sums_over_paths_where_greedy_takes_one() -> None:
    """Hannun's example: `-` is the best symbol of both frames, but the paths of `a` are together more probable."""
    logits = torch.tensor([[[0.55, 0.45], [0.55, 0.45]]]).log()
    assert greedy(logits) == [[]]
    assert beam(logits)[0][0][0] == [1]
    assert beam(logits)[0][0][1] == pytest.approx(math.log(1 - 0.55**2))


def test_rows_of_a_batch_are_what_they_are_alone() -> None:
    logits = torch.randn(3, 9, 5, generator=torch.Generator().manual_seed(1))
    frames = torch.tensor([9, 4, 0])
    together, best = beam(logits, frames, width=6), greedy(logits, frames)
    for i, count in enumerate(frames.tolist()):
        alone = beam(logits[i : i + 1, :count], width=6)[0]
        assert [ids for ids, _ in together[i]] == [ids for ids, _ in alone]
        assert [s for _, s in together[i]] == pytest.approx([s for _, s in alone])
        assert best[i] == greedy(logits[i : i + 1, :count])[0]
    assert together[2] == [([], 0.0)]


def test_greedy_reads_a_path() -> None:
    path = torch.tensor([[1, 1, 0, 1, 2, 2, 0, 0, 3]])
    assert greedy(torch.nn.functional.one_hot(path, 4).float()) == [[1, 1, 2, 3]]


def test_the_loss_is_that_of_all_paths() -> None:
    logits = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    labels, lengths = torch.tensor([[1, 1], [2, 0]]), torch.tensor([2, 1])
    frames = torch.tensor([5, 3])
    found = ctc_loss(logits, frames, labels, lengths, reduction="none")
    assert float(found[0]) == pytest.approx(-by_hand(logits[0])[1, 1])
    assert float(found[1]) == pytest.approx(-by_hand(logits[1, :3])[2,])
    assert float(ctc_loss(logits, frames, labels, lengths)) == pytest.approx(float((found / lengths).mean()))


def test_low_precision_is_summed_in_float32() -> None:
    logits = torch.randn(1, 50, 8, generator=torch.Generator().manual_seed(0)).bfloat16().requires_grad_()
    loss = ctc_loss(logits, torch.tensor([50]), torch.tensor([[1, 2, 3]]), torch.tensor([3]))
    loss.backward()
    assert loss.dtype == torch.float32 and logits.grad is not None and logits.grad.isfinite().all()


def test_a_text_too_long_for_its_frames_is_an_error() -> None:
    labels, lengths = torch.tensor([[1, 2, 0], [1, 1, 1]]), torch.tensor([2, 3])
    assert frames_needed(labels, lengths).tolist() == [2, 5]
    with pytest.raises(ValueError, match="row 1: 3 symbols need at least 5 frames, but the clip has 4"):
        ctc_loss(torch.zeros(2, 5, 3), torch.tensor([5, 4]), labels, lengths)


def test_padding_equal_to_the_last_symbol_needs_no_frames() -> None:
    labels, lengths = torch.tensor([[1, 2, 2], [0, 0, 0], [2, 2, 2]]), torch.tensor([2, 0, 2])
    assert frames_needed(labels, lengths).tolist() == [2, 0, 3]
    assert ctc_loss(torch.zeros(3, 3, 3), torch.tensor([2, 1, 3]), labels, lengths, reduction="none").isfinite().all()


def test_texts_go_to_ids_and_back() -> None:
    vocabulary = Vocabulary.of(["to be", "or  not"])
    assert vocabulary.tokens == ("<pad>", "|", "b", "e", "n", "o", "r", "t") and vocabulary.blank_id == 0
    assert vocabulary.decode(vocabulary.encode(" not  to be ")) == "not to be"
    assert vocabulary.decode([0, 1, 7, 5, 1]) == "to"
    with pytest.raises(ValueError, match="'x'"):
        vocabulary.encode("box")


def test_the_blank_is_where_it_stands() -> None:
    assert Vocabulary(("a", "|", "<pad>", "b")).blank_id == 2
    assert Vocabulary(("a", "_", "|"), blank="_").blank_id == 1


def test_the_vocabulary_of_transformers() -> None:
    text = '{"<s>": 1, "</s>": 2, "<unk>": 3, "|": 4, "E": 5, "T": 6, "[PAD]": 0}'
    vocabulary = Vocabulary.from_json(text)
    assert vocabulary.blank_id == 0 and vocabulary.encode("te E") == [6, 5, 4, 5]
    assert vocabulary.decode([1, 6, 5, 3, 2]) == "TE"
    assert Vocabulary.from_json(vocabulary.to_json()) == vocabulary


@pytest.mark.parametrize(("make", "message"), [
    (lambda: Vocabulary(("a", "b")), "blank '<pad>' is missing in the vocabulary of 2 symbols"),
    (lambda: Vocabulary(("<pad>", "a", "a")), "twice"),
    (lambda: Vocabulary.of(["", " "]), "all texts are empty"),
    (lambda: Vocabulary.of(["a|b"]), "reserved for the space"),
    (lambda: Vocabulary.from_json('{"a": 0, "<pad>": 2}'), "each id from 0 to 1 once"),
    (lambda: beam(torch.zeros(1, 2, 3), width=0), "at least 1"),
])  # fmt: skip
def test_what_is_refused(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("decode", [greedy, beam])
@pytest.mark.parametrize("shape, frames, blank, message", [
    ((5, 3), None, 0, r"logits: expected floats \[B, N, V\], got \[5, 3\]"),
    ((1, 5, 3), None, 3, "blank=3: expected 0 to 2"),
    ((1, 5, 3), [6], 0, "frames: expected 1 numbers from 0 to 5"), ((1, 5, 3), [5, 5], 0, "expected 1 numbers"),
    ((1, 5, 3), [-1], 0, "expected 1 numbers"),
])  # fmt: skip
def test_scores_that_cannot_be_decoded(decode, shape, frames, blank, message) -> None:
    with pytest.raises(ValueError, match=message):
        decode(torch.zeros(shape), None if frames is None else torch.tensor(frames), blank=blank)
