"""Recurrent encoder-decoders against the formulas of their papers, written here as loops over single tokens."""

import json

import pytest
import torch
from speeds import full_unless
from torch import Tensor

import zoo
from zoo.models.registry import build, family
from zoo.nn.kv_cache import State
from zoo.nn.recurrent import RecurrentState, run_rnn

SMALL = dict(vocab_size=40, width=12)
ATTENDS = dict(architecture="bahdanau", cross_attention="additive")
LUONG = dict(architecture="luong", cross_attention="softmax", scale=1.0)
SHAPES = {
    "sutskever": dict(cell="lstm", depth=2, reverse_source=True),
    "sutskever gru": dict(bidirectional=True),
    "cho": dict(architecture="cho", embedding_dim=7, encoder_width=10),
    "cho lstm": dict(architecture="cho", cell="lstm", depth=2, bidirectional=True, decoder_depth=3),
    "bahdanau": ATTENDS | dict(bidirectional=True, encoder_width=20, embedding_dim=7, heads=2),
    "bahdanau lstm": ATTENDS | dict(cell="lstm", depth=2, decoder_depth=3, cross_attention="softmax"),
    "luong": LUONG | dict(cell="lstm", depth=2, reverse_source=True, tie_word_embeddings=True),
    "luong heads": LUONG | dict(heads=4, cross_attention="additive", bidirectional=True),
    "luong fed": LUONG | dict(cell="lstm", bidirectional=True, input_feeding=True, embedding_dim=7),
}
LOOPS = [name for name in SHAPES if "bahdanau" in name or "fed" in name]
CROSS = [name for name, fields in SHAPES.items() if "cross_attention" in fields]
VARIANTS = list(family("rnn_seq2seq").variants)


def small(shape: str = "sutskever", **overrides) -> zoo.Model:
    """A model whose parameters are all random."""
    fields = dict(cell="gru", depth=1, reverse_source=False) | SMALL | SHAPES[shape] | overrides
    model = zoo.create_model("lstm_seq2seq_nano", **fields).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.empty(weight.shape).normal_(0, 0.3, generator=generator))
    return model


def texts(rows: int = 3, tokens: int = 7, seed: int = 0) -> Tensor:
    return torch.randint(3, 40, (rows, tokens), generator=torch.Generator().manual_seed(seed))


def padded() -> dict[str, Tensor]:
    """Rows with padding on the right, on the left, at several places, and nowhere, on both sides."""
    mask, target = torch.ones(4, 7, dtype=torch.long), torch.ones(4, 6, dtype=torch.long)
    mask[0, 4:] = mask[1, :3] = 0
    mask[2, torch.tensor([0, 3, 6])] = 0
    target[0, 3:] = target[1, :2] = 0
    target[2, 2] = 0
    return dict(
        input_ids=texts(4), attention_mask=mask, decoder_input_ids=texts(4, 6, 1), decoder_attention_mask=target
    )


# -- the formulas ------------------------------------------------------------------------------------------------------


def cell_step(rnn: torch.nn.RNNBase, end: str, x: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """One token through one layer: x [E], states [D] each."""
    h = states[0]
    from_x = getattr(rnn, f"weight_ih{end}") @ x + getattr(rnn, f"bias_ih{end}")
    from_h = getattr(rnn, f"weight_hh{end}") @ h + getattr(rnn, f"bias_hh{end}")
    if isinstance(rnn, torch.nn.GRU):
        (r, z, n), (hr, hz, hn) = from_x.chunk(3), from_h.chunk(3)
        z = (z + hz).sigmoid()
        return ((1 - z) * (n + (r + hr).sigmoid() * hn).tanh() + z * h,)
    i, f, g, o = (from_x + from_h).chunk(4)
    c = f.sigmoid() * states[1] + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c


def read(model: zoo.Model, ids: Tensor) -> tuple[Tensor, list[tuple[Tensor, ...]]]:
    """(the encoder's states [N, S], the last states of each layer) of one text [N]."""
    c, rnn = model.config, model.encoder.rnn
    x = list(model.encoder.tokens.word.weight[ids])
    x = x[::-1] if c.reverse_source else x
    last = []
    for layer in range(c.depth):
        sides, ends = [], []
        for direction in range(1 + c.bidirectional):
            states = (x[0].new_zeros(rnn.hidden_size),) * len(["h", "c"][: 1 + (c.cell == "lstm")])
            found = []
            for token in x[::-1] if direction else x:
                states = cell_step(rnn, f"_l{layer}" + "_reverse" * direction, token, states)
                found.append(states[0])
            sides.append(found[::-1] if direction else found)
            ends.append(states)
        x = [torch.cat(both) for both in zip(*sides)]
        last.append(tuple(torch.cat(both) for both in zip(*ends)))
    return torch.stack(x[::-1] if c.reverse_source else x), last


def attend(model: zoo.Model, query: Tensor, memory: Tensor) -> Tensor:
    """The context [D] of a query [D]: Bahdanau's score w . tanh(W s + U h), or Luong's s . h of projected states."""
    cross, c = model.decoder.cross, model.config
    q, k, v = cross.q.weight @ query, memory @ cross.k.weight.T, memory @ cross.v.weight.T
    contexts = []
    for head in range(c.heads):
        some = slice(head * cross.head_dim, (head + 1) * cross.head_dim)
        if c.cross_attention == "additive":
            scores = torch.stack([(cross.core.w[head] * (q[some] + key).tanh()).sum() for key in k[:, some]])
        else:
            scale = cross.head_dim**-0.5 if c.scale is None else c.scale
            scores = torch.stack([scale * (q[some] * key).sum() for key in k[:, some]])
        contexts.append((scores.exp() / scores.exp().sum()) @ v[:, some])
    return cross.out.weight @ torch.cat(contexts)


def maxout(x: Tensor) -> Tensor:
    return torch.maximum(x[0::2], x[1::2])


def reference(model: zoo.Model, ids: Tensor, targets: Tensor) -> Tensor:
    """Logits [T, V] of one text [N] and its target [T]."""
    c, decoder = model.config, model.decoder
    memory, last = read(model, ids)
    depth, kinds = decoder.rnn.num_layers, 1 + (c.cell == "lstm")
    vector = context = None
    if c.architecture == "cho":
        vector = (decoder.summary.weight @ last[-1][0] + decoder.summary.bias).tanh()
    if c.architecture == "bahdanau":
        vector = last[-1][0].chunk(2)[1] if c.bidirectional else last[-1][0]
    if vector is None:
        states = list(last)
    else:
        first = (decoder.initial.weight @ vector + decoder.initial.bias).tanh().view(kinds, depth, c.width)
        states = [tuple(first[kind, layer] for kind in range(kinds)) for layer in range(depth)]
    fed, logits = memory.new_zeros(c.width), []
    for token in targets:
        embedded = y = decoder.tokens.word.weight[token]
        if c.architecture == "bahdanau":
            context = attend(model, states[-1][0], memory)
        extra = {"cho": vector, "bahdanau": context, "luong": fed if c.input_feeding else None}.get(c.architecture)
        y = embedded if extra is None else torch.cat([embedded, extra])
        for layer in range(depth):
            states[layer] = cell_step(decoder.rnn, f"_l{layer}", y, states[layer])
            y = states[layer][0]
        if c.architecture == "luong":
            y = fed = (decoder.readout.weight @ torch.cat([attend(model, y, memory), y])).tanh()
        elif c.architecture != "sutskever":
            y = maxout(decoder.readout.weight @ torch.cat([y, embedded, extra]) + decoder.readout.bias)
        logits.append(model.head.proj.weight @ y)
    return torch.stack(logits)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@torch.no_grad()
def test_logits_equal_the_formulas_of_the_papers(shape, dtype, tolerance):
    model, batch = small(shape).to(dtype), padded()
    y = model(**batch)
    for row in range(4):
        source, target = batch["attention_mask"][row].bool(), batch["decoder_attention_mask"][row].bool()
        expected = reference(model, batch["input_ids"][row, source], batch["decoder_input_ids"][row, target])
        torch.testing.assert_close(y[row, target], expected, rtol=tolerance, atol=tolerance)
        assert (y[row, ~target] == 0).all()


@torch.no_grad()
def test_luongs_dot_product_is_that_of_the_states_themselves():
    """With identities as projections the scores are h_t . h_s, unscaled."""
    model, ids, targets = small("luong"), texts(), texts(3, 5, 1)
    for part in "qkv":
        getattr(model.decoder.cross, part).weight.copy_(torch.eye(12))
    queries = []
    model.decoder.cross.register_forward_pre_hook(lambda module, args: queries.append(args[0]))
    with zoo.capture(model) as maps:
        model(input_ids=ids, decoder_input_ids=targets)
    expected = (queries[0] @ model.encode(ids).mT).softmax(-1)
    torch.testing.assert_close(maps["decoder.cross"][:, 0], expected)


@pytest.mark.parametrize("name", VARIANTS)
def test_variants_build_on_meta_and_round_trip(name):
    own = family("rnn_seq2seq")
    model = build(own, own.config(**own.variants[name]))
    assert all(t.is_meta for t in (*model.parameters(), *model.buffers()))
    c = model.config
    assert type(c).from_dict(json.loads(json.dumps(c.to_dict()))) == c
    assert isinstance(model.decoder.rnn, torch.nn.LSTM if "lstm" in name else torch.nn.GRU)
    assert hasattr(model.decoder, "cross") == ("seq2seq" not in name)


# -- padding, decoding, gradients --------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
@torch.no_grad()
def test_padding_is_not_seen(shape):
    model, batch = small(shape), padded()
    y, states = model(**batch), model.encode(**batch)
    other = dict(batch)
    for ids, mask in (("input_ids", "attention_mask"), ("decoder_input_ids", "decoder_attention_mask")):
        other[ids] = torch.where(batch[mask].bool(), batch[ids], 7)
    assert torch.equal(model(**other), y)
    assert (states[~batch["attention_mask"].bool()] == 0).all()
    rows = {"input_ids": batch["input_ids"][:1], "decoder_input_ids": batch["decoder_input_ids"][:1]}
    by_mask = model(**rows, attention_mask=batch["attention_mask"][:1])
    torch.testing.assert_close(model(**rows, lengths=[4]), by_mask)
    torch.testing.assert_close(model(**rows, attention_mask=batch["attention_mask"][:1], lengths=[4]), by_mask)


@torch.no_grad()
def test_a_row_of_padding_alone_has_states_of_zeros_and_changes_no_other():
    model, mask = small("luong"), torch.tensor([[0] * 7, [1] * 7, [1] * 7])
    states, final = model.read(texts(), mask)
    assert (states[0] == 0).all() and all((t[:, 0] == 0).all() for t in final)
    torch.testing.assert_close(states[1:], model.encode(texts()[1:]))
    assert model(input_ids=texts(), attention_mask=mask, decoder_input_ids=texts()).isfinite().all()


@pytest.mark.parametrize("shape", SHAPES)
@torch.no_grad()
def test_decoding_in_steps_is_the_full_forward(shape):
    model, batch = small(shape), padded()
    full, keep = model(**batch), batch["decoder_attention_mask"]
    state, parts, start = model.start_decoding(batch), [], 0
    for chunk in batch["decoder_input_ids"].split([2, 1, 3], 1):
        end = start + chunk.shape[1]
        parts.append(model.decode(chunk, state, keep[:, :end], every=True))
        start = state.length
        assert start == end
    torch.testing.assert_close(torch.cat(parts, 1), full)


@pytest.mark.parametrize("shape", SHAPES)
@torch.no_grad()
def test_states_from_the_encoders_outputs_alone_or_an_error(shape):
    model, batch = small(shape), padded()
    memory, ids = model.encode(**batch), batch["decoder_input_ids"]
    if shape in ("sutskever", "luong", "luong fed"):
        with pytest.raises(ValueError, match=r"model\.start_decoding\(batch\)"):
            model.new_state(memory, batch["attention_mask"])
        return
    for own in (model, small(shape, reverse_source=True)):
        state = own.new_state(own.encode(**batch), batch["attention_mask"])
        expected = own.decode(ids, own.start_decoding(batch), every=True)
        torch.testing.assert_close(own.decode(ids, state, every=True), expected)


@pytest.mark.parametrize("shape", SHAPES)
@torch.no_grad()
def test_rows_of_the_state_are_repeated_and_reordered(shape):
    model, batch, ids = small(shape), padded(), texts(4, 1, 2)
    state = model.start_decoding(batch)
    model.decode(ids, state)
    state.repeat(2)
    next_ids = texts(8, 1, 3)
    model.decode(next_ids, state)
    index = torch.tensor([1, 0, 2, 2, 5, 4, 7, 7])
    state.reorder(index)
    y = model.decode(texts(8, 1, 4), state)
    for row, old in enumerate(index.tolist()):
        source = {name: batch[name][old // 2, None] for name in ("input_ids", "attention_mask")}
        text = torch.cat([ids[old // 2], next_ids[old], texts(8, 1, 4)[row]])[None]
        torch.testing.assert_close(y[row], model(**source, decoder_input_ids=text)[0, -1])


@pytest.mark.parametrize("shape", SHAPES)
@torch.no_grad()
def test_generated_tokens_are_those_of_the_full_forward(shape):
    """Greedy ones, and with beams as many as the vocabulary has, the most probable texts of two tokens."""
    model, batch = small(shape, eos_token_id=None), padded()
    source = {name: batch[name] for name in ("input_ids", "attention_mask")}
    expected = torch.full((4, 1), 1)
    for _ in range(5):
        expected = torch.cat([expected, model(**source, decoder_input_ids=expected)[:, -1:].argmax(-1)], 1)
    assert torch.equal(zoo.generate(model, **source, max_new_tokens=5), expected)
    found = zoo.generate(model, **source, max_new_tokens=2, num_beams=40)
    every = torch.arange(40)
    for row in range(4):
        one = {name: value[row : row + 1].expand(40, -1) for name, value in source.items()}
        texts = torch.stack([torch.full((40,), 1), every], 1)
        scores = model(**one, decoder_input_ids=texts).log_softmax(-1)
        best = (scores[0, 0][:, None] + scores[:, 1]).argmax().item()
        assert found[row].tolist() == [1, best // 40, best % 40]


@torch.no_grad()
def test_the_state_of_recurrent_layers_cannot_be_cropped():
    model = small()
    state = model.start_decoding({"input_ids": texts()})
    model.decode(texts(), state)
    with pytest.raises(ValueError, match="RecurrentState is the state after the last token and cannot be cropped to 3"):
        state.crop(3)
    assert RecurrentState.crop is State.crop


@pytest.mark.parametrize("shape", SHAPES)
def test_every_parameter_is_trained(shape):
    model = small(shape, dropout=0.1).train()
    y = model(**padded())
    assert y.shape == (4, 6, 40)
    y.mul(torch.randn(y.shape, generator=torch.Generator().manual_seed(1))).sum().backward()
    for name, weight in model.named_parameters():
        assert weight.grad is not None and weight.grad.isfinite().all() and weight.grad.any(), name


@pytest.mark.parametrize("shape", LOOPS)
def test_gradients_of_the_loop_are_those_of_single_rows(shape):
    model, batch = small(shape).double(), padded()
    y = model(**batch)
    noise = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=y.dtype)
    (y * noise).sum().backward()
    batched = {name: weight.grad.clone() for name, weight in model.named_parameters()}
    model.zero_grad()
    for row in range(4):
        source, target = batch["attention_mask"][row].bool(), batch["decoder_attention_mask"][row].bool()
        alone = reference(model, batch["input_ids"][row, source], batch["decoder_input_ids"][row, target])
        (alone * noise[row, target]).sum().backward()
    for name, weight in model.named_parameters():
        torch.testing.assert_close(weight.grad, batched[name], rtol=1e-9, atol=1e-9)


# -- attention ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", CROSS)
@torch.no_grad()
def test_captured_maps_are_the_alignments(shape):
    """One map where the targets go through in one call; where steps wait for the one before, one map a step."""
    model, batch = small(shape), padded()
    with zoo.capture(model) as maps:
        model(**batch)
    found = maps["decoder.cross"]
    assert isinstance(found, list) == (shape in LOOPS)
    found = torch.cat(found, 2) if isinstance(found, list) else found
    assert found.shape == (4, model.config.heads, 6, 7)
    source, target = batch["attention_mask"].bool(), batch["decoder_attention_mask"].bool()
    assert (found.transpose(2, 3)[(~source)[:, None].expand((*found.shape[:2], 7))] == 0).all()
    torch.testing.assert_close(found.sum(-1), target[:, None].float().expand(found.shape[:3]))


@pytest.mark.parametrize("kind", ["softmax", "additive", "linear", "performer"])
@pytest.mark.parametrize("shape", ["bahdanau", "luong", "luong fed"])
def test_other_kinds_of_attention_align(shape, kind):
    model, batch = small(shape, cross_attention=kind), padded()
    y = model(**batch)
    assert y.isfinite().all()
    y.sum().backward()
    assert all(weight.grad is not None for weight in model.parameters())
    calls = []
    keys = model.decoder.cross.k.register_forward_hook(lambda *_: calls.append(1))
    assert torch.equal(model(**batch), y)
    keys.remove()
    assert len(calls) == 1, "the keys are projected once"


def test_one_vector_has_no_maps():
    with pytest.raises(ValueError, match="has no attention layer"), zoo.capture(small("cho")):
        pass


# -- as torch modules --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
def test_saved_and_loaded_models_are_equal_to_the_bit(shape, tmp_path):
    model = small(shape)
    loaded = zoo.load(zoo.save(model, tmp_path / "model")).eval()
    assert loaded.config == model.config and loaded.family == "rnn_seq2seq"
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), loaded.state_dict().values()))
    with torch.no_grad():
        assert torch.equal(loaded(**padded()), model(**padded()))
        loaded.encoder.rnn.weight_hh_l0.zero_()  # what is stored is what is computed with
        assert not torch.equal(loaded(**padded()), model(**padded()))


def test_the_seed_decides_the_initial_values():
    a, b, other = (zoo.create_model("gru_bahdanau_nano", seed=seed) for seed in (0, 0, 1))
    assert all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values()))
    assert not any(torch.equal(x, y) for x, y in zip(a.encoder.rnn.parameters(), other.encoder.rnn.parameters()))
    limit = a.encoder.rnn.hidden_size**-0.5
    for weight in a.encoder.rnn.parameters():
        assert 0.9 * limit < weight.abs().max() <= limit


COMPILED = [("cho lstm", "eager"), ("bahdanau", "aot_eager"), ("luong", "eager")]


@pytest.mark.parametrize(("shape", "backend"), full_unless(COMPILED[-1:], COMPILED))
@torch.no_grad()
def test_compiled_models_compute_the_same(shape, backend):
    """The compiler leaves torch's recurrent layers as they are, and compiles what is between them."""
    model, batch = small(shape), padded()
    expected = model(**batch)
    torch._dynamo.reset()
    torch.testing.assert_close(torch.compile(model, backend=backend)(**batch), expected)


@torch.no_grad()
def test_half_precision_stays_near():
    model = small("bahdanau")
    expected = model(**padded())
    y = model.bfloat16()(**padded())
    assert y.dtype == torch.bfloat16
    assert (y.float() - expected).abs().max() < 0.1 * expected.abs().max()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (dict(attention="performer"), "attention='performer'.*cross_attention="),
        (dict(mlp_dim=64), "mlp_dim=64: recurrent layers have no transformer blocks"),
        (dict(cross_attention="softmax"), "architecture='sutskever' with cross_attention='softmax'"),
        (dict(architecture="luong"), "architecture='luong' with cross_attention=None"),
        (dict(input_feeding=True), "input_feeding=True is of architecture='luong'"),
        (dict(architecture="transformer"), "architecture='transformer' should be one of"),
        (dict(cell="rnn"), "cell='rnn' should be one of"),
        (dict(decoder_depth=3), "same width and depth.*decoder_depth=3"),
        (dict(encoder_width=6), "same width and depth.*encoder_width=6"),
        (dict(bidirectional=True, width=13), "even width"),
        (dict(embedding_dim=0), "embedding_dim=0: expected at least 1"),
        (dict(embedding_dim=5, tie_word_embeddings=True), "tie_word_embeddings=True needs embedding_dim=12"),
        (ATTENDS | dict(cross_attention="local"), "its pattern"),
        (ATTENDS | dict(heads=5), "heads=5"),
        (ATTENDS | dict(cross_attention="additve"), "did you mean 'additive'"),
    ],
)
def test_fields_that_do_not_fit_are_named(overrides, message):
    with pytest.raises(ValueError, match=message):
        small(**overrides)


def test_calls_that_do_not_fit_are_named():
    model = small()
    with pytest.raises(ValueError, match="'decoder_input_ids' is missing"):
        model(input_ids=texts())
    with pytest.raises(ValueError, match="2 rows, but the encoder read 3"):
        model(input_ids=texts(), decoder_input_ids=texts(2))
    with pytest.raises(ValueError, match=r"layers=\[0\]: recurrent layers run in one call"):
        model.encode(texts(), layers=[0])
    with pytest.raises(ValueError, match="do not support gradient checkpointing"):
        model.set_checkpointing(True)
    model.set_checkpointing(False)
    alone = small(decoder_depth=0, head=None)
    assert torch.equal(alone(input_ids=texts()), alone.encode(texts()))


@pytest.mark.parametrize("bidirectional", [False, True])
@torch.no_grad()
def test_padded_rows_of_recurrent_layers_are_as_alone(bidirectional):
    rnn = torch.nn.LSTM(4, 5, 2, batch_first=True, bidirectional=bidirectional).double()
    x, keep = torch.randn(4, 7, 4, dtype=torch.double), padded()["attention_mask"].bool()
    y, last = run_rnn(rnn, x, keep)
    assert last[0].shape == last[1].shape == (2, 4, 5 * (1 + bidirectional))
    for row in range(4):
        expected, (h, c) = rnn(x[row, keep[row]][None])
        torch.testing.assert_close(y[row, keep[row]], expected[0])
        for found, alone in zip(last, (h, c)):
            torch.testing.assert_close(found[-1, row], alone[-1 - bidirectional :, 0].flatten())
