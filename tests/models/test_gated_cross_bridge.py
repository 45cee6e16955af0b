"""Laws of a bridge by gated cross-attention: the decoder of any family reads images between its blocks (Flamingo)."""

import pytest
import torch
from bridge_cases import alone
from peers import close
from torch import Tensor

import zoo
from zoo.inference.generation.one_token import one_token_step
from zoo.models.bridge.config import BridgeConfig
from zoo.models.bridge.model import Bridge
from zoo.models.registry import build, family
from zoo.models.tower_config import Part

MARKER = 7
TINY = dict(width=32, depth=3, heads=4, mlp_dim=48, vocab_size=60, max_length=64)
SMALL = {
    "gpt_nano": TINY,
    "llama_nano": TINY | dict(kv_heads=2, head_dim=12),
    "granite4_nano": TINY | dict(mixer=["mamba2", "attention", "mamba2"]),
    "mamba_nano": dict(width=32, depth=3, vocab_size=60, max_length=64, state=5, dt_rank=3),
    "rwkv4_nano": dict(width=32, depth=3, vocab_size=60, max_length=64),
    "retnet_nano": TINY,
}
DECODERS = [name for name in SMALL if zoo.list_models(name)]


def make(decoder: str = "llama_nano", seed: int = 0, gates: float | None = 0.7, **options) -> Bridge:
    """gates: their value; None: as they are at first."""
    text = zoo.create_model(decoder, seed=0, **SMALL[decoder])
    vit = zoo.create_model(
        "vit_cifar_tiny", seed=0, width=24, depth=2, heads=4, mlp_dim=40, image_size=16, patch_size=8, num_classes=0,
        head=None,
    )  # fmt: skip
    config = BridgeConfig(
        image=Part(family="vit", config=vit.config), text=Part(family=text.family, config=text.config),
        **dict(by="cross", image_token_id=MARKER) | options,
    )  # fmt: skip
    model = build(family("bridge"), config, "cpu")
    zoo.nn.initialize(model, seed)
    if gates is not None and model.gated_cross is not None:
        for name, p in model.named_parameters():
            if name.endswith("alpha"):
                torch.nn.init.constant_(p, gates)
    return model.eval()


def several(seed: int = 0) -> dict[str, Tensor]:
    """Three rows: an image within a text, a text alone, and two images; padded on the right."""
    draw = torch.Generator().manual_seed(seed)
    ids = torch.randint(8, 60, (3, 9), generator=draw)
    ids[0, 2] = ids[2, 0] = ids[2, 4] = MARKER
    mask = torch.ones_like(ids)
    mask[0, 7:] = mask[1, 5:] = 0
    return {
        "input_ids": ids.where(mask.bool(), MARKER),  # a marker at padding marks nothing
        "attention_mask": mask,
        "pixel_values": torch.randn(3, 3, 16, 16, generator=draw),
    }


@pytest.mark.parametrize("decoder", DECODERS)
@torch.no_grad()
def test_gates_at_zero_leave_the_decoder_bit_equal(decoder):
    model, batch = make(decoder, gates=None), several()
    for row in range(3):
        own = alone(batch, row)
        assert torch.equal(model(**own), model.text(own["input_ids"]))
    opened = make(decoder)
    assert not torch.allclose(opened(**alone(batch, 0)), model(**alone(batch, 0)), atol=1e-3)


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("options", [{}, dict(sees="all", cross_interval=2, resampler_tokens=3, resampler_depth=1)])
@torch.no_grad()
def test_a_row_with_any_number_of_images_equals_the_row_alone(decoder, options):
    model, batch = make(decoder, **options), several()
    y = model(**batch)
    for row in range(3):
        own = alone(batch, row)
        close(y[row, : own["input_ids"].shape[1]][None], model(**own))
    left = batch["attention_mask"].argsort(dim=1, stable=True)
    moved = {name: batch[name].gather(1, left) for name in ("input_ids", "attention_mask")}
    again = model(**moved, pixel_values=batch["pixel_values"])
    close(again[1, -5:], y[1, :5])
    # rows with their images in another order
    order = torch.tensor([2, 0, 1])
    permuted = {name: batch[name][order] for name in ("input_ids", "attention_mask")}
    close(model(**permuted, pixel_values=batch["pixel_values"][[1, 2, 0]]), y[order])


@torch.no_grad()
def test_tokens_see_the_last_image_or_all_before_them():
    batch = several()
    row = alone(batch, 2)
    other = row | {"pixel_values": row["pixel_values"] + torch.tensor([1.0, 0.0]).view(2, 1, 1, 1)}
    # one gated block: a token reads images itself, and not through earlier tokens
    for sees, changed in (("last", range(4)), ("all", range(9))):
        model = make(sees=sees, cross_interval=3)
        found = []
        model.text.blocks[0].register_forward_pre_hook(lambda _, args, found=found: found.append(args[0]))
        model(**row), model(**other)
        differs = (found[0] - found[1]).abs().amax(-1)[0] > 1e-4
        assert differs.nonzero()[:, 0].tolist() == list(changed)


@pytest.mark.parametrize("decoder", DECODERS)
@torch.no_grad()
def test_decoding_equals_forward(decoder):
    model, batch = make(decoder, resampler_tokens=3, resampler_depth=1), several()
    left = batch["attention_mask"].argsort(dim=1, stable=True)
    ids, mask = (batch[name].gather(1, left) for name in ("input_ids", "attention_mask"))
    y = model(ids, mask, pixel_values=batch["pixel_values"])
    state = model.new_state(3, 40, features=model.features(pixel_values=batch["pixel_values"]))
    counts = {"image": 0, "k": 0}

    def count(name):
        return lambda *_: counts.update({name: counts[name] + 1})

    model.image.register_forward_hook(count("image"))
    model.gated_cross.blocks[0].cross.k.register_forward_hook(count("k"))
    close(model.decode(ids[:, :-2], state, mask[:, :-2]), y[:, -3])
    close(model.decode(ids[:, -2:-1], state, mask[:, :-1]), y[:, -2])
    close(model.decode(ids[:, -1:], state, mask, every=True), y[:, -1:])
    assert counts == {"image": 0, "k": 1}
    if hasattr(state[0].mixer, "reorder"):
        state.repeat(2)
        more = torch.cat([mask, torch.ones_like(mask[:, :1])], 1).repeat_interleave(2, 0)
        again = model.decode(ids[:, :1].repeat_interleave(2, 0), state, more)
        close(again[::2], again[1::2])
        state.reorder(torch.tensor([4, 0, 2, 5]))
        assert len(state.memory) == 4


def test_an_explicit_mask_and_images_by_row():
    model, batch = make(), several()
    pixels = torch.zeros(3, 2, 3, 16, 16)
    pixels[0, 0], pixels[2] = batch["pixel_values"][0], batch["pixel_values"][1:]
    ids, mask = batch["input_ids"], batch["attention_mask"]
    seen = torch.zeros(3, 9, 2, dtype=torch.long)
    seen[0, 2:, 0] = seen[2, :4, 0] = seen[2, 4:, 1] = 1
    with torch.no_grad():
        y = model(**batch)
        close(model(ids, mask, pixel_values=pixels), y)
        encoded = []
        model.image.patches.register_forward_pre_hook(lambda _, args: encoded.append(len(args[0])))
        close(model(ids, mask, pixel_values=pixels, image_attention_mask=seen), y)
        assert encoded == [3]  # not the images that are padding
        nothing = model(ids, mask, pixel_values=pixels[:, :1] * 0, image_attention_mask=seen[..., :1] * 0)
        close(nothing[1], y[1])
        assert encoded == [3]
        no_marker = make(image_token_id=None)
        close(no_marker(ids, mask, pixel_values=pixels, image_attention_mask=seen), y)
    with pytest.raises(ValueError, match="no image_token_id: pass image_attention_mask"):
        no_marker(ids, mask, pixel_values=pixels)


def test_a_locked_decoder_gets_no_gradient_and_gates_and_resampler_do():
    model = make(gates=None, resampler_tokens=3, resampler_depth=1).train()
    model.lock("image")
    model.lock("text")
    batch = several()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    for step in range(2):
        optimizer.zero_grad()
        model(**batch).square().mean().backward()
        got = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
        if step == 0:  # at zero only the gates move, and then the rest behind them
            assert got and all(name.endswith("alpha") for name in got)
            optimizer.step()
    expected = {name for name, p in model.named_parameters() if name.startswith(("gated_cross.", "connector."))}
    assert got == expected
    assert not any(p.requires_grad for part in (model.image, model.text) for p in part.parameters())


@torch.no_grad()
def test_maps_of_the_images_are_captured():
    model, batch = make(cross_interval=2), several()
    with zoo.capture(model, layers="gated_cross.*") as maps:
        model(**batch)
    assert list(maps) == ["gated_cross.blocks.0.cross", "gated_cross.blocks.1.cross"]
    weights = maps["gated_cross.blocks.1.cross"]
    assert weights.shape == (3, 4, 9, 2 * 4)
    assert not weights[0, :, :2].any() and not weights[1].any() and not weights[2, :, :4, 4:].any()
    close(weights[2].sum(-1), torch.ones(4, 9))


@pytest.mark.parametrize("by", ["resampler", "cross"])
def test_saves_and_loads(by, tmp_path):
    own = dict(gate="channel", cross_qk_norm=True, gate_std=0.1) if by == "cross" else {}
    model = make(by=by, resampler_tokens=3, resampler_depth=1, **own)
    batch = several()
    if by == "resampler":
        ids = torch.cat(
            [torch.full((3, 3), MARKER), batch["input_ids"].masked_fill(batch["input_ids"] == MARKER, 8)], 1
        )
        batch = {"input_ids": ids, "pixel_values": batch["pixel_values"]}
    zoo.save(model, tmp_path / "model")
    again = zoo.load(tmp_path / "model").eval()
    assert again.config == model.config
    with torch.no_grad():
        assert torch.equal(again(**batch), model(**batch))
    assert zoo.verify(tmp_path / "model").ok


@pytest.mark.parametrize("images", [True, False])
@torch.no_grad()
def test_one_token_at_a_time_without_modules(images):
    """The fast step of `zoo.generate` computes what `decode` computes, for several continuations of a row, too."""
    model, row = make(resampler_tokens=3, resampler_depth=1, cross_qk_norm=True, cross_interval=2), alone(several(), 2)
    ids = row["input_ids"] if images else row["input_ids"].masked_fill(row["input_ids"] == MARKER, 8)
    states = []
    for _ in range(2):
        features = model.features(pixel_values=row["pixel_values"]) if images else None
        states.append(model.new_state(1, 40, features=features))
        model.decode(ids, states[-1])
        states[-1].repeat(3)
    step = one_token_step(model, states[0])
    for token in (9, 12, 30):
        new = torch.tensor([[token], [token + 1], [token]])
        close(step(new), model.decode(new, states[1]))
        for state in states:
            state.reorder(torch.tensor([1, 1, 0]))
    counted = []
    model.text.blocks[1].register_forward_pre_hook(lambda *_: counted.append(1))
    close(step(new), model.decode(new, states[1]))
    assert len(counted) == 2  # the hook changes what the step has to do


@torch.no_grad()
def test_two_towers_in_one_line():
    text = zoo.create_model("gpt_nano", seed=0, **SMALL["gpt_nano"])
    image = {"name": "vit_cifar_tiny", "width": 24, "depth": 2, "heads": 4, "mlp_dim": 40}
    pixels = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    ids = torch.tensor([[MARKER, 9, 10, 11]])
    options = dict(image=image, text=text, token=MARKER, seed=0)
    model = zoo.bridge(**options, by="cross", locked=("image", "text")).eval()
    assert torch.equal(model(ids, pixel_values=pixels), text(ids))
    assert {n.split(".")[0] for n, p in model.named_parameters() if p.requires_grad} == {"gated_cross"}
    assert zoo.generate(model, ids, pixel_values=pixels, max_new_tokens=3).shape == (1, 7)
    model = zoo.bridge(**options, by="resampler", resampler_tokens=3, resampler_depth=1).eval()
    ids = torch.cat([torch.full((1, 2), MARKER), ids], 1)
    assert model(ids, pixel_values=pixels).isfinite().all()
    assert zoo.generate(model, ids, pixel_values=pixels, max_new_tokens=3).shape == (1, 9)
