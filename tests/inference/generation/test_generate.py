"""Generation: transformers' output token for token, either padding, endings, sampling, drafts, and what is refused."""

import pytest
import torch
from decoder_peers import case, decoder, nano, prompt
from text_peers import ragged
from torch import Tensor

import zoo
from zoo.inference.generation import sampling
from zoo.nn import LinearAttentionState

NEW = 12


ROUNDING = 5e-5  # well above what another batch, kernel or processor changes in a score


def gap(model: zoo.Model, out: Tensor, start: int, mask: Tensor | None = None, penalty: float = 1.0) -> float:
    """The least distance between the two best scores at any step: whether rounding may change a token."""
    keep = None if mask is None else torch.cat([mask, mask.new_ones(len(out), out.shape[1] - start)], 1)
    with torch.no_grad():
        scores = model(out, keep)
        seen = torch.nn.functional.one_hot(out, scores.shape[-1]) * (1 if keep is None else keep[..., None])
        best = sampling.penalized(scores, seen.cumsum(1) > 0, penalty)[:, start - 1 : -1].topk(2).values
    return (best[..., 0] - best[..., 1]).min().item()


# --- As transformers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [
    "gpt2", "llama", "llama 3", "mistral", "qwen2 window in some layers", "qwen3", "granite", "gemma", "gemma 2",
    "gemma 3",
])  # fmt: skip
def test_greedy_as_transformers_token_for_token(tmp_path, name):
    theirs = case(tmp_path, name)
    ours, batch = zoo.load(tmp_path), ragged((9, 4, 6), side="left")
    given = dict(max_new_tokens=NEW, eos_token_id=None)
    expected = theirs.generate(**batch, do_sample=False, pad_token_id=1, **given)
    assert torch.equal(zoo.generate(ours, **batch, **given), expected)
    assert gap(ours, expected, 9, batch["attention_mask"]) > 1e-3


@pytest.mark.parametrize("options", [
    {}, {"length_penalty": 0.0}, {"length_penalty": 2.0}, {"num_return_sequences": 3}, {"repetition_penalty": 1.5},
    {"num_beams": 2, "eos_token_id": None},
])  # fmt: skip
@pytest.mark.parametrize("name", ["gpt2", "llama", "granite", "gemma 2"])
def test_beams_as_transformers_token_for_token(tmp_path, name, options):
    theirs = case(tmp_path, name)
    ours, batch = zoo.load(tmp_path), ragged((9, 4, 6), side="left", pad=1, vocab=30)
    given = {"num_beams": 3, "max_new_tokens": NEW, "eos_token_id": [3, 17, 22, 60], "pad_token_id": 1} | options
    expected = theirs.generate(**batch, do_sample=False, **given)
    assert torch.equal(zoo.generate(ours, **batch, **given), expected)


@pytest.mark.parametrize("name", ["gpt2", "qwen3"])
def test_endings_and_repetition_penalty_as_transformers(tmp_path, name):
    theirs = case(tmp_path, name)
    ours, batch = zoo.load(tmp_path), {"input_ids": prompt(4, vocab=99)}
    free = zoo.generate(ours, **batch, max_new_tokens=NEW, eos_token_id=None)
    assert gap(ours, free, 5) > ROUNDING
    ends = [int(free[0, 8]), int(free[1, 7])]
    for given in ({"eos_token_id": ends}, {"eos_token_id": None, "repetition_penalty": 1.3}):
        given |= {"max_new_tokens": NEW, "pad_token_id": 1}
        expected = theirs.generate(**batch, attention_mask=torch.ones_like(free[:, :5]), do_sample=False, **given)
        assert torch.equal(zoo.generate(ours, **batch, **given), expected)
    assert gap(ours, expected, 5, penalty=1.3) > ROUNDING


def test_the_ends_of_generation_config_count(tmp_path):
    theirs = decoder(tmp_path, "GPT2LMHeadModel")
    theirs.generation_config.eos_token_id = [7, 11]
    theirs.save_pretrained(tmp_path)
    assert zoo.load(tmp_path).config.eos_token_id == (7, 11)


# --- Rows ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name, options", [
    ("gpt_nano", {}), ("llama_nano", {"kv_heads": 2}), ("llama_nano", {"attention": "linear"}),
    ("gpt_nano", {"attention": "performer"}), ("llama_nano", {"attention": {"kind": "local", "window": 4}}),
    ("gpt_nano", {"attention": ["additive", "strided"]}),
])  # fmt: skip
def test_rows_of_a_padded_batch_go_on_as_alone(name, options, side):
    model, batch = nano(name, **options), ragged((9, 4, 6), vocab=61, side=side)
    out = zoo.generate(model, **batch, max_new_tokens=NEW, eos_token_id=None)
    assert torch.equal(out[:, :9], batch["input_ids"])
    for row, ids, mask in zip(out, batch["input_ids"], batch["attention_mask"].bool(), strict=True):
        alone = zoo.generate(model, ids[mask][None], max_new_tokens=NEW, eos_token_id=None)
        assert torch.equal(row[9:], alone[0, int(mask.sum()) :])
        assert gap(model, alone, int(mask.sum())) > ROUNDING


@pytest.mark.parametrize("name", ["gpt_nano", "llama_nano"])
def test_steps_choose_what_the_full_forward_would(name):
    model, ids = nano(name), prompt()
    out = zoo.generate(model, ids, max_new_tokens=NEW, eos_token_id=None)
    with torch.no_grad():
        assert torch.equal(model(out)[:, 4:-1].argmax(-1), out[:, 5:]) and gap(model, out, 5) > 1e-4


def test_rows_that_ended_are_filled():
    model, ids = nano(), prompt()
    free = zoo.generate(model, ids, max_new_tokens=NEW, eos_token_id=None)
    end = int(free[0, 7])
    assert end not in free[0, 5:7] and end not in free[1, 5:]
    out = zoo.generate(model, ids, max_new_tokens=NEW, eos_token_id=end)
    assert torch.equal(out[0], torch.cat([free[0, :8], torch.full((NEW - 3,), end)])) and torch.equal(out[1], free[1])
    out = zoo.generate(model, ids, max_new_tokens=NEW, eos_token_id=end, pad_token_id=2)
    assert (out[0, 8:] == 2).all()
    alone = zoo.generate(model, ids[:1], max_new_tokens=NEW, eos_token_id=[end, 60])
    assert torch.equal(alone, free[:1, :8]) and gap(model, free, 5) > ROUNDING


def test_the_prompt_is_not_scored_but_for_its_last_token(monkeypatch):
    model, shapes = nano(), []
    forward = model.head.forward
    monkeypatch.setattr(model.head, "forward", lambda x, keep=None: (shapes.append(x.shape), forward(x))[1])
    zoo.generate(model, prompt(2, 9), max_new_tokens=3)
    assert shapes == [(2, 32)] * 3


def test_linear_kinds_remember_the_same_amount_whatever_the_length(monkeypatch):
    model, states = nano("llama_nano", attention="linear", max_length=256), []
    make = model.new_state
    monkeypatch.setattr(model, "new_state", lambda *a: states.append(make(*a)) or states[-1])
    for new in (2, 200):
        zoo.generate(model, prompt(), max_new_tokens=new)
    sums = [
        [layer.mixer.sum.shape for layer in state if isinstance(layer.mixer, LinearAttentionState)] for state in states
    ]
    assert sums[0] == sums[1] and len(sums[0]) == 2


def test_a_cache_of_shared_keys_is_as_small_as_computed():
    for kv_heads in (1, 2, 4):
        state = nano("llama_nano", kv_heads=kv_heads).new_state(3, 50)
        cached = sum(x.numel() * x.element_size() for layer in state for x in (layer.mixer.k, layer.mixer.v))
        assert cached == 2 * 2 * 3 * kv_heads * 50 * 8 * 4  # k and v, layers, rows, heads, tokens, head_dim, bytes


def test_the_model_is_left_as_it_was_and_the_output_can_be_trained_on():
    model = nano(dropout=0.5).train()
    model.blocks[0].eval()
    modes = [m.training for m in model.modules()]
    out = zoo.generate(model, prompt(), max_new_tokens=4)
    assert [m.training for m in model.modules()] == modes
    assert torch.equal(out, zoo.generate(model.eval(), prompt(), max_new_tokens=4))
    model(out).sum().backward()


@pytest.mark.parametrize("dtype", [None, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("side", [None, "left"])
def test_optimized_models_generate(dtype, side):
    model = nano(width=256, heads=4)
    fast = zoo.optimize(model, dtype=dtype, rows="one")
    batch = {"input_ids": prompt()} if side is None else ragged((5, 3), vocab=61, side=side)
    out = zoo.generate(fast, **batch, max_new_tokens=NEW, eos_token_id=None)
    mask = batch.get("attention_mask", torch.ones_like(batch["input_ids"]))
    whole = torch.cat([mask, mask.new_ones(2, NEW)], 1)
    with torch.no_grad():  # each step chooses what the full forward would, up to rounding
        scores = fast(out, whole)[:, 4:-1]
    chosen = scores.gather(2, out[:, 5:, None])[..., 0]
    assert (scores.amax(2) - chosen).max() < (0.25 if dtype == torch.bfloat16 else ROUNDING)
    if dtype != torch.bfloat16:
        assert torch.equal(out, zoo.generate(model, **batch, max_new_tokens=NEW, eos_token_id=None))
        assert gap(model, out, 5, mask) > ROUNDING


def test_ids_of_any_integer_type_and_weights_in_half_precision():
    model = nano("llama_nano").to(torch.bfloat16)
    out = zoo.generate(model, prompt().int(), max_new_tokens=3)
    assert out.dtype == torch.long and torch.equal(out, zoo.generate(model, prompt(), max_new_tokens=3))


# --- Sampling -----------------------------------------------------------------------------------------------------


def test_narrowing_keeps_what_it_says():
    scores = torch.tensor([[0.1, 0.5, 0.3, 0.1]]).log()
    kept = {
        "top_k=2": sampling.keep_top_k(scores, 2), "top_k=9": sampling.keep_top_k(scores, 9),
        "top_p=.49": sampling.keep_top_p(scores, 0.49), "top_p=.51": sampling.keep_top_p(scores, 0.51),
        "min_p=.5": sampling.keep_min_p(scores, 0.5),
    }  # fmt: skip
    assert {name: x[0].isfinite().tolist() for name, x in kept.items()} == {
        "top_k=2": [False, True, True, False], "top_k=9": [True] * 4, "top_p=.49": [False, True, False, False],
        "top_p=.51": [False, True, True, False], "min_p=.5": [False, True, True, False],
    }  # fmt: skip


@pytest.mark.parametrize("options", [
    {"top_k": 5}, {"top_p": 0.6}, {"min_p": 0.2}, {"top_k": 20, "top_p": 0.8, "min_p": 0.05, "repetition_penalty": 1.4}
])  # fmt: skip
def test_probabilities_are_those_of_transformers(options):
    from transformers import LogitsProcessorList
    from transformers.generation import logits_process as theirs

    scores, seen_ids = 3 * torch.randn(7, 40, generator=torch.Generator().manual_seed(0)), prompt(7, 6, 40)
    chain = LogitsProcessorList()
    if "repetition_penalty" in options:
        chain.append(theirs.RepetitionPenaltyLogitsProcessor(options["repetition_penalty"]))
    chain.append(theirs.TemperatureLogitsWarper(0.7))
    for name, cls in (("top_k", theirs.TopKLogitsWarper), ("top_p", theirs.TopPLogitsWarper),
                      ("min_p", theirs.MinPLogitsWarper)):  # fmt: skip
        if name in options:
            chain.append(cls(options[name]))
    seen = torch.zeros(7, 40, dtype=torch.bool).scatter(1, seen_ids, True)
    ours = sampling.Sampling(temperature=0.7, **options).probabilities(scores, seen)
    assert torch.allclose(ours, chain(seen_ids, scores).softmax(-1), atol=1e-6)


def test_a_seed_decides_and_samples_differ():
    model, given = nano(), dict(max_new_tokens=NEW, temperature=1.0, num_return_sequences=3)
    first, again = (zoo.generate(model, prompt(), seed=5, **given) for _ in range(2))
    assert torch.equal(first, again) and first.shape == (6, 5 + NEW)
    assert torch.equal(first[:, :5], prompt().repeat_interleave(3, 0))
    assert len(first[:3].unique(dim=0)) == 3
    assert not torch.equal(first, zoo.generate(model, prompt(), seed=6, **given))


def test_samples_are_distributed_as_the_scores_say():
    model, ids = nano(), prompt(1)
    out = zoo.generate(model, ids, max_new_tokens=1, temperature=1.0, num_return_sequences=20_000, seed=0)
    with torch.no_grad():
        expected = model(ids)[0, -1].softmax(-1)
    assert_same_distribution(out[:, -1], expected)


def assert_same_distribution(tokens: Tensor, expected: Tensor) -> None:
    """A chi-square test; six standard deviations."""
    counts, n = torch.bincount(tokens, minlength=len(expected)), len(tokens)
    usual = expected * n > 5
    chi = ((counts - expected * n).square() / (expected * n))[usual].sum()
    freedom = int(usual.sum())
    assert chi < freedom + 6 * (2 * freedom) ** 0.5, (chi, freedom)


# --- Drafts -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gpt_nano", "llama_nano"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_draft_changes_nothing_when_greedy(name, side):
    model, batch = nano(name, seed=0), ragged((9, 4, 6), vocab=61, side=side)
    with torch.no_grad():  # a draft that is right now and then
        draft = nano(name, seed=0)
        for parameter in draft.parameters():
            parameter.add_(0.03 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    free = zoo.generate(model, **batch, max_new_tokens=30, eos_token_id=None)
    for given in ({"eos_token_id": None}, {"eos_token_id": int(free[0, 14]), "pad_token_id": 2},
                  {"eos_token_id": None, "repetition_penalty": 1.4}):  # fmt: skip
        expected = zoo.generate(model, **batch, max_new_tokens=30, **given)
        assert torch.equal(zoo.generate(model, **batch, max_new_tokens=30, draft=draft, **given), expected)
        assert torch.equal(zoo.generate(model, **batch, max_new_tokens=30, draft=model, **given), expected)
    left = ragged((9, 4, 6), vocab=61, side="left")
    for new, penalty in ((free, 1.0), (expected, 1.4)):
        whole = torch.cat([left["input_ids"], new[:, 9:]], 1)
        assert gap(model, whole, 9, left["attention_mask"], penalty) > ROUNDING


def test_a_draft_goes_up_to_the_end_of_the_position_table():
    model, draft, ids = nano(max_length=20), nano(seed=3, max_length=20), prompt(3)
    expected = zoo.generate(model, ids, max_new_tokens=15)
    assert gap(model, expected, 5) > ROUNDING
    for helper in (draft, model):
        assert torch.equal(zoo.generate(model, ids, max_new_tokens=15, draft=helper), expected)


def test_a_draft_saves_calls_of_the_model(monkeypatch):
    model, calls = nano(), []
    decode = type(model).decode
    monkeypatch.setattr(type(model), "decode", lambda self, *a, **k: calls.append(self) or decode(self, *a, **k))
    out = zoo.generate(model, prompt(1), max_new_tokens=26, draft=nano(), seed=0)
    assert sum(one is model for one in calls) == 6  # the prompt, and five tokens at a time
    assert gap(model, out, 5) > ROUNDING


def test_a_draft_does_not_change_the_distribution():
    model, draft, ids = nano(vocab_size=12), nano(vocab_size=12, seed=7), prompt(1, vocab=12)
    given = dict(max_new_tokens=3, temperature=0.8, top_k=9, num_return_sequences=20_000, seed=0)
    out = zoo.generate(model, ids, draft=draft, **given)[:, 5:]
    plain = zoo.generate(model, ids, **given)[:, 5:]
    code = torch.tensor([144, 12, 1])
    joint = torch.zeros(1728)
    choice = sampling.Sampling(temperature=0.8, top_k=9)
    pairs = torch.cartesian_prod(torch.arange(12), torch.arange(12))
    with torch.no_grad():
        text = torch.cat([ids.expand(144, -1), pairs], 1)
        p = choice.probabilities(model(text)[:, 4:], None)  # of each of the three tokens, for every pair before
    first, second = p[:, 0].gather(1, pairs[:, :1]), p[:, 1].gather(1, pairs[:, 1:])
    joint = (first * second * p[:, 2]).flatten()
    for tokens in (plain, out):
        assert_same_distribution((tokens * code).sum(1), joint)


# --- Text ---------------------------------------------------------------------------------------------------------


class Letters:
    """A tokenizer of one letter for each id."""

    letters = "".join(chr(0x41 + i) for i in range(61))

    def decode(self, ids, **_):
        return "".join(self.letters[i] for i in ids)

    def encode(self, text):
        return [self.letters.index(c) for c in text]


def test_stop_texts_end_a_row():
    model, ids, tokenizer = nano(), prompt(1), Letters()
    free = zoo.generate(model, ids, max_new_tokens=NEW, eos_token_id=None)
    assert gap(model, free, 5) > ROUNDING
    text = tokenizer.decode(free[0, 5:].tolist())
    stop = text[3:6]
    length = text.index(stop) + 3
    for given in ({}, {"draft": nano(seed=2)}):
        out = zoo.generate(model, ids, max_new_tokens=NEW, stop=("no such", stop), tokenizer=tokenizer, **given)
        assert torch.equal(out, free[:, : 5 + length])
    with pytest.raises(ValueError, match="tokenizer"):
        zoo.generate(model, ids, stop="abc")
    with pytest.raises(ValueError, match="pad_token_id"):
        zoo.generate(model, prompt(), stop=stop, tokenizer=tokenizer)


def test_streamers_receive_each_token():
    model, ids, received = nano(), prompt(1), []

    class Streamer:
        def put(self, tokens):
            received.append(tokens.tolist())

        def end(self):
            received.append("end")

    for given in ({}, {"draft": nano(seed=2)}):
        received.clear()
        out = zoo.generate(model, ids, max_new_tokens=4, streamer=Streamer(), **given)[0].tolist()
        assert received == [[out[:5]], *([t] for t in out[5:]), "end"]
    calls = []
    zoo.generate(model, prompt(2), max_new_tokens=4, streamer=calls.append)
    assert [c.shape for c in calls] == [(2,)] * 4


def test_text_is_streamed_as_it_comes():
    from zoo.inference.generation.streaming import stream_text

    model, parts = nano(), []
    whole = stream_text(model, "HELLO", write=parts.append, tokenizer=Letters(), max_new_tokens=6)
    assert parts[0] == "HELLO" and "".join(parts) == whole and len(whole) == 11
    with pytest.raises(ValueError, match="tokenizer"):
        stream_text(model, "HELLO")


def test_the_command_goes_on_from_a_text(tmp_path, capsys):
    from zoo.cli.main import main
    from zoo.preprocessing.tokenizer_training import train

    tokens = train("bpe", ["the cat sat on the mat", "the dog sat on the log"], 280, max_length=64)
    model = nano(vocab_size=tokens.vocab_size)
    model.preprocess = tokens
    folder = str(zoo.save(model, tmp_path / "saved"))
    assert main(["generate", folder, "the cat", "max_new_tokens=5", "temperature=0.9", "seed=1"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("the cat") and shown.endswith("\n") and len(shown) > 8
    assert main(["generate", folder, "the cat", "max_tokens=5"]) == 2
    assert "max_tokens" in capsys.readouterr().err and main(["generate", folder, ""]) == 2


# --- What is refused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("change, message", [
    ({"num_beams": 0}, "num_beams=0"), ({"num_beams": 2.5}, "num_beams"), ({"max_new_tokens": 0}, "max_new_tokens=0"),
    ({"num_return_sequences": 0}, "num_return_sequences=0"), ({"temperature": -1.0}, "temperature=-1"),
    ({"top_p": 0.0}, "top_p"), ({"top_k": -1}, "top_k"), ({"min_p": 2.0}, "min_p"),
    ({"repetition_penalty": 0.0}, "repetition_penalty"), ({"num_beams": 2, "temperature": 1.0}, "temperature"),
    ({"num_return_sequences": 2}, "all the same"), ({"num_beams": 2, "num_return_sequences": 3}, "num_beams=2"),
    ({"num_beams": 2, "streamer": print}, "streamer"), ({"eos_token_id": "eos"}, "eos_token_id='eos'"),
    ({"stop": ""}, "stop"), ({"streamer": 3}, "streamer=3"),
    ({"input_ids": torch.tensor([[5, 61, 3]])}, "token 61 in row 0, position 1 is out of range: expected 0 to 60"),
    ({"input_ids": torch.tensor([[5, 6], [5, -3]])}, "token -3 in row 1, position 1"),
    ({"input_ids": torch.rand(1, 4)}, "expected integer token ids"), ({"input_ids": torch.tensor([4, 5])}, r"\[B, N\]"),
    ({"input_ids": torch.empty(1, 0, dtype=torch.long)}, "empty prompt"),
    ({"attention_mask": torch.ones(2, 4)}, "attention_mask"),
    ({"attention_mask": torch.tensor([[1] * 5, [0] * 5])}, "row 1 has only padding"),
    ({"input_ids": torch.ones(1, 70, dtype=torch.long)}, "shorten the prompt to 63"),
    ({"max_new_tokens": 60}, "set max_new_tokens=59 or less"),
])  # fmt: skip
def test_mistakes_are_explained(change, message):
    given = {"input_ids": prompt(), "tokenizer": Letters()} | change
    with pytest.raises(ValueError, match=message):
        zoo.generate(nano(), **given)


def test_models_that_do_not_generate_are_refused():
    with pytest.raises(ValueError, match="head='classify'"):
        zoo.generate(nano(head="classify"), prompt())
    with pytest.raises(ValueError, match="decoder"):
        zoo.generate(zoo.create_model("vit_cifar_tiny", seed=0), prompt())
    with pytest.raises(ValueError, match="share the model's tokenizer"):
        zoo.generate(nano(), prompt(), draft=nano(vocab_size=62))
    with pytest.raises(ValueError, match="draft= needs kinds"):
        zoo.generate(nano(), prompt(), draft=nano(attention="linear"))


def test_rotary_positions_go_beyond_max_length_with_a_warning():
    with pytest.warns(UserWarning, match="max_length=64"):
        zoo.generate(nano("llama_nano"), prompt(), max_new_tokens=70)
