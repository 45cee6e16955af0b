"""The contract of models that join an encoder of images or audio to a text decoder; a new family is found here."""

import json

import pytest
import torch
from bridge_cases import alone
from peers import close
from torch import Tensor

import zoo
from zoo.models.bridge.config import BridgeConfig
from zoo.models.bridge.model import Bridge
from zoo.models.example_batch import example_batch
from zoo.models.registry import build, families, family, find_variant
from zoo.models.tower_config import Part

# test_llava_next.py has the contract of LLaVA-NeXT, whose images are tiles
BRIDGES = [f.name for f in families() if issubclass(f.model, Bridge) and f.name != "llava_next"]
VARIANTS = [v for name in BRIDGES for v in family(name).variants]
TINY = dict(width=32, depth=2, heads=4, kv_heads=None, head_dim=None, mlp_dim=48)
IMAGE = TINY | dict(image_size=16, patch_size=8)
TEXT = TINY | dict(vocab_size=60, max_length=64)


def small(name: str, seed: int = 0, **overrides) -> Bridge:
    """The smallest variant of a family at the size of tests."""
    own = family(name)
    configs = {variant: own.config(**fields) for variant, fields in own.variants.items()}
    variant = min(configs, key=lambda v: configs[v].parts["text"].width * configs[v].parts["text"].depth)
    parts = configs[variant].parts
    fields = {f"image.{k}": v for k, v in IMAGE.items() if "image" in parts and k in parts["image"].names()}
    fields |= {f"text.{k}": v for k, v in TEXT.items() if k in parts["text"].names()}
    fields |= {"gate_value": 0.5} if configs[variant].by == "cross" else {}  # at 0 the images change nothing
    return zoo.create_model(variant, seed=seed, **{"image_token_id": 7} | fields | overrides).eval()


def several(model: Bridge, seed: int = 0) -> dict[str, Tensor]:
    """Three rows: an image and a text, a text alone, two images apart from each other; padded on the right."""
    draw = torch.Generator().manual_seed(seed)
    pixels = torch.randn(3, 3, *model.image.patches.image_size, generator=draw)
    count = len(model.features(pixel_values=pixels[:1]))
    token = model.config.feature_token_id
    texts = torch.randint(8, 60, (3, 6), generator=draw).tolist()
    image = [token] * count
    rows = [[*texts[0][:2], *image, *texts[0][2:]], texts[1], [*image, *texts[2][:4], *image, *texts[2][4:]]]
    length = max(map(len, rows))
    ids = torch.tensor([row + [0] * (length - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in rows])
    return {"input_ids": ids, "attention_mask": mask, "pixel_values": pixels}


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_builds_on_meta(variant):
    found = find_variant(variant)
    model = build(found, found.config(**found.variants[variant]))
    assert all(t.is_meta for t in [*model.parameters(), *model.buffers()])
    config = model.config
    assert found.config.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert model.num_features == config.parts["text"].width
    assert {"input_ids", "attention_mask"} <= set(model.inputs)


@pytest.mark.parametrize("name", BRIDGES)
def test_every_family_trains_saves_and_loads(name, tmp_path):
    model = small(name)
    batch = several(model)
    model(**batch).square().mean().backward()
    unused = ("image.blocks.1.", "image.blocks.norm.")  # behind the layer whose output is read
    missing = [n for n, p in model.named_parameters() if p.grad is None and not n.startswith(unused)]
    assert not missing
    assert all(p.grad.any() for p in model.connector.parameters()) and model.image.patches.positions.grad.any()
    zoo.save(model, tmp_path / "model")
    again = zoo.load(tmp_path / "model").eval()
    assert again.config == model.config and not any(t.is_meta for t in again.state_dict().values())
    with torch.no_grad():
        assert torch.equal(again(**batch), model(**batch))
    assert zoo.verify(tmp_path / "model").ok
    assert model(**example_batch(model)).isfinite().all()


@pytest.mark.parametrize("name", BRIDGES)
@torch.no_grad()
def test_a_row_with_any_number_of_images_equals_the_row_alone(name):
    model = small(name)
    batch = several(model)
    y = model(**batch)
    for row in range(3):
        own = alone(batch, row)
        close(y[row, : own["input_ids"].shape[1]][None], model(**own))
    assert not torch.allclose(model(**batch | {"pixel_values": batch["pixel_values"].flip(0)}), y, atol=1e-3)


@pytest.mark.parametrize("name", BRIDGES)
@torch.no_grad()
def test_decoding_equals_forward(name):
    model = small(name)
    batch = several(model)
    order = batch["attention_mask"].argsort(dim=1, stable=True)  # padding on the left
    ids, mask = batch["input_ids"].gather(1, order), batch["attention_mask"].gather(1, order)
    y = model(ids, mask, pixel_values=batch["pixel_values"])
    state = model.new_state(3, 40, features=model.features(pixel_values=batch["pixel_values"]))
    close(model.decode(ids[:, :-2], state, mask[:, :-2]), y[:, -3])
    close(model.decode(ids[:, -2:], state, mask, every=True), y[:, -2:])


@torch.no_grad()
def test_features_are_put_before_positions_are_added():
    text = zoo.create_model("gpt_nano", seed=0, width=32, depth=2, heads=4, vocab_size=60, max_length=40).eval()
    fields = family("bridge").variants["bridge_nano"]["image"].config.replace(**IMAGE)
    config = BridgeConfig(
        image=Part(family="vit", config=fields), text=Part(family="gpt2", config=text.config), image_token_id=7
    )
    model = build(family("bridge"), config, "cpu")
    zoo.nn.initialize(model, 0)
    model.eval()
    words = torch.randn(1, 5, 32)
    ids = torch.tensor([[8, 9, 10, 11, 12]])
    expected = model.text.blocks(words + model.text.tokens.positions[:5], model.text.context(torch.arange(5)))
    close(model.text.encode(ids, words=words), expected)


@torch.no_grad()
def test_layers_and_prefix_tokens_of_the_encoder():
    batch = several(small("bridge"))
    for layer, width in ((-1, 32), (0, 32), ((-2, -1), 64)):
        model = small("bridge", feature_layer=layer, **{"image.class_token": True, "image.pool": "cls"})
        hidden, outputs = model.image.encode(batch["pixel_values"], layers=[0, 1])
        x, counts = model.encoder_features(pixel_values=batch["pixel_values"])
        assert counts is None and x.shape == (3, 4, width)
        expected = {-1: hidden, 0: outputs[0], (-2, -1): torch.cat([outputs[0], hidden], -1)}[layer]
        assert torch.equal(x, expected[:, 1:])
    kept = small("bridge", drop_prefix=False, **{"image.class_token": True, "image.pool": "cls"})
    assert len(kept.features(pixel_values=batch["pixel_values"])) == 3 * 5


def test_projectors():
    batch = several(small("bridge"))
    linear = small("bridge", projector="linear", projector_bias=False, projector_norm="rms")
    assert linear.connector.down is None and linear.connector.up.bias is None
    assert isinstance(linear.connector.norm, torch.nn.RMSNorm)
    x, _ = linear.encoder_features(pixel_values=batch["pixel_values"])
    close(
        linear.features(pixel_values=batch["pixel_values"]), linear.connector.up(linear.connector.norm(x)).flatten(0, 1)
    )


def test_packed_documents_equal_their_rows():
    model = small("bridge")
    batch = several(model)
    rows = [alone(batch, row) for row in range(3)]
    ids = torch.cat([row["input_ids"] for row in rows], 1)
    documents = torch.cat([torch.full_like(row["input_ids"], i) for i, row in enumerate(rows)], 1)
    y = model(ids, document_ids=documents, pixel_values=batch["pixel_values"])
    close(y, torch.cat([model(**row) for row in rows], 1))


def test_a_frozen_encoder_has_no_gradients_and_stays_in_evaluation_mode():
    model = small("bridge").train()
    model.lock("image")
    model.lock("text", unlocked=1)
    assert not model.image.training and model.connector.training and model.text.blocks[1].training
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert {name.split(".")[0] for name in trained} == {"connector", "text"}
    assert not any(name.startswith("text.blocks.0.") for name in trained)


# -- what does not fit -------------------------------------------------------------------------------------------------


def test_images_that_do_not_fit_the_image_tokens():
    model = small("bridge")
    batch = several(model)
    with pytest.raises(ValueError, match=r"have 12 tokens 7 \(image_token_id\), but the images have 8 features"):
        model(**batch | {"pixel_values": batch["pixel_values"][:2]})
    with pytest.raises(ValueError, match=r"have 12 tokens 7 .*no images were given: pass what model.preprocess"):
        model(batch["input_ids"], batch["attention_mask"])
    with pytest.raises(ValueError, match=r"input_ids have no tokens 7 .*the images have 12 features"):
        model(torch.full((2, 5), 8), pixel_values=batch["pixel_values"])
    with pytest.raises(ValueError, match="the images are 24 x 16, but the model expects 16 x 16"):
        model(**batch | {"pixel_values": torch.randn(3, 3, 24, 16)})
    with pytest.raises(ValueError, match="it does not use 'images'"):
        model(batch["input_ids"], images=batch["pixel_values"])


def test_configs_that_do_not_fit():
    config = small("bridge").config
    with pytest.raises(ValueError, match="image_token_id=60: expected the token that marks features, 0 to 59"):
        config.replace(image_token_id=60)
    with pytest.raises(ValueError, match="audio_token_id=3: the bridge has no audio tower, set image_token_id"):
        config.replace(audio_token_id=3)
    with pytest.raises(ValueError, match="feature_layer=2: the image tower has the blocks 0 to 1"):
        config.replace(feature_layer=2)
    with pytest.raises(ValueError, match="one encoder, image or audio, given none"):
        BridgeConfig(text=config.text, image_token_id=7)
    with pytest.raises(ValueError, match="the text tower has head='pool', expected head='lm'"):
        config.replace(**{"text.head": "pool"})
    with pytest.raises(ValueError, match="num_classes: a bridge has no classifier"):
        config.replace(num_classes=3)
    with pytest.raises(ValueError, match="the text tower is a T5, expected a decoder"):
        build(family("bridge"), config.replace(text=Part(family="t5", config=family("t5").config())))


def test_an_item_of_padding_alone_is_named():
    from zoo.models.bridge.items import split_items

    batch = {"input_values": torch.ones(2, 4), "audio_attention_mask": torch.tensor([[1, 1, 0, 0], [0, 0, 0, 0]])}
    with pytest.raises(ValueError, match="the attention mask of item 1 has zeros alone"):
        split_items(batch)
