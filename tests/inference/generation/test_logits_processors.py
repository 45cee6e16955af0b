"""What changes scores before a token is chosen: transformers' tokens, log-probabilities, and what is refused."""

from pathlib import Path
from typing import Any

import pytest
import torch
from decoder_peers import case, nano, prompt
from text_peers import ragged
from torch import Tensor
from transformers import LogitsProcessorList
from transformers.generation import logits_process as theirs

import zoo
from zoo.inference.generation.generate import GenerateOutput

NEW = 12
Options = dict[str, Any]


def only(*tokens: int) -> Any:
    """A processor that allows these tokens alone."""

    def allow(ids: Tensor, scores: Tensor) -> Tensor:
        allowed = torch.zeros_like(scores, dtype=torch.bool)
        allowed[:, list(tokens)] = True
        return scores.masked_fill(~allowed, -torch.inf)

    return allow


def even_after_odd(row: int, ids: Tensor) -> list[int]:
    return [3, *range(4 + int(ids[-1]) % 2, 99, 3)]


def processors(beams: int) -> LogitsProcessorList:
    return LogitsProcessorList([
        theirs.NoBadWordsLogitsProcessor([[7], [8, 9], [30, 31]]), theirs.SuppressTokensLogitsProcessor([5, 6]),
        theirs.PrefixConstrainedLogitsProcessor(even_after_odd, beams),
    ])  # fmt: skip


def options_with_ends(model: zoo.Model, batch: dict[str, Tensor], beams: int) -> Options:
    """Options whose end tokens come early in two rows of plain generation; beams prefer short texts."""
    given = {"max_new_tokens": NEW, "pad_token_id": 1, "num_beams": beams, "length_penalty": -1.0}
    free = zoo.generate(model, **batch, **given, eos_token_id=None)[:, batch["input_ids"].shape[1] :]
    return given | {"eos_token_id": [3, int(free[0, 4]), int(free[1, 3])]}


# --- as transformers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("options", [
    {"no_repeat_ngram_size": 1}, {"no_repeat_ngram_size": 2}, {"no_repeat_ngram_size": 3, "repetition_penalty": 1.3},
    {"min_new_tokens": 5}, {"min_new_tokens": NEW}, {"min_new_tokens": 3, "no_repeat_ngram_size": 2}, {"processors": 1},
    {"processors": 1, "min_new_tokens": 4, "no_repeat_ngram_size": 2, "repetition_penalty": 1.2},
], ids=str)  # fmt: skip
@pytest.mark.parametrize("name", ["llama", "qwen3"])
def test_tokens_are_those_of_transformers(tmp_path: Path, name: str, options: Options, beams: int) -> None:
    peer = case(tmp_path, name)
    # In transformers, padding counts as tokens of a text that are not repeated.
    lengths = (9, 9, 9) if "no_repeat_ngram_size" in options else (9, 4, 6)
    ours, batch = zoo.load(tmp_path), ragged(lengths, side="left", pad=1, vocab=30)
    plain = options_with_ends(ours, batch, beams)
    if not options.keys() & {"min_new_tokens", "processors"}:
        plain |= {"eos_token_id": None, "length_penalty": 1.0}
    given = plain | options
    if given.pop("processors", 0):
        given["logits_processor"] = processors(beams)
    expected = peer.generate(**batch, do_sample=False, **given)
    assert torch.equal(zoo.generate(ours, **batch, **given), expected)
    padding = (1 - batch["attention_mask"]).sum(1).tolist()
    right = {key: torch.stack([row.roll(-n) for row, n in zip(x, padding)]) for key, x in batch.items()}
    new = zoo.generate(ours, **right, **given)[:, 9:]
    assert torch.equal(new, expected[:, 9:])
    free = zoo.generate(ours, **batch, **plain)
    assert free.shape != expected.shape or not torch.equal(free, expected)  # the options change something


@pytest.mark.parametrize("options", [{}, {"repetition_penalty": 1.3}, {"no_repeat_ngram_size": 2}], ids=str)
@pytest.mark.parametrize("beams", [1, 3])
def test_log_probabilities_are_those_of_transformers(tmp_path: Path, options: Options, beams: int) -> None:
    peer = case(tmp_path, "llama")
    ours, batch = zoo.load(tmp_path), ragged((9, 7, 6), side="left", pad=1, vocab=30)
    given = options_with_ends(ours, batch, beams) | options
    out = peer.generate(**batch, do_sample=False, **given, return_dict_in_generate=True, output_scores=True)
    indices = out.beam_indices if beams > 1 else None
    expected = peer.compute_transition_scores(out.sequences, out.scores, indices, normalize_logits=beams == 1)
    found = zoo.generate(ours, **batch, **given, output_scores=True)
    assert isinstance(found, GenerateOutput) and torch.equal(found.sequences, out.sequences) and found.texts is None
    ends = torch.isin(found.sequences[:, 9:], torch.tensor(given["eos_token_id"])).int()
    ended = ends.cumsum(1) - ends > 0  # after the first end token
    assert torch.equal(found.log_probs == 0, ended) and ended.any()
    expected = expected.masked_fill(ended, 0.0)
    assert torch.allclose(found.log_probs, expected, atol=1e-5)
    if beams > 1:
        assert torch.allclose(found.sequences_scores, out.sequences_scores, atol=1e-5)
        lengths = (found.log_probs < 0).sum(1)
        assert torch.allclose(found.log_probs.sum(1) * lengths, found.sequences_scores, atol=1e-5)
    else:
        assert found.sequences_scores is None


def test_log_probabilities_when_sampling_are_of_the_distribution_that_is_sampled_from() -> None:
    model = nano()
    given = dict(max_new_tokens=NEW, temperature=0.7, top_k=5, seed=0, eos_token_id=None)
    out = zoo.generate(model, prompt(), **given, output_scores=True)
    assert torch.equal(out.sequences, zoo.generate(model, prompt(), **given))
    with torch.no_grad():
        scores = model(out.sequences)[:, 4:-1] / 0.7
    best = scores.masked_fill(scores < scores.topk(5).values[..., -1:], -torch.inf).log_softmax(-1)
    assert torch.allclose(out.log_probs, best.gather(2, out.sequences[:, 5:, None])[..., 0], atol=1e-4)


def test_log_probabilities_are_zero_after_the_end() -> None:
    free = zoo.generate(nano(), prompt(), max_new_tokens=NEW, eos_token_id=None)
    out = zoo.generate(nano(), prompt(), max_new_tokens=NEW, eos_token_id=int(free[0, 7]), output_scores=True)
    assert (out.log_probs[0, :3] < 0).all() and (out.log_probs[0, 3:] == 0).all() and (out.log_probs[1] < 0).all()


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("size", [1, 2, 5])
def test_padding_is_not_part_of_an_ngram(side: str, size: int) -> None:
    model, batch = nano(), ragged((9, 3, 6), vocab=61, side=side, pad=5)
    given = dict(max_new_tokens=NEW, eos_token_id=None, no_repeat_ngram_size=size)
    out = zoo.generate(model, **batch, **given, pad_token_id=5)
    for row, ids, mask in zip(out, batch["input_ids"], batch["attention_mask"].bool(), strict=True):
        text = zoo.generate(model, ids[mask][None], **given)[0]
        assert torch.equal(row[9:], text[int(mask.sum()) :])
        ngrams = [tuple(ngram) for ngram in text.unfold(0, size, 1).tolist()]
        new = ngrams[max(0, int(mask.sum()) - size + 1) :]
        assert all(ngrams.count(ngram) == 1 for ngram in new)


# --- functions of a caller ----------------------------------------------------------------------------------------


def test_a_processor_sees_all_tokens_of_each_row_with_padding_on_the_left() -> None:
    batch, seen = ragged((5, 3), vocab=61, side="right"), []

    def look(ids: Tensor, scores: Tensor) -> Tensor:
        seen.append(ids.clone())
        return scores

    given = dict(max_new_tokens=4, eos_token_id=None, pad_token_id=2)
    out = zoo.generate(nano(), **batch, **given, logits_processor=look)
    assert torch.equal(out, zoo.generate(nano(), **batch, **given))
    assert [list(ids.shape) for ids in seen] == [[2, 5 + step] for step in range(4)]
    assert seen[-1][1, :5].tolist() == [2, 2, *batch["input_ids"][1, :3].tolist()]
    assert torch.equal(seen[-1][:, 5:], out[:, 5:-1])
    zoo.generate(nano(), **batch, **given, logits_processor=[look], num_beams=3)
    assert [list(ids.shape) for ids in seen[4:]] == [[6, 5 + step] for step in range(4)]


@pytest.mark.parametrize("options", [{}, {"num_beams": 2}, {"temperature": 1.0, "seed": 0}], ids=str)
def test_constrained_decoding_writes_what_is_allowed(options: Options) -> None:
    def then_end(ids: Tensor, scores: Tensor) -> Tensor:  # three of the tokens 10 to 12, and the end
        return only(7)(ids, scores) if ids.shape[1] >= 8 else only(10, 11, 12)(ids, scores)

    out = zoo.generate(nano(), prompt(), eos_token_id=7, logits_processor=[then_end], **options)
    assert out.shape == (2, 9) and (out[:, 8] == 7).all() and set(out[:, 5:8].flatten().tolist()) <= {10, 11, 12}


def test_rows_that_ended_do_not_need_a_token() -> None:
    free = zoo.generate(nano(), prompt(), max_new_tokens=NEW, eos_token_id=None)
    end = int(free[0, 7])

    def nothing_after_the_end(ids: Tensor, scores: Tensor) -> Tensor:
        return scores.masked_fill((ids[:, 5:] == end).any(1, keepdim=True), -torch.inf)

    given = dict(max_new_tokens=NEW, eos_token_id=end)
    out = zoo.generate(nano(), prompt(), **given, logits_processor=[nothing_after_the_end])
    assert torch.equal(out, zoo.generate(nano(), prompt(), **given))


def test_end_tokens_outside_of_the_vocabulary_never_come() -> None:
    given = dict(max_new_tokens=NEW, pad_token_id=2)
    out = zoo.generate(nano(), prompt(), **given, eos_token_id=[50256], min_new_tokens=5)
    assert torch.equal(out, zoo.generate(nano(), prompt(), **given, eos_token_id=None))


def test_streamers_work_with_processors() -> None:
    calls: list[Tensor] = []
    out = zoo.generate(nano(), prompt(1), max_new_tokens=4, no_repeat_ngram_size=1, streamer=calls.append,
                       eos_token_id=None)  # fmt: skip
    assert torch.cat(calls).tolist() == out[0, 5:].tolist() and len(set(out[0].tolist())) == len(out[0])


# --- what is refused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("beams", [1, 2])
@pytest.mark.parametrize("options, message", [
    ({"logits_processor": [only()]}, "logits_processor left no token that may follow 0 new ones in row 0"),
    ({"logits_processor": [lambda ids, scores: scores[:1]]}, r"<lambda> returned \[1, 61\], expected scores"),
    ({"logits_processor": [lambda ids, scores: None]}, "returned NoneType"),
    ({"logits_processor": [lambda ids, scores: scores * torch.nan]}, "scores that are NaN"),
    ({"logits_processor": [3]}, "logits_processor has a int"), ({"logits_processor": "abc"}, "has a str"),
    ({"no_repeat_ngram_size": -1}, "no_repeat_ngram_size=-1"), ({"min_new_tokens": 2.5}, "min_new_tokens=2.5"),
    ({"min_new_tokens": 40}, "min_new_tokens=40: expected at most max_new_tokens=32"),
])  # fmt: skip
def test_mistakes_are_explained(options: Options, message: str, beams: int) -> None:
    with pytest.raises(ValueError, match=message):
        zoo.generate(nano(), prompt(), num_beams=beams, **options)


def test_fewer_texts_than_asked_for_are_refused() -> None:
    def one_text(ids: Tensor, scores: Tensor) -> Tensor:
        return only(10 if ids.shape[1] < 7 else 7)(ids, scores)

    given = dict(eos_token_id=7, num_beams=3, logits_processor=[one_text])
    assert zoo.generate(nano(), prompt(), **given)[:, 5:].tolist() == [[10, 10, 7]] * 2
    with pytest.raises(ValueError, match="allow fewer than num_return_sequences=2"):
        zoo.generate(nano(), prompt(), **given, num_return_sequences=2)


@pytest.mark.parametrize("options, names", [
    ({"no_repeat_ngram_size": 2}, "no_repeat_ngram_size"), ({"output_scores": True}, "output_scores"),
    ({"min_new_tokens": 2, "logits_processor": [only(5)]}, "min_new_tokens, logits_processor"),
])  # fmt: skip
def test_a_draft_does_not_work_with_them(options: Options, names: str) -> None:
    with pytest.raises(ValueError, match=f"draft= does not work with {names}: omit one of the two"):
        zoo.generate(nano(), prompt(), draft=nano(), eos_token_id=7, **options)
