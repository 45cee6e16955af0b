"""One contract for every encoder-decoder family of the registry; a new family is found here.

A family whose fields or inputs differ from those of texts has an entry in `OWN` or `BATCHES`.
"""

import warnings
from collections.abc import Callable

import pytest
import torch
from peers import close
from speeds import full_unless
from torch import Tensor

import zoo
from zoo.models.encoder_decoder import EncoderDecoder
from zoo.models.registry import families, family
from zoo.nn import Attention, Stack
from zoo.nn.registry import BUILT_IN, CORES

# CoCa also contrasts: tests/models/test_coca.py has its contract
NAMES = [f.name for f in families() if issubclass(f.model, EncoderDecoder) and f.name != "coca"]
TINY = dict(
    width=32, depth=2, heads=4, mlp_dim=48, vocab_size=50, max_length=32, dropout=0.0, attention_dropout=0.0,
    decoder_start_token_id=2, pad_token_id=1, eos_token_id=3,
)  # fmt: skip
OWN: dict[str, dict] = {
    "rnn_seq2seq": dict(mlp_dim=None, heads=1), "whisper": dict(mel_bins=16, frames=22),
    "blip": dict(image_size=16, patch_size=8),
}  # fmt: skip
SELF_KINDS = (
    "local", "dilated", "shifted_window", "block_sparse", "strided", "longformer", "bigbird", "gated_linear", "delta",
    "gated_delta", "axial_row", "axial_column", "conv_like",
)  # fmt: skip
CROSS_KINDS = [kind for kind in BUILT_IN if kind not in SELF_KINDS]


def texts() -> dict[str, Tensor]:
    """Three rows without padding."""
    return {"input_ids": torch.randint(5, 50, (3, 11), generator=torch.Generator().manual_seed(0))}


def spectrograms() -> dict[str, Tensor]:
    return {"input_features": torch.randn(3, 16, 22, generator=torch.Generator().manual_seed(0))}


def images() -> dict[str, Tensor]:
    return {"pixel_values": torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))}


BATCHES: dict[str, Callable[[], dict[str, Tensor]]] = {"whisper": spectrograms, "blip": images}


def ids_name(name: str) -> str:
    """The input with the decoder's tokens: "decoder_input_ids", or the name that processors of images give it."""
    return f"{family(name).model.decoder_prefix}input_ids"


def smallest(name: str) -> str:
    """The first variant, which is that with the fewest parameters."""
    return next(iter(family(name).variants))


def small(name: str, **overrides) -> EncoderDecoder:
    names = family(name).config.names()
    fields = {k: v for k, v in (TINY | OWN.get(name, {})).items() if k in names}
    model = zoo.create_model(smallest(name), seed=0, **fields | overrides).eval()
    assert isinstance(model, EncoderDecoder)
    return model


def source(name: str) -> dict[str, Tensor]:
    return BATCHES.get(name, texts)()


def batch_of(name: str) -> dict[str, Tensor]:
    ids = torch.randint(5, 50, (3, 7), generator=torch.Generator().manual_seed(1))
    return source(name) | {ids_name(name): ids}


def padded(name: str) -> dict[str, Tensor]:
    """Padding on the right, on the left and inside a text, of the encoder and of the decoder."""
    mask = torch.ones(3, 11, dtype=torch.long)
    mask[0, 8:] = 0
    mask[1, :4] = 0
    mask[2, 3] = 0
    decoder = torch.ones(3, 7, dtype=torch.long)
    decoder[0, 5:] = 0
    decoder[1, :2] = 0
    decoder[2, 3] = 0
    return batch_of(name) | {"attention_mask": mask, "decoder_attention_mask": decoder}


def rows(batch: dict[str, Tensor], *index: int) -> dict[str, Tensor]:
    return {key: value[list(index)] for key, value in batch.items()}


def has_stack(name: str) -> bool:
    """Whether both sides are stacks of blocks: not so for recurrent ones."""
    return isinstance(getattr(small(name).encoder, "blocks", None), Stack)


PADDED = [name for name in NAMES if "decoder_attention_mask" in family(name).model.inputs and name not in BATCHES]
STACKED = [name for name in NAMES if has_stack(name)]


def gradients(model: EncoderDecoder, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    model.zero_grad()
    y = model(**batch)
    y.mul(torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y)).sum().backward()
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    missing = [name for name, p in trained if p.grad is None or not p.grad.isfinite().all()]
    assert trained and not missing, f"no finite gradient: {missing}"
    return {name: p.grad.clone() for name, p in trained}


@pytest.mark.parametrize("name", NAMES)
def test_trains_saves_and_loads(name, tmp_path):
    model, batch = small(name), batch_of(name)
    made = gradients(model, batch)
    assert sum(bool(g.any()) for g in made.values()) > len(made) // 2
    loaded = zoo.load(zoo.save(model, tmp_path / "model"))
    assert loaded.config == model.config and loaded.family == name and loaded.variant == model.variant
    assert not any(t.is_meta for t in (*loaded.parameters(), *loaded.buffers()))
    assert loaded.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(a, b) for a, b in zip(loaded.state_dict().values(), model.state_dict().values()))
    report = loaded.load_report
    assert report.mapped and not (report.initialized or report.dropped or report.resampled)
    with torch.no_grad():
        assert torch.equal(loaded.eval()(**batch), model(**batch))


@pytest.mark.parametrize("name", NAMES)
def test_the_seed_decides_everything(name):
    a, b = small(name), small(name)
    assert all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values()))


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_a_row_does_not_depend_on_its_batch(name):
    model, batch = small(name), batch_of(name)
    close(model(**rows(batch, 1)), model(**batch)[1:2])


@pytest.mark.parametrize("name", PADDED)
@torch.no_grad()
def test_padding_does_not_affect_outputs(name):
    model, batch = small(name), padded(name)
    keep, decoder_keep = batch["attention_mask"].bool(), batch["decoder_attention_mask"].bool()
    dropped = model(**batch)
    model.drop_padding = False
    masked = model(**batch)
    other = batch | {
        "input_ids": torch.where(keep, batch["input_ids"], 7),
        "decoder_input_ids": torch.where(decoder_keep, batch["decoder_input_ids"], 7),
    }
    for y in (dropped, masked, model(**other)):
        for row in range(3):
            alone = model(
                input_ids=batch["input_ids"][row : row + 1, keep[row]],
                decoder_input_ids=batch["decoder_input_ids"][row : row + 1, decoder_keep[row]],
            )
            close(y[row, decoder_keep[row]], alone[0], 2e-5)
    memory = model.encode(**batch)
    assert (memory[~keep] == 0).all() and memory[keep].any()
    if "lengths" in model.inputs:
        right = {"input_ids": batch["input_ids"], "decoder_input_ids": batch["decoder_input_ids"]}
        mask = torch.arange(11) < torch.tensor([8, 11, 2])[:, None]
        close(model(**right, lengths=[8, 11, 2]), model(**right, attention_mask=mask.long()), 2e-5)


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_the_decoder_does_not_see_the_future(name):
    model, batch = small(name), batch_of(name)
    before = model(**batch)
    batch[ids_name(name)] = batch[ids_name(name)].clone()
    batch[ids_name(name)][:, 4:] = 9
    after = model(**batch)
    close(after[:, :4], before[:, :4])
    assert (after[:, 4:] - before[:, 4:]).abs().max() > 1e-3


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_decoding_in_steps_equals_the_full_forward(name):
    """Also of repeated and reordered rows, which share the keys and values of their text."""
    model, batch = small(name), padded(name) if name in PADDED else batch_of(name)
    batch.pop("decoder_attention_mask", None)
    ids = batch.pop(ids_name(name))
    full = model(**batch, **{ids_name(name): ids})
    state = model.start_decoding(batch, 16)
    close(model.decode(ids[:, :3], state, every=True), full[:, :3])
    close(model.decode(ids[:, 3:4], state), full[:, 3])
    state.repeat(2)
    close(model.decode(ids[:, 4:5].repeat_interleave(2, 0), state), full[:, 4].repeat_interleave(2, 0))
    state.reorder(torch.tensor([1, 1, 3, 2, 4, 5]))
    assert state.copies == 2
    close(model.decode(ids[:, 5:6].repeat_interleave(2, 0), state), full[:, 5].repeat_interleave(2, 0))
    state.reorder(torch.tensor([5, 0, 2]))
    close(model.decode(ids[[2, 0, 1], 6:7], state), full[[2, 0, 1], 6])


@pytest.mark.parametrize("name", STACKED)
@torch.no_grad()
def test_cross_attention_reads_the_encoder_once(name):
    model, batch = small(name), source(name)
    calls: list[int] = []
    for block in model.decoder.blocks:
        block.cross.k.register_forward_hook(lambda *_: calls.append(1))
    state = model.start_decoding(batch, 16)
    ids = torch.full((3, 1), 5)
    for _ in range(3):
        model.decode(ids, state)
    assert len(calls) == len(model.decoder.blocks)
    state.repeat(4)
    model.decode(ids.expand(-1, 4).reshape(12, 1), state)
    assert all(len(layer.memory[0]) == 3 for layer in state)


@pytest.mark.parametrize("name", STACKED)
@torch.no_grad()
def test_a_cache_can_be_cropped(name):
    model, batch = small(name), source(name)
    ids = torch.randint(5, 50, (3, 5), generator=torch.Generator().manual_seed(3))
    state = model.start_decoding(batch, 16)
    expected = model.decode(ids, state)
    state.crop(2)
    close(model.decode(ids[:, 2:], state), expected)


@pytest.mark.parametrize(("name", "kind"), [(name, kind) for name in STACKED for kind in BUILT_IN])
def test_every_kind_trains_and_decodes(name, kind):
    batch = batch_of(name)
    try:
        model = small(name, attention=kind)
        gradients(model, batch)
    except ValueError as error:  # such as a bias that linear kinds cannot add: refused by name
        assert kind in str(error)
        return
    with torch.no_grad():
        full, ids = model(**batch), batch.pop(ids_name(name))
        state = model.start_decoding(batch, 8)
        steps = [model.decode(ids[:, i : i + 1], state) for i in range(ids.shape[1])]
        close(torch.stack(steps, 1), full, 2e-5)


@pytest.mark.parametrize(("name", "kind"), [(name, kind) for name in STACKED for kind in CROSS_KINDS])
@torch.no_grad()
def test_every_kind_attends_to_the_encoder(name, kind):
    model, batch = small(name, cross_attention=kind), batch_of(name)
    assert all(type(block.cross.core) is CORES[kind] for block in model.decoder.blocks)
    full, ids = model(**batch), batch.pop(ids_name(name))
    state = model.start_decoding(batch, 8)
    steps = [model.decode(ids[:, i : i + 1], state) for i in range(ids.shape[1])]
    close(torch.stack(steps, 1), full, 2e-5)


@pytest.mark.parametrize("name", STACKED)
def test_attention_of_one_side(name):
    model = small(name, **{"encoder.attention": "linear", "decoder.attention": "additive"})
    kinds = [[type(block.mixer.core) for block in side.blocks] for side in (model.encoder, model.decoder)]
    assert kinds == [[CORES["linear"]] * 2, [CORES["additive"]] * 2]
    with pytest.raises(ValueError, match="its pattern"):
        small(name, cross_attention="local")
    with pytest.raises(ValueError, match="did you mean 'decoder_attention'"):
        small(name, **{"decoder.attenton": "linear"})


@pytest.mark.parametrize("name", STACKED)
@torch.no_grad()
def test_capture_has_both_sides_and_the_cross_attention(name):
    model, batch = small(name), batch_of(name)
    expected = model(**batch)
    with zoo.capture(model) as maps:
        assert torch.equal(model(**batch), expected)
    attentions = {key for key, module in model.named_modules() if isinstance(module, Attention)}
    assert set(maps) == attentions
    cross = maps["decoder.blocks.0.cross"]
    assert cross.shape[:3] == (3, 4, 7)
    close(cross.sum(-1), torch.ones(3, 4, 7))
    assert (maps["decoder.blocks.1.mixer"].triu(1) == 0).all()


@pytest.mark.parametrize("name", STACKED)
def test_checkpointing_changes_no_gradient(name):
    model, batch = small(name).train(), batch_of(name)
    kept = gradients(model, batch)
    model.set_checkpointing(True)
    for key, value in gradients(model, batch).items():
        close(value, kept[key])


@pytest.mark.parametrize("name", full_unless(("bart", "t5", "whisper"), STACKED))
@torch.no_grad()
def test_one_graph_and_export(name):
    torch._dynamo.reset()
    model = small(name, depth=1)
    batch = padded(name) if name in PADDED else batch_of(name)
    keep = batch.get("decoder_attention_mask", torch.ones(3, 7)).bool()
    expected = model(**batch)
    close(torch.compile(model, backend="eager", fullgraph=True)(**batch)[keep], expected[keep])
    batch = batch_of(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(model, (), batch)
    close(program.module()(**batch), model(**batch))


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_half_precision_stays_near(name):
    model, batch = small(name), batch_of(name)
    exact = model(**batch)
    half = {k: v.bfloat16() if v.is_floating_point() else v for k, v in batch.items()}
    y = model.to(torch.bfloat16)(**half)
    assert y.dtype == torch.bfloat16
    close(y.float(), exact, 0.1)


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_head_none_returns_the_hidden_states(name):
    model, batch = small(name, head=None), batch_of(name)
    assert model.head is None and model(**batch).shape == (3, 7, model.config.width)


@pytest.mark.parametrize("name", NAMES)
def test_inputs_that_are_missing_or_do_not_fit(name):
    model, batch = small(name), batch_of(name)
    first, key = next(iter(batch)), ids_name(name)
    with pytest.raises(ValueError, match=f"{key!r} is missing"):
        model(**{first: batch[first]})
    with pytest.raises(ValueError, match=f"{first!r} is missing"):
        model(**{key: batch[key]})
    with pytest.raises(ValueError, match=r"[23] rows"):
        model(**batch | {key: batch[key][:2]})
    with pytest.raises(ValueError, match=r"F\.cross_entropy|zoo\.tasks"):
        model(**batch, labels=batch[key])
    with pytest.raises(ValueError, match="out of range"):
        model(**batch | {key: torch.full((3, 2), 50)})
    with pytest.raises(ValueError, match=key):
        model(**batch | {key: torch.zeros(3, 0, dtype=torch.long)})


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_greedy_generation_is_the_argmax_of_the_full_forward(name):
    model, batch = small(name), padded(name) if name in PADDED else batch_of(name)
    for key in (ids_name(name), "decoder_attention_mask"):
        batch.pop(key, None)
    ids = torch.full((3, 1), 2)
    for _ in range(6):
        ids = torch.cat([ids, model(**batch, **{ids_name(name): ids})[:, -1:].argmax(-1)], 1)
    made = zoo.generate(model, **batch, max_new_tokens=6, eos_token_id=None, decoder_input_ids=ids[:, :1])
    assert torch.equal(made, ids)
    beams = zoo.generate(
        model, **batch, max_new_tokens=6, num_beams=3, num_return_sequences=2, decoder_input_ids=ids[:, :1]
    )
    assert len(beams) == 6 and (beams[:, 0] == 2).all()
