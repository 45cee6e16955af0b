"""Models of several towers: the contract of all models, and what is specific to several towers."""

import json
from dataclasses import replace

import pytest
import torch
from kernel_timers import fastest
from speeds import full_unless
from torch import Tensor

import zoo
from zoo.models.contrast.model import Contrastive, ContrastiveOutput
from zoo.models.registry import build, families, family
from zoo.models.tower_config import ContrastiveConfig
from zoo.preprocessing.multimodal import MultimodalProcessor
from zoo.preprocessing.tokenizer_training import train

VIT = {"name": "vit_cifar_tiny", "width": 32, "depth": 2, "heads": 4, "mlp_dim": 48}
TEXT = dict(vocab_size=50, max_length=32, dropout=0.0, attention_dropout=0.0, width=32, depth=2, heads=4, mlp_dim=48)
BERT = {"name": "bert_tiny", "pool": "mean", "pooler": None, **TEXT}
CLIP_TEXT = {"name": "clip_text_tiny", "eos_token_id": 49, **TEXT}
AST = {"name": "ast_tiny", "width": 32, "depth": 2, "heads": 4, "mlp_dim": 48, "max_length": 21, "mel_bins": 16,
         "patch_size": 8, "stride": (4, 5)}  # fmt: skip

MODELS = {
    "vit and bert": dict(image=VIT, text=BERT),
    "clip": dict(image={**VIT, "pre_norm": True, "stem": "patch", "class_token": True, "pool": "cls"}, text=CLIP_TEXT),
    "siglip": dict(
        image={**VIT, "stem": "patch", "pool": "map", "proj": None},
        text={**CLIP_TEXT, "causal": False, "pool": "last", "proj": "affine"},
        loss="siglip",
        width=32,
    ),
    "three": dict(image=VIT, text=BERT, audio=AST),
    "audio and images": dict(image=VIT, audio=AST),
}


def make(name: str = "vit and bert", **options) -> Contrastive:
    return zoo.contrast(**{"width": 24, "seed": 0} | MODELS[name] | options).eval()


def batch(model: Contrastive, rows: int = 3) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(5, 48, (rows, 32 if model.config.loss == "siglip" else 11), generator=draw)
    ids[:, 8] = 49
    every = {
        "pixel_values": torch.randn(rows, 3, 32, 32, generator=draw),
        "input_ids": ids,
        "input_values": torch.randn(rows, 21, 16, generator=draw),
    }
    return {name: value for name, value in every.items() if name in model.inputs}


def parts(output: ContrastiveOutput) -> list[Tensor]:
    return [output.features(name) for name in output.present]


def first(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value[:1] for name, value in inputs.items()}


def same(a: ContrastiveOutput, b: ContrastiveOutput, atol: float = 1e-6) -> bool:
    return all(torch.allclose(x, y, atol=atol) for x, y in zip(parts(a), parts(b), strict=True))


# -- the contract of all models ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", [v for f in families() if issubclass(f.model, Contrastive) for v in f.variants])
def test_every_variant_builds_on_meta(variant):
    from zoo.models.registry import find_variant

    found = find_variant(variant)
    model = build(found, found.config(**found.variants[variant]))
    assert all(t.is_meta for t in [*model.parameters(), *model.buffers()])
    config = model.config
    assert ContrastiveConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert model.num_features == config.width and model.inputs[:2] == ("pixel_values", "input_ids")


COUNTS = {
    "clip_vit_base_patch32": 151_277_313,
    "clip_vit_base_patch16": 149_620_737,
    "clip_vit_large_patch14": 427_616_513,
    "clip_vit_large_patch14_336": 427_944_193,
    "clip_vit_huge_patch14": 986_109_441,
    "clip_vit_giant_patch14": 1_366_678_273,
    "clip_vit_gigantic_patch14": 2_539_567_105,
    "siglip_base_patch16_224": 203_155_970,
    "siglip_large_patch16_384": 652_478_466,
    "siglip_so400m_patch14_384": 877_960_498,
}


@pytest.mark.parametrize("variant", COUNTS)
def test_published_parameter_counts(variant):
    found = family(variant.split("_")[0])
    model = build(found, found.config(**found.variants[variant]))
    assert sum(p.numel() for p in model.parameters()) == COUNTS[variant]


@pytest.mark.parametrize("name", MODELS)
def test_every_shape_trains_saves_and_loads(name, tmp_path):
    model = make(name)
    inputs = batch(model)
    output = model(**inputs)
    assert all(torch.allclose(x.norm(dim=-1), torch.ones(3)) for x in parts(output))
    model.loss(output).backward()
    missing = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not missing
    grads = {n: p.grad.clone() for n, p in model.named_parameters()}
    model.zero_grad()
    model.set_checkpointing(True)
    model.train()
    model.loss(model(**inputs)).backward()
    assert all(torch.allclose(p.grad, grads[n], atol=1e-6) for n, p in model.named_parameters())
    zoo.save(model, tmp_path / "model")
    again = zoo.load(tmp_path / "model")
    assert again.config == model.config and not any(t.is_meta for t in again.state_dict().values())
    assert all(torch.equal(x, y) for x, y in zip(parts(again(**inputs)), parts(model.eval()(**inputs)), strict=True))
    assert zoo.verify(tmp_path / "model").ok


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_a_row_alone_is_the_row_of_a_batch(name):
    model = make(name)
    inputs = batch(model)
    alone, together = model(**first(inputs)), model(**inputs)
    assert all(torch.allclose(x, y[:1], atol=1e-6) for x, y in zip(parts(alone), parts(together), strict=True))


@pytest.mark.parametrize("name", full_unless(("vit and bert", "siglip"), MODELS))
def test_one_graph_forward_and_backward(name):
    torch._dynamo.reset()
    model, found = make(name), []
    for run in (model, torch.compile(model, backend="eager", fullgraph=True)):
        model.zero_grad()
        model.loss(run(**batch(model))).backward()
        found.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    assert len(found[0]) == len(found[1]) > 1
    assert all(torch.allclose(ours, theirs, atol=1e-5) for ours, theirs in zip(*found, strict=True))


@pytest.mark.parametrize("name", full_unless(("clip", "audio and images"), MODELS))
@torch.no_grad()
def test_compiles_whole_and_optimizes(name, monkeypatch):
    fastest(monkeypatch, "onednn")
    model = make(name)
    inputs = batch(model)
    output = model(**inputs)
    assert same(torch.compile(model, backend="eager", fullgraph=True)(**inputs), output)
    fast = zoo.optimize(model)
    assert same(fast(**inputs), output, 1e-5)
    half = zoo.optimize(model, dtype=torch.bfloat16)
    assert same(half(**inputs), output, 0.05)
    for modality in model.modalities:
        x = next(inputs[n] for n in ("pixel_values", "input_ids", "input_values") if n.startswith(START[modality]))
        given = getattr(half, f"encode_{modality}")(x)
        assert given.dtype == torch.float32
        assert torch.allclose(given, half(**inputs).features(modality), atol=1e-6)
    with pytest.raises(ValueError, match="is for inference"):
        fast.train()


START = {"image": "pixel", "text": "input_ids", "audio": "input_values"}


@torch.no_grad()
def test_maps_of_each_tower():
    model = make("siglip")
    with zoo.capture(model) as maps:
        output = model(**batch(model))
    assert same(output, model(**batch(model)), 0)
    assert list(maps) == [
        "image.blocks.0.mixer", "image.blocks.1.mixer", "image.head.mixer", "text.blocks.0.mixer",
        "text.blocks.1.mixer",
    ]  # fmt: skip
    assert maps["image.head.mixer"].shape == (3, 4, 1, 64)
    assert all(torch.allclose(m.sum(-1), torch.ones(())) for m in maps.values())


@torch.no_grad()
def test_padding_does_not_affect_outputs():
    for name in ("vit and bert", "clip"):
        model = make(name)
        ids = batch(model)["input_ids"]
        ids[0, 6] = 49
        ids[0, 7:] = 3
        keep = torch.ones_like(ids)
        keep[0, 7:] = 0
        both = model.encode_text(ids, keep)
        assert torch.allclose(both[:1], model.encode_text(ids[:1, :7]), atol=1e-6)
        model.text.drop_padding = False
        assert torch.allclose(both, model.encode_text(ids, keep), atol=1e-6)


# -- text towers ------------------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("pool", ["argmax", "eos"])
def test_only_as_many_tokens_are_computed_as_the_texts_have(pool):
    tower = zoo.create_model("clip_text_tiny", seed=0, **TEXT, pool=pool, eos_token_id=49).eval()
    ids = torch.randint(5, 48, (3, 30), generator=torch.Generator().manual_seed(0))
    for row, place in enumerate((4, 9, 6)):
        ids[row, place], ids[row, place + 1 :] = 49, 0
    computed = []
    tower.blocks[0].mlp.register_forward_pre_hook(lambda module, args: computed.append(args[0].shape[:2].numel()))
    features = tower(ids)
    tower.drop_padding = False
    assert torch.allclose(features, tower(ids), atol=1e-6)
    hidden = tower.encode(ids)
    assert computed == [5 + 10 + 7, 3 * 10, 3 * 30]
    assert torch.allclose(features, hidden[torch.arange(3), torch.tensor([4, 9, 6])], atol=1e-6)
    assert torch.allclose(features, tower(ids, (ids > 0).long()), atol=1e-6)


def test_a_text_without_an_end_token_warns():
    tower = zoo.create_model("clip_text_tiny", seed=0, **TEXT, pool="eos", eos_token_id=49).eval()
    with pytest.warns(UserWarning, match="text 1 has no end token"):
        tower(torch.tensor([[5, 49, 6], [5, 6, 7]]))


def test_a_tower_without_a_mask_raises_for_one():
    model = make("siglip")
    ids = batch(model)["input_ids"]
    assert "attention_mask" not in model.inputs
    with pytest.raises(ValueError, match="does not use 'attention_mask'"):
        model(input_ids=ids, attention_mask=torch.ones_like(ids))
    with pytest.raises(ValueError, match="but not attention_mask"):
        model.encode_text(ids, torch.ones_like(ids))
    with pytest.raises(ValueError, match="takes no attention_mask"):
        model.text.encode(ids, torch.ones_like(ids))


# -- several towers ---------------------------------------------------------------------------------------------------


def test_pairs_of_three():
    model = make("three")
    output = model(**batch(model))
    assert output.pairs() == [("image", "text"), ("image", "audio"), ("text", "audio")]
    assert output.logits("audio", "image").shape == (3, 3)
    assert torch.allclose(output.logits("text", "audio"), output.logits("audio", "text").T)
    one = model(input_ids=batch(model)["input_ids"])
    assert one.image_features is None and one.present == ("text",)
    with pytest.raises(ValueError, match="no image input"):
        one.logits("image", "text")
    with pytest.raises(ValueError, match="needs two modalities"):
        model.loss(one)
    with pytest.raises(ValueError, match="no modality 'imag'; did you mean 'image'"):
        output.features("imag")
    with pytest.raises(ValueError, match="nothing to encode"):
        model()


def test_inputs_that_no_tower_uses_are_named():
    model = make()
    for name in ("input_values", "labels"):
        with pytest.raises(ValueError, match=f"pixel_values.*does not use '{name}'"):
            model(**batch(model), **{name: torch.zeros(2, 8)})


def test_unnormalized_features_and_hidden_states():
    model = make()
    inputs = batch(model)
    raw = model.encode_image(inputs["pixel_values"], normalize=False)
    assert (raw.norm(dim=-1) - 1).abs().min() > 0.01
    assert torch.allclose(raw / raw.norm(dim=-1, keepdim=True), model(**inputs).image_features, atol=1e-6)
    hidden = model.encode(**inputs)
    assert hidden["image"].shape == (3, 64, 32) and hidden["text"].shape == (3, 11, 32)
    layers = model.encode(**inputs, layers=[0])
    assert len(layers["text"][1]) == 1


def test_loss_starts_from_the_published_temperatures():
    clip, siglip = make("clip"), make("siglip")
    assert clip.logit_bias is None and clip.logit_scale.exp().item() == pytest.approx(1 / 0.07)
    assert siglip.logit_bias.item() == -10 and siglip.logit_scale.exp().item() == pytest.approx(10)


def test_locked_towers_and_unlocked_groups():
    model = make(locked="text")
    model.train()
    assert not model.text.training and model.image.training
    assert not any(p.requires_grad for p in model.text.parameters()) and model.text_proj.weight.requires_grad
    model.loss(model(**batch(model))).backward()
    assert all(p.grad is None for p in model.text.parameters()) and model.text_proj.weight.grad is not None
    model = make("clip", locked={"text": 1})
    model.train()
    learning = {n for n, p in model.text.named_parameters() if p.requires_grad}
    assert learning == {n for n, _ in model.text.named_parameters() if n.startswith(("blocks.1.", "blocks.norm."))}
    assert model.text.blocks[1].training and not model.text.blocks[0].training
    model.lock("text", 3)
    assert all(p.requires_grad for p in model.text.parameters())
    with pytest.raises(ValueError, match="has 3 groups"):
        model.lock("text", 4)
    with pytest.raises(ValueError, match="no audio tower"):
        model.lock("audio")


def test_towers_from_names_folders_and_modules(tmp_path):
    classifier = zoo.create_model("vit_cifar_tiny", seed=3, **{n: v for n, v in VIT.items() if n != "name"})
    zoo.save(classifier, tmp_path / "vit")
    text = zoo.create_model("bert_tiny", seed=4, head="pool", **TEXT)
    model = zoo.contrast(image=tmp_path / "vit", text=text, width=24, seed=0)
    assert model.text is text
    assert torch.equal(model.image.blocks[0].mixer.q.weight, classifier.blocks[0].mixer.q.weight)
    assert "image.blocks.0.mixer.q.weight" in model.load_report.mapped
    assert set(model.load_report.initialized) >= {"image_proj.weight", "logit_scale"}
    assert model.preprocess.image.size == (32, 32)
    given = zoo.contrast(image=classifier, text=text, seed=0)
    assert given.image is classifier and classifier.config.head == "pool" and classifier.labels is None
    zoo.save(model, tmp_path / "both")
    other = zoo.contrast(image={"name": tmp_path / "both"}, text=BERT, seed=0)  # a tower of a model of several
    assert torch.equal(other.image.patches.positions, model.image.patches.positions)
    again = zoo.contrast(**MODELS["vit and bert"], width=24, seed=0).state_dict()
    assert all(torch.equal(again[n], t) for n, t in make().state_dict().items())


WRONG = {
    "expected two or three towers": dict(text=None),
    "a bert model is for text inputs, it cannot be the image tower": dict(image="bert_tiny"),
    "did you mean 'vit_cifar_tiny'": dict(image="vit_cifar_tin"),
    "has 32 features and no projection, .* width=24": dict(image={**VIT, "proj": None}),
    "the image tower is a Linear": dict(image=torch.nn.Linear(2, 2)),
    "lacks 'name'": dict(image={"width": 32}),
    "locked='audio': expected one of image, text": dict(locked=["audio"]),
    "has head='token', expected 'pool'": dict(text={**BERT, "head": "token"}),
    "no field 'embed_dim'; did you mean 'width'": dict(image={**VIT, "embed_dim": 3}),
    "proj='conv' should be one of|proj='conv' of": dict(image={**VIT, "proj": "conv"}),
    "loss='triplet' should be one of 'clip', 'siglip'": dict(loss="triplet"),
}


@pytest.mark.parametrize("message", WRONG)
def test_towers_that_do_not_fit_are_refused(message):
    with pytest.raises(ValueError, match=message):
        make(**WRONG[message])


def test_overrides_of_towers(tmp_path):
    model = make("three")
    zoo.save(model, tmp_path / "model")
    other = zoo.load(tmp_path / "model", **{"text.attention": "performer", "image_size": 64})
    assert other.config.text.config.attention == "performer" and other.config.image.config.attention == "softmax"
    assert other.load_report.resampled == ["image.patches.positions"] and other.preprocess.image.size == (64, 64)
    every = model.config.replace(attention="linear", mel_bins=32)
    assert {c.attention for c in every.parts.values()} == {"linear"} and every.audio.config.mel_bins == 32
    with pytest.raises(ValueError, match=r"use image\.depth or text\.depth or audio\.depth"):
        model.config.replace(depth=3)
    with pytest.raises(ValueError, match="no field 'imagesize'; did you mean 'image"):
        model.config.replace(imagesize=3)
    with pytest.raises(ValueError, match="has no field 'dpth'; did you mean 'depth'"):
        model.config.replace(**{"text.dpth": 3})
    with pytest.raises(ValueError, match="no classifier"):
        zoo.load(tmp_path / "model", num_classes=3)
    with pytest.raises(zoo.LoadError, match="has no weights for the overrides"):
        zoo.load(tmp_path / "model", **{"text.depth": 3})
    with pytest.raises(ValueError, match="no classifier"):
        model.reset_head(3)


def test_a_damaged_description_names_the_place(tmp_path):
    zoo.save(make(), tmp_path / "model")
    file = tmp_path / "model" / "config.json"
    good = file.read_text()
    for change, message in {
        "config.text.config.depht": "no field 'depht'; did you mean 'depth'",
        "config.text.projj": "no key 'projj'; did you mean 'proj'",
        "config.imag": "no field 'imag'; did you mean 'image'",
        "preprocess.imag": "unknown key 'imag'; did you mean 'image'",
    }.items():
        values = json.loads(good)
        *path, last = change.split(".")
        place = values
        for key in path:
            place = place[key]
        place[last] = 1
        file.write_text(json.dumps(values))
        with pytest.raises(zoo.LoadError, match=message):
            zoo.load(tmp_path / "model")
    values = json.loads(good)
    del values["config"]["text"]["config"]["depth"]
    file.write_text(json.dumps(values))
    with pytest.raises(zoo.LoadError, match=r"lacks .*depth"):
        zoo.load(tmp_path / "model")


# -- preprocessing ----------------------------------------------------------------------------------------------------


def test_a_preprocess_for_both(tmp_path):
    from PIL import Image

    words = train("wordpiece", ["a small red circle", "a large blue square"] * 3, 40, max_length=16)
    model = make()
    assert model.preprocess.text is None
    with pytest.raises(ValueError, match=r"no preprocessing for text: set model\.preprocess = dataclasses"):
        model.preprocess("a red circle")
    model.preprocess = replace(model.preprocess, text=words)
    image = Image.new("RGB", (40, 30), (9, 200, 30))
    image.save(tmp_path / "green.png")
    file = tmp_path / "green.png"
    for given in (image, file, str(file), [image], [file]):
        assert torch.equal(model.preprocess(given)["pixel_values"], model.preprocess(images=[image])["pixel_values"])
    both = model.preprocess(images=[image, file], text=["a red circle", "a square"])
    assert set(both) == {"pixel_values", "input_ids", "attention_mask"}
    assert model(**both).logits("image", "text").shape == (2, 2)
    assert again_long(model)["input_ids"].shape == (1, 16)
    assert set(model.preprocess("no such file.png")) == {"input_ids", "attention_mask"}
    assert set(model.preprocess(text="missing.png")) == {"input_ids", "attention_mask"}
    zoo.save(model, tmp_path / "model")
    again = zoo.load(tmp_path / "model").preprocess
    assert again == model.preprocess and torch.equal(again("a circle")["input_ids"], words("a circle")["input_ids"])
    wrong = {
        "no preprocessing for audio": lambda: again((torch.zeros(9), 8000)),
        "there is no image file missing.png": lambda: again("missing.png"),
        "expected a list of one modality": lambda: again([image, "a text"]),
        "image was given twice": lambda: again(image, images=[image]),
        "preprocess needs an input": lambda: again(),
        "has no option 'image'; did you mean 'images'": lambda: again(image=image),
        "truncate= does not apply to any input": lambda: again(image, truncate="cut"),
        "at most max_length=16": lambda: again("a red circle " * 9),
        "expected an image or audio file": lambda: again(tmp_path / "x.txt"),
        "a pair of texts": lambda: again(text=("a red", "a blue")),
    }
    for message, call in wrong.items():
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(ValueError, match="does not belong to this model"):
        MultimodalProcessor(text=train("bpe", ["a small circle"], 300, max_length=16)).check(model.config)
    with pytest.raises(ValueError, match="a processor for audio"):
        MultimodalProcessor(audio=words).check(model.config)


def again_long(model: Contrastive) -> dict[str, Tensor]:
    return model.preprocess("a red circle " * 9, truncate="cut")


@torch.no_grad()
def test_audio_among_other_modalities(tmp_path):
    model = make("three")
    clip = torch.randn(3000, generator=torch.Generator().manual_seed(0))
    made = model.preprocess((clip, 16000))
    named = model.preprocess(audio=clip, sampling_rate=16000)
    assert set(made) == {"input_values"} and torch.equal(made["input_values"], named["input_values"])
    assert model(**made).present == ("audio",)
    with pytest.raises(ValueError, match="too_long='cut'"):
        model.preprocess((clip.repeat(9), 16000))
    assert model.preprocess((clip.repeat(9), 16000), too_long="cut")["input_values"].shape == (1, 21, 16)
    zoo.save(model, tmp_path / "model")
    assert zoo.load(tmp_path / "model").preprocess == model.preprocess


@torch.no_grad()
@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_maps_of_the_image_are_plotted_over_it(name):
    model = make(name)
    image = torch.zeros(3, 32, 32, dtype=torch.uint8)
    with zoo.capture(model, layers="image.*") as maps:
        model.encode_image(model.preprocess(image)["pixel_values"])
    for who in (model, model.image):
        assert zoo.plot_attention(image, maps, model=who)


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_images_of_several_sizes_are_encoded_as_each_alone(name):
    model = make(name)
    step = model.config.image.config.patch_size
    images = [torch.randn(3, *size) for size in [(32, 32), (4 * step, 2 * step), (32, 32), (2 * step, 6 * step)]]
    features = model.encode_image(images)
    assert torch.allclose(features, torch.cat([model.encode_image([x]) for x in images]), atol=1e-6)
    assert torch.allclose(features[:1], model.encode_image(images[0][None]), atol=1e-6)
    assert torch.equal(model(pixel_values=images).image_features, features)
    assert torch.allclose(zoo.optimize(model).encode_image(images), features, atol=1e-5)
    for raw in (lambda: model.encode_text("a red bird"), lambda: model.encode_image(["a.png"]), lambda: model("a.png")):
        with pytest.raises(ValueError, match=r"is a str, expected a tensor: model\.preprocess"):
            raw()
    features[:, 0].sum().backward()
    assert model.image.patches.positions.grad.isfinite().all()
