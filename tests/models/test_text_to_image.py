"""DALL-E and MaskGIT: the contract of all models, and what stacks over text and image tokens have of their own."""

import json
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import zoo
from zoo.checkpoints.golden import named_outputs
from zoo.inference.generation.prompt import Prompt
from zoo.models.base import Model
from zoo.models.registry import families

NAMES = [f.name for f in families() if "image_ids" in f.model.inputs]
SMALL = dict(width=32, depth=2, heads=4, mlp_dim=48, text_vocab_size=40, text_length=9, image_vocab_size=20,
             image_grid=(3, 4))  # fmt: skip
SHAPES: dict[str, dict] = {
    "": {},
    "grid kinds": dict(depth=3, attention=["axial_row", "axial_column", {"kind": "conv_like", "kernel": 3}]),
    "tied": dict(tie_word_embeddings=True, kv_heads=2, norm="rms"),
    "layer scale": dict(layer_scale=0.3, gated_mlp=True, qkv_bias=False),
}


def small(name: str, **more) -> Model:
    return zoo.create_model(f"{name}_nano", seed=0, **SMALL | more).eval()


def batch(name: str, rows: int = 3) -> dict[str, Tensor]:
    """Texts with padding at the right, at the left and nowhere; MaskGIT's images with every third token masked."""
    draw = torch.Generator().manual_seed(1)
    ids = torch.randint(1, 40, (rows, 8), generator=draw)
    mask = torch.ones_like(ids)
    mask[0, 5:], mask[1, :3] = 0, 0
    image = torch.randint(20, (rows, 12), generator=draw)
    if name == "maskgit":
        image[:, ::3] = 20
    return {"input_ids": ids, "attention_mask": mask, "image_ids": image}


def flat(output) -> Tensor:
    """All scores [B, n] of an output."""
    return torch.cat([x.flatten(1) for x in named_outputs(output).values()], 1)


def close(a: Tensor, b: Tensor, tolerance: float = 1e-5) -> None:
    assert a.shape == b.shape and (a - b).abs().max() <= tolerance * b.abs().max().clamp(min=1)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", NAMES)
def test_every_shape_trains_saves_and_loads(name, shape, tmp_path):
    model, inputs = small(name, **SHAPES[shape]), batch(name)
    y = flat(model(**inputs))
    y.mul(torch.randn(y.shape, generator=torch.Generator().manual_seed(1))).sum().backward()
    gradients = {key: p.grad for key, p in model.named_parameters()}
    assert all(g is not None and g.isfinite().all() for g in gradients.values())
    loaded = zoo.load(zoo.save(model, tmp_path))
    assert loaded.config == model.config and type(model.config).from_dict(
        json.loads(json.dumps(model.config.to_dict()))) == model.config  # fmt: skip
    assert all(torch.equal(a, b) for a, b in zip(loaded.state_dict().values(), model.state_dict().values()))
    assert torch.equal(flat(loaded(**inputs)), y)
    assert zoo.verify(tmp_path).ok
    model.zero_grad()
    model.train().set_checkpointing(True)
    y = flat(model(**inputs))
    y.mul(torch.randn(y.shape, generator=torch.Generator().manual_seed(1))).sum().backward()
    for key, p in model.named_parameters():
        close(p.grad, gradients[key])


@pytest.mark.parametrize("kind", ["softmax", "linear", "local", ["axial_row", "conv_like"]])
@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_rows_do_not_depend_on_their_batch_nor_on_padding(name, kind):
    model, inputs = small(name, attention=kind), batch(name)
    every = flat(model(**inputs))
    for row, keep in enumerate(inputs["attention_mask"].bool()):
        alone = {"input_ids": inputs["input_ids"][row : row + 1, keep], "image_ids": inputs["image_ids"][row : row + 1]}
        close(flat(model(**alone))[0], every[row])
        by_id = F.pad(alone["input_ids"], (0, 1))  # padding by its id
        close(flat(model(**alone | {"input_ids": by_id}))[0], every[row])


@torch.no_grad()
def test_maskgit_reads_a_text_once_for_all_images():
    model, inputs = small("maskgit"), batch("maskgit")
    places = torch.tensor([[0, 3], [9, 6], [3, 0]])
    text = model.read_text(inputs["input_ids"], inputs["attention_mask"])
    for image in (inputs["image_ids"], inputs["image_ids"].flip(1)):
        every = model(**inputs | {"image_ids": image})
        expected = every.gather(1, places[..., None].expand(-1, -1, every.shape[2]))
        close(model.scores_at(places, image, text), expected)
        close(model.scores_at(places, **inputs | {"image_ids": image}), expected)
    other = model.encode(**inputs | {"image_ids": inputs["image_ids"].flip(1)})
    assert torch.equal(other[:, :8], model.encode(**inputs)[:, :8])  # the text does not see the image
    seeing = small("maskgit", text_sees_image=True)
    assert seeing.read_text(inputs["input_ids"]) is None
    assert not torch.equal(seeing.encode(**inputs | {"image_ids": inputs["image_ids"].flip(1)})[:, :8],
                           seeing.encode(**inputs)[:, :8])  # fmt: skip
    assert small("maskgit", attention="linear").read_text(inputs["input_ids"]) is None
    with pytest.raises(ValueError, match=r"text_sees_image=False, but attention='linear' has layers without att"):
        small("maskgit", attention="linear", text_sees_image=False)
    assert small("maskgit", mixer=["attention", "s4d"]).mask is None
    with pytest.raises(ValueError, match=r"text_sees_image=False, but mixer='s4d' has layers without attention"):
        small("maskgit", mixer="s4d", text_sees_image=False)


@torch.no_grad()
def test_maskgit_folders_without_text_sees_image(tmp_path):
    zoo.save(small("maskgit", text_sees_image=True), tmp_path / "model")
    file = tmp_path / "model" / "config.json"
    values = json.loads(file.read_text())
    assert values["config"].pop("text_sees_image") is True
    file.write_text(json.dumps(values))
    loaded = zoo.load(tmp_path / "model")
    assert loaded.config.text_sees_image is True and zoo.verify(tmp_path / "model").ok
    close(loaded(**batch("maskgit")), small("maskgit", text_sees_image=True)(**batch("maskgit")))
    values["config"]["text_sees_image"] = None  # another default would be seen in the outputs
    file.write_text(json.dumps(values))
    assert not zoo.verify(tmp_path / "model").ok


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_one_graph_and_hidden_states(name):
    model, inputs = small(name, attention=["softmax", "axial_column"]), batch(name)
    expected = flat(model(**inputs))
    torch._dynamo.reset()
    close(flat(torch.compile(model, backend="eager", fullgraph=True)(**inputs)), expected)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(model, (), inputs)
    close(flat(program.module()(**inputs)), expected)
    hidden, (low, high) = model.encode(**inputs, layers=[0, -1])
    assert hidden.shape == low.shape == high.shape and not torch.equal(low, high)
    bare = small(name, attention=["softmax", "axial_column"], head=None)
    assert bare.head is None and torch.equal(bare(**inputs), hidden)
    close(flat(model.bfloat16()(**inputs)).float(), expected, 0.1)


@pytest.mark.parametrize("name", NAMES)
def test_the_seed_decides_everything(name):
    a, b = small(name).state_dict(), small(name, attention="performer").state_dict()
    assert all(torch.equal(b[key], value) for key, value in a.items())
    other = zoo.create_model(f"{name}_nano", seed=1, **SMALL).state_dict()
    assert any(not torch.equal(other[key], value) for key, value in a.items())


# --- DALL-E -----------------------------------------------------------------------------------------------------------


def test_dalle_is_its_formula():
    """One layer and one head, written out from Ramesh et al. 2021, with a column mask."""
    model = small("dalle", depth=1, heads=1, attention="axial_column").double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(generator=torch.Generator().manual_seed(len(parameter)), std=0.3)
    ids, image = torch.tensor([[5, 6, 7]]), torch.arange(12)[None]
    text = torch.cat([ids, torch.arange(43, 49)[None]], 1)  # padding tokens of the positions 3 to 8
    t, block = model.tokens, model.blocks[0]
    place = t.rows[:, None] + t.columns[None]
    x = torch.cat([t.word(F.pad(text, (1, 0)))[0] + t.positions, (t.image(image)[0] + place.flatten(0, 1))[:-1]])
    n = torch.arange(21)
    column = (n - 10) % 4
    seen = (n[:, None] >= n) & ((n < 10) | (column[:, None] == column))
    h, m = F.layer_norm(x, (32,), block.norm1.weight, block.norm1.bias, 1e-5), block.mixer
    x = x + m.out((m.q(h) @ m.k(h).T / 32**0.5).masked_fill(~seen, -torch.inf).softmax(-1) @ m.v(h))
    h = F.layer_norm(x, (32,), block.norm2.weight, block.norm2.bias, 1e-5)
    x = x + block.mlp.down(F.gelu(block.mlp.up(h)))
    x = F.layer_norm(x, (32,), model.blocks.norm.weight, model.blocks.norm.bias, 1e-5)
    scores = model.head.text(x[:9]), model.head.image(x[9:])
    found = model(input_ids=ids, image_ids=image)
    close(found.text[0], scores[0], 1e-12)
    close(found.image[0], scores[1], 1e-12)
    loss = (F.cross_entropy(scores[0], text[0]) + 7 * F.cross_entropy(scores[1], image[0])) / 8
    close(model.loss(found, ids, None, image), loss, 1e-12)


@pytest.mark.parametrize("shape", ["", "grid kinds", "layer scale"])
@torch.no_grad()
def test_decoding_is_the_whole_forward(shape):
    model, inputs = small("dalle", **SHAPES[shape]), batch("dalle")
    expected = model(**inputs).image
    ids = model.joint_tokens(**inputs)
    session, scores = Prompt(model, ids[:, :12], None, 9).read()
    assert (session.step is None) == (shape == "layer scale")
    for step in range(2, 12):
        close(scores, expected[:, step], 2e-5)
        scores = session.read(ids[:, step + 10 : step + 11]) if step < 11 else scores
    later = inputs | {"image_ids": torch.cat([inputs["image_ids"][:, :5], inputs["image_ids"][:, 5:].flip(1)], 1)}
    assert torch.equal(model(**later).image[:, :5], expected[:, :5])


@torch.no_grad()
def test_a_shared_vocabulary_predicts_any_token_anywhere():
    model, inputs = small("dalle", shared_vocabulary=True), batch("dalle")
    output = model(**inputs)
    assert output.text.shape == (3, 9, 69) and output.image.shape == (3, 12, 69)
    labels = inputs["image_ids"].flatten() + 49
    assert torch.allclose(model.losses(output, **inputs)[1].flatten(), F.cross_entropy(
        output.image.flatten(0, 1), labels, reduction="none"))  # fmt: skip
    assert zoo.generate_images(model, inputs["input_ids"], seed=0).tokens.max() < 20


# --- the image tokenizer ----------------------------------------------------------------------------------------------


def test_the_image_tokenizer_is_a_part_of_the_folder(tmp_path):
    tokenizer = zoo.create_model("dvae_tiny", image_size=(12, 16), widths=(8, 8), depth=1, vocab_size=20, seed=0)
    for name in NAMES:
        model = small(name).set_image_tokenizer(tokenizer)
        loaded = zoo.load(zoo.save(model, tmp_path / name))
        assert loaded.config == model.config and loaded.image_tokenizer.config == tokenizer.config
        pixels = torch.randn(2, 3, 12, 16)
        assert torch.equal(loaded.image_tokenizer.tokenize(pixels), tokenizer.eval().tokenize(pixels))
        loaded.train()
        assert not loaded.image_tokenizer.training and loaded.training
        assert not any(p.requires_grad for p in loaded.image_tokenizer.parameters())
        assert all(p.requires_grad for key, p in loaded.named_parameters() if not key.startswith("image_tokenizer"))
