"""CLIP and SigLIP: the same files through us and through transformers or open_clip, there and back."""

import json
from dataclasses import replace
from pathlib import Path

import open_clip
import pytest
import timm
import torch
import transformers
from clip_peers import OPEN_CLIP, SIGLIP_TEXT, answers, open_clip_pair, texts, transformers_pair
from clip_peers import TEXT as TEXT_CONFIG
from clip_peers import VISION as VISION_CONFIG
from peers import edit_json, error, pixels, randomize

import zoo
from zoo.checkpoints.load import describe
from zoo.models.mapping.config_keys import differences
from zoo.models.mapping.tensors import import_tensors
from zoo.models.registry import build, find_variant
from zoo.models.vit.model import SIGLIP, VARIANTS
from zoo.utils.files import open_tensors

TRANSFORMERS = {
    "clip": ("CLIPModel", dict(projection_dim=24)),
    "clip, the greatest id": ("CLIPModel", dict(projection_dim=24, text=dict(eos_token_id=2))),
    "clip, gelu": (
        "CLIPModel", dict(projection_dim=32, text=dict(hidden_act="gelu"), vision=dict(hidden_act="gelu"))
    ),
    "siglip": ("SiglipModel", dict(text=dict(projection_size=32))),
    "siglip, edges cut": ("SiglipModel", dict(text=dict(projection_size=32), vision=dict(image_size=37))),
}  # fmt: skip
CUSTOM = dict(custom_text=True, init_logit_bias=-10.0)
VISION, TEXT = OPEN_CLIP["vision_cfg"], OPEN_CLIP["text_cfg"]
OPEN = {
    "clip": {},
    "clip, quick gelu": dict(quick_gelu=True),
    "text tower of its own": dict(custom_text=True),
    "sigmoid loss": CUSTOM | dict(nonscalar_logit_scale=True),
    "layer scale": dict(vision_cfg=VISION | dict(ls_init_value=0.1)),
    "read at the end": dict(text_cfg=TEXT | dict(pool_type="eos", eos_id=98)),
    "siglip": CUSTOM
    | dict(
        embed_dim=32,
        text_cfg=TEXT | SIGLIP_TEXT,
        vision_cfg=dict(image_size=32, timm_model_name="vit_test_siglip", timm_pool="map", timm_proj="none"),
    ),
}


@pytest.fixture(autouse=True)
def small_siglip(monkeypatch):
    """An image tower that timm builds by a name, small."""
    shape = dict(image_size=32, patch_size=8, width=32, depth=2, heads=4)
    monkeypatch.setitem(VARIANTS, "vit_test_siglip", SIGLIP | shape)
    create = timm.create_model

    def small(name: str, *args, **options):
        if name == "vit_test_siglip":
            name, options = (
                "vit_base_patch16_siglip_224",
                options | dict(img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=4),
            )
        return create(name, *args, **options)

    monkeypatch.setattr(timm, "create_model", small)


def ids_for(model: zoo.Model) -> tuple[torch.Tensor, torch.Tensor | None]:
    causal = model.config.text.config.causal
    ids, mask = texts()
    return (ids, mask) if causal else (ids.clamp(min=1), None)


def compare(ours: zoo.Model, theirs: torch.nn.Module, tolerance: float = 1e-5, *, masked: bool = False) -> None:
    ids, mask = ids_for(ours)
    mask = mask if masked else None
    size = ours.config.image.config.image_size
    batch = {"pixel_values": pixels((size, size), rows=3), "input_ids": ids}
    with torch.no_grad():
        output = ours(**batch, **({} if mask is None else {"attention_mask": mask}))
    expected = answers(theirs, batch["pixel_values"], ids, mask)
    assert error(output.image_features, expected["image"]) <= tolerance
    assert error(output.text_features, expected["text"]) <= tolerance
    assert error(output.logits("image", "text"), expected["scores"]) <= tolerance
    assert error(output.logits("text", "image"), expected["scores"].T) <= tolerance
    if "loss" in expected:
        assert error(ours.loss(output), expected["loss"]) <= tolerance


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_transformers_there_and_back(name, tmp_path):
    cls, options = TRANSFORMERS[name]
    theirs = transformers_pair(tmp_path / "theirs", cls, **options)
    ours = zoo.load(tmp_path / "theirs")
    assert ours.load_report.plain, ours.load_report
    compare(ours, theirs)
    if name.startswith("clip"):
        compare(ours, theirs, masked=True)
    assert zoo.verify(tmp_path / "theirs").ok
    zoo.export(ours, tmp_path / "ours")
    compare(ours, getattr(transformers, cls).from_pretrained(tmp_path / "ours").eval())
    zoo.save(ours, tmp_path / "zoo")
    again = zoo.load(tmp_path / "zoo")
    assert again.config == ours.config and zoo.verify(tmp_path / "zoo").ok
    compare(again, theirs)


@pytest.mark.parametrize("name", OPEN)
def test_open_clip_there_and_back(name, tmp_path):
    weights = "pickle" if name == "clip" else "safetensors"
    theirs = open_clip_pair(tmp_path / "theirs", weights=weights, **OPEN[name])
    ours = zoo.load(tmp_path / "theirs")
    assert not (ours.load_report.dropped or ours.load_report.initialized)
    compare(ours, theirs)
    assert zoo.verify(tmp_path / "theirs").ok
    zoo.export(ours, tmp_path / "ours", format="open_clip")
    again, _, _ = open_clip.create_model_and_transforms(f"local-dir:{tmp_path / 'ours'}", output_dict=True)
    compare(ours, again.eval())
    assert zoo.load(tmp_path / "ours").config == ours.config


def test_what_open_clip_has_and_we_do_not_is_refused_by_name(tmp_path):
    wrong = {
        "CoCa": dict(multimodal_cfg={}),
        "hf_model_name='roberta-base'": dict(text_cfg=dict(hf_model_name="roberta-base")),
        "ResNets": dict(vision_cfg=dict(layers=[3, 4, 6, 3], width=64)),
        "timm_model_name='resnet50'": dict(vision_cfg=dict(timm_model_name="resnet50", timm_proj="none")),
        "timm_proj='linear'": dict(vision_cfg=dict(timm_model_name="vit_base_patch16_224")),
        "no_ln_pre=True": dict(vision_cfg=VISION | dict(no_ln_pre=True)),
        "qk_norm=True": dict(text_cfg=TEXT | dict(qk_norm=True)),
        "frobnicate=1": dict(frobnicate=1),
        "extra_words=1": dict(text_cfg=TEXT | dict(extra_words=1)),
        "proj_type='mlp'": dict(text_cfg=TEXT | dict(proj_type="mlp")),
    }
    for message, change in wrong.items():
        config = {"model_cfg": OPEN_CLIP | change, "preprocess_cfg": {}}
        (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
        with pytest.raises(zoo.LoadError, match=message):
            zoo.load(tmp_path)
    (tmp_path / "open_clip_config.json").unlink()
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "clap", "architectures": ["ClapModel"]}))
    with pytest.raises(zoo.LoadError, match="'clap' is not supported \\(supported: "):
        zoo.load(tmp_path)


def test_what_they_cannot_express_is_refused_by_name(tmp_path):
    clip = zoo.create_model("clip_tiny", seed=0, **{"text.attention": "performer"})
    with pytest.raises(ValueError, match=r"cannot express text\.attention='performer'"):
        zoo.export(clip, tmp_path / "x")
    with pytest.raises(ValueError, match=r"cannot express text\.attention='performer'"):
        zoo.export(clip, tmp_path / "x", format="open_clip")
    with pytest.raises(ValueError, match=r"open_clip cannot express .*act='gelu_tanh' in an image tower"):
        zoo.export(zoo.create_model("siglip_tiny", seed=0), tmp_path / "x", format="open_clip")
    with pytest.raises(ValueError, match="cannot be exported to 'timm'"):
        zoo.export(zoo.create_model("clip_tiny", seed=0), tmp_path / "x", format="timm")


def test_towers_put_together_are_exported_where_they_are_those_of_clip(tmp_path):
    shape = dict(width=32, depth=2, heads=4)
    image = dict(name="vit_cifar", image_size=32, patch_size=8, pre_norm=True, norm_eps=1e-5, **shape)
    text = dict(name="clip_text_tiny", vocab_size=99, max_length=16, eos_token_id=98, pool="eos", **shape)
    model = zoo.contrast(image=image, text=text, width=24, seed=0).eval()
    model.preprocess = replace(model.preprocess, image=replace(model.preprocess.image, mean=(0.5,) * 3, std=(0.5,) * 3))
    zoo.export(model, tmp_path / "hf")
    compare(model, transformers.CLIPModel.from_pretrained(tmp_path / "hf").eval())
    zoo.export(model, tmp_path / "open", format="open_clip")
    compare(model, open_clip.create_model(f"local-dir:{tmp_path / 'open'}", output_dict=True).eval())
    other = zoo.contrast(image=image | dict(pre_norm=False), text=text, width=24, seed=0)
    with pytest.raises(ValueError, match=r"CLIPModel cannot express image\.pre_norm=False"):
        zoo.export(other, tmp_path / "no")


def test_published_configs_and_files(tmp_path):
    """position_ids in the file, `text_config_dict` beside `text_config`, a list of ids, weights in a pickle."""
    theirs = transformers_pair(tmp_path, "CLIPModel", projection_dim=24, text=dict(eos_token_id=2))
    state = {name: tensor.clone() for name, tensor in open_tensors(tmp_path).items()}
    state["text_model.embeddings.position_ids"] = torch.arange(16)[None]
    state["vision_model.embeddings.position_ids"] = torch.arange(17)[None]
    (tmp_path / "model.safetensors").unlink()
    torch.save(state, tmp_path / "pytorch_model.bin")
    config = json.loads((tmp_path / "config.json").read_text())
    edit_json(tmp_path / "config.json", text_config_dict=config["text_config"], text_config={"hidden_size": 512})
    ours = zoo.load(tmp_path)
    assert sorted(ours.load_report.dropped) == [
        "text_model.embeddings.position_ids",
        "vision_model.embeddings.position_ids",
    ]
    compare(ours, theirs)


@pytest.mark.parametrize("source", ["clip", "siglip"])
def test_every_tensor_of_a_tower_goes_to_one_place(source, tmp_path):
    """Exchanging two tensors of one shape on disk changes what the model answers, or cannot be loaded."""
    transformers_pair(tmp_path, {"clip": "CLIPModel", "siglip": "SiglipModel"}[source], text=dict(hidden_size=32))
    checkpoint = describe(tmp_path)
    model = build(checkpoint.family, checkpoint.config)
    raw = open_tensors(tmp_path)
    tensors, _ = import_tensors(checkpoint.table, model.state_dict(), raw)
    assert len({t.data_ptr() for t in tensors.values()}) == len(tensors)
    lines = [line for line in checkpoint.table.splitlines() if "norm1.@" in line or "norm2.@" in line]
    swapped = checkpoint.table
    first, second = lines[0].split(" = "), lines[1].split(" = ")
    swapped = swapped.replace(lines[0], f"{first[0]} = {second[1]}").replace(lines[1], f"{second[0]} = {first[1]}")
    other, _ = import_tensors(swapped, model.state_dict(), raw)
    changed = [name for name in tensors if not torch.equal(tensors[name], other[name])]
    assert changed


@pytest.mark.parametrize("name", ["CLIPVisionModel", "CLIPTextModel", "SiglipVisionModel"])
def test_towers_alone(name, tmp_path):
    cls = getattr(transformers, name)
    theirs = randomize(cls(cls.config_class(**(TEXT_CONFIG if name == "CLIPTextModel" else VISION_CONFIG))))
    theirs.save_pretrained(tmp_path / "theirs")
    ours = zoo.load(tmp_path / "theirs")
    assert ours.load_report.plain and zoo.verify(tmp_path / "theirs").ok
    prefix = "text_model." if name == "CLIPTextModel" else "vision_model."  # as older versions write it
    old = {f"{prefix}{key}": tensor.clone() for key, tensor in open_tensors(tmp_path / "theirs").items()}
    old[f"{prefix}embeddings.position_ids"] = torch.arange(3)[None]
    zoo.export(ours, tmp_path / "ours")
    again = cls.from_pretrained(tmp_path / "ours").eval()
    ids, _ = texts()
    x = ids if name == "CLIPTextModel" else pixels(rows=3)
    with torch.no_grad():
        a, b, c = theirs(x), again(x), ours(x)
    expected = a.last_hidden_state if name == "CLIPTextModel" else a.pooler_output
    assert error(b.pooler_output, a.pooler_output) <= 1e-6 and error(c, expected) <= 1e-5
    if name == "CLIPTextModel":
        assert error(zoo.load(tmp_path / "theirs", head="pool")(x), a.pooler_output) <= 1e-5
    (tmp_path / "theirs" / "model.safetensors").unlink()
    torch.save(old, tmp_path / "theirs" / "pytorch_model.bin")
    assert torch.equal(zoo.load(tmp_path / "theirs")(x), c)


def test_towers_with_a_projection_alone_are_refused_by_name(tmp_path):
    for name, kind in (
        ("CLIPVisionModelWithProjection", "clip_vision_model"),
        ("SiglipTextModel", "siglip_text_model"),
    ):
        (tmp_path / "config.json").write_text(json.dumps({"model_type": kind, "architectures": [name]}))
        with pytest.raises(zoo.LoadError, match=rf"{name}|'{kind}' is not supported"):
            zoo.load(tmp_path)


def test_a_folder_for_both_libraries_is_read_by_the_config_that_is_named(tmp_path):
    theirs = transformers_pair(tmp_path, "CLIPModel", projection_dim=24)
    other = open_clip_pair(tmp_path, quick_gelu=True)
    with pytest.raises(
        zoo.LoadError, match=r"transformers and open_clip at once; name the file to use: .*open_clip_config"
    ):
        zoo.load(tmp_path)
    compare(zoo.load(tmp_path / "config.json"), theirs)
    compare(zoo.load(tmp_path / "open_clip_config.json"), other)
    assert zoo.verify(tmp_path / "open_clip_config.json").ok and zoo.verify(tmp_path / "config.json").ok


def test_images_of_another_size_are_resampled(tmp_path):
    transformers_pair(tmp_path, "CLIPModel", projection_dim=24)
    model = zoo.load(tmp_path, image_size=48)
    assert model.load_report.resampled == ["image.patches.positions"]
    assert model.encode_image(pixels((48, 48))).shape == (2, 24)


def test_a_processor_that_transformers_saved(tmp_path):
    from PIL import Image

    transformers_pair(tmp_path, "CLIPModel", projection_dim=24)
    processor = transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    processor.save_pretrained(tmp_path)
    image = Image.new("RGB", (50, 40), (250, 10, 90))
    model = zoo.load(tmp_path)
    ours = model.preprocess(images=[image])["pixel_values"]
    theirs = processor(image, return_tensors="pt")["pixel_values"]
    assert torch.allclose(ours, theirs, atol=1e-5)
    zoo.export(model, tmp_path / "out")
    again = transformers.AutoImageProcessor.from_pretrained(tmp_path / "out")
    assert torch.allclose(again(image, return_tensors="pt")["pixel_values"], theirs, atol=1e-5)


def test_an_empty_preprocess_cfg_means_the_defaults_of_open_clip(tmp_path):
    from PIL import Image

    draw = torch.Generator().manual_seed(0)
    noise = torch.randint(256, (45, 70, 3), dtype=torch.uint8, generator=draw)
    image = Image.fromarray(noise.numpy())
    for settings in ({}, {"resize_mode": "squash", "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bilinear"}):
        folder = tmp_path / str(len(settings))
        open_clip_pair(folder, preprocess=settings)
        model = zoo.load(folder)
        _, _, transform = open_clip.create_model_and_transforms(f"local-dir:{folder}", force_image_size=32)
        if not settings:
            transform = open_clip.image_transform(32, is_train=False)
        ours = model.preprocess(image)["pixel_values"][0]
        assert torch.allclose(ours, transform(image), atol=1e-6)


def test_files_with_a_tokenizer_from_vocabulary_and_merges(tmp_path):
    words = clip_vocabulary(tmp_path)
    transformers_pair(
        tmp_path, "CLIPModel", projection_dim=24, text=dict(vocab_size=len(words), eos_token_id=words["<|endoftext|>"])
    )
    theirs = transformers.CLIPTokenizer.from_pretrained(tmp_path)
    model = zoo.load(tmp_path)
    texts = ["A  low Lower", "don't low!"]
    ours = model.preprocess(texts)
    expected = theirs(texts, padding=True, return_tensors="pt")
    assert torch.equal(ours["input_ids"], expected["input_ids"])
    assert torch.equal(ours["attention_mask"], expected["attention_mask"])
    zoo.export(model, tmp_path / "out")
    again = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert torch.equal(again(texts, padding=True, return_tensors="pt")["input_ids"], expected["input_ids"])
    assert model.encode_text(**ours).shape == (2, 24)
    ids = ours["input_ids"][0]
    assert model.preprocess.text.decode(ids) == theirs.decode(ids, skip_special_tokens=True) == "a low lower"


def clip_vocabulary(folder: Path) -> dict[str, int]:
    """vocab.json and merges.txt of a very small CLIP tokenizer."""
    from zoo.checkpoints.formats.vocabulary_files import END, START, byte_letters

    letters = byte_letters()
    merges = [("l", "o"), ("lo", "w</w>"), ("e", "r</w>"), ("lo", "w")]
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(pair) for pair in merges), START, END]
    words = {token: i for i, token in enumerate(tokens)}
    (folder / "vocab.json").write_text(json.dumps(words))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(pair) for pair in merges) + "\n")
    names = {"bos_token": START, "eos_token": END, "pad_token": END, "unk_token": END}
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CLIPTokenizer", **names}))
    return words


def test_clip_has_its_own_vocabulary_where_open_clip_is_installed(tmp_path):
    text = TEXT | dict(vocab_size=49408)
    open_clip_pair(tmp_path / "theirs", text_cfg=text)
    model = zoo.load(tmp_path / "theirs")
    texts = ["A photo of a cat!", "it's  naïve 猫 😀"]
    ids = open_clip.get_tokenizer("ViT-B-32", context_length=16)(texts)
    ours = model.preprocess(text=texts)["input_ids"]
    assert torch.equal(torch.nn.functional.pad(ours, (0, 16 - ours.shape[1])), ids)
    assert torch.allclose(model.encode_text(ours), model.encode_text(ids), atol=1e-6)
    zoo.export(model, tmp_path / "ours", format="open_clip")
    tokens = open_clip.get_tokenizer(f"local-dir:{tmp_path / 'ours'}")
    assert torch.equal(tokens(texts), ids)


def test_from_open_clip_to_transformers(tmp_path):
    from transformers import AutoProcessor, CLIPModel

    theirs = open_clip_pair(tmp_path / "theirs", text_cfg=TEXT | dict(vocab_size=49408), quick_gelu=True)
    model = zoo.load(tmp_path / "theirs")
    zoo.export(model, tmp_path / "ours", format="transformers")
    again, process = CLIPModel.from_pretrained(tmp_path / "ours"), AutoProcessor.from_pretrained(tmp_path / "ours")
    image = torch.randint(0, 255, (3, 32, 32), dtype=torch.uint8)
    given = process(text=["A photo of a cat!", "a dog"], images=[image, image], return_tensors="pt", padding=True)
    found = again.eval()(**given)
    assert error(model(**given).logits("image", "text"), found.logits_per_image) < 1e-5
    ids = open_clip.get_tokenizer("ViT-B-32", context_length=16)(["A photo of a cat!", "a dog"])
    assert error(theirs.encode_text(ids, normalize=True), found.text_embeds) < 1e-5


@pytest.mark.parametrize("cls", ["CLIPModel", "SiglipModel"])
def test_training_takes_the_same_course(cls, tmp_path):
    theirs = transformers_pair(tmp_path, cls, text=dict(hidden_size=32)).train()
    with torch.no_grad():
        theirs.logit_scale.fill_(2.0)
    theirs.save_pretrained(tmp_path)
    ours = zoo.load(tmp_path).train()
    ids, _ = ids_for(ours)
    lost = []
    for model in (ours, theirs):
        draw, steps = torch.Generator().manual_seed(0), []
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)
        for _ in range(20):
            batch = {"pixel_values": torch.randn(3, 3, 32, 32, generator=draw), "input_ids": ids}
            loss = ours.loss(ours(**batch)) if model is ours else theirs(**batch, return_loss=True).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            steps.append(loss.item())
        lost.append(steps)
    assert lost[0] == pytest.approx(lost[1], rel=1e-4) and len(set(lost[0])) == 20


# -- published folders ------------------------------------------------------------------------------------------------

OPENAI = {
    "_name_or_path": "openai/clip-vit-base-patch32",
    "architectures": ["CLIPModel"],
    "initializer_factor": 1.0,
    "logit_scale_init_value": 2.6592,
    "model_type": "clip",
    "projection_dim": 512,
    "text_config": {
        "bos_token_id": 0, "eos_token_id": 2, "hidden_act": "quick_gelu", "hidden_size": 512, "intermediate_size": 2048,
        "layer_norm_eps": 1e-05, "max_position_embeddings": 77, "model_type": "clip_text_model",
        "num_attention_heads": 8, "num_hidden_layers": 12, "pad_token_id": 1, "vocab_size": 49408,
    },
    "text_config_dict": None,
    "torch_dtype": "float32",
    "vision_config": {
        "hidden_act": "quick_gelu", "hidden_size": 768, "image_size": 224, "intermediate_size": 3072,
        "layer_norm_eps": 1e-05, "model_type": "clip_vision_model", "num_attention_heads": 12, "num_hidden_layers": 12,
        "patch_size": 32,
    },
    "vision_config_dict": None,
}  # fmt: skip
LARGE = {
    "architectures": ["CLIPModel"],
    "model_type": "clip",
    "projection_dim": 768,
    "text_config": {"hidden_size": 512, "eos_token_id": 2},
    "text_config_dict": {
        "hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "num_hidden_layers": 12,
        "projection_dim": 768, "eos_token_id": 2,
    },
    "vision_config": {},
    "vision_config_dict": {
        "hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16, "num_hidden_layers": 24,
        "patch_size": 14, "projection_dim": 768,
    },
}  # fmt: skip
GOOGLE = {
    "architectures": ["SiglipModel"],
    "initializer_factor": 1.0,
    "model_type": "siglip",
    "text_config": {"model_type": "siglip_text_model"},
    "torch_dtype": "float32",
    "vision_config": {"model_type": "siglip_vision_model"},
}
SO400M = {
    "hidden_size": 1152, "intermediate_size": 4304, "num_attention_heads": 16, "num_hidden_layers": 27,
}  # fmt: skip
GOOGLE_SO400M = GOOGLE | {
    "text_config": SO400M | {"model_type": "siglip_text_model"},
    "vision_config": SO400M | {"image_size": 384, "model_type": "siglip_vision_model", "patch_size": 14},
}
PUBLISHED = {
    "clip_vit_base_patch32": OPENAI,
    "clip_vit_large_patch14": LARGE,
    "siglip_base_patch16_224": GOOGLE,
    "siglip_so400m_patch14_384": GOOGLE_SO400M,
}


@pytest.mark.parametrize("variant", PUBLISHED)
def test_published_configs_are_the_variants(variant, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(PUBLISHED[variant]))
    found = find_variant(variant)
    same(described(tmp_path), found.config(**found.variants[variant]))


@pytest.mark.parametrize(
    ("variant", "name"),
    [
        ("clip_vit_base_patch16", "ViT-B-16-quickgelu"),
        ("clip_vit_large_patch14_336", "ViT-L-14-336-quickgelu"),
        ("clip_vit_huge_patch14", "ViT-H-14"),
        ("clip_vit_giant_patch14", "ViT-g-14"),
        ("clip_vit_gigantic_patch14", "ViT-bigG-14"),
        ("siglip_base_patch16_224", "ViT-B-16-SigLIP"),
        ("siglip_so400m_patch14_384", "ViT-SO400M-14-SigLIP-384"),
    ],
)
def test_open_clips_own_configs_are_the_variants(variant, name, tmp_path):
    """But for the activation of SigLIP, exact GELU there, and tanh in transformers."""
    values = {"model_cfg": open_clip.get_model_config(name), "preprocess_cfg": {}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(values))
    found = find_variant(variant)
    expected = found.config(**found.variants[variant])
    if variant.startswith("siglip"):
        expected = expected.replace(**{"image.act": "gelu", "text.act": "gelu"})
    same(described(tmp_path), expected)


def same(config, expected) -> None:
    lost = [what for name, part in expected.parts.items() for what in differences(part, config.parts[name])]
    assert set(lost) <= {"eos_token_id=49407"}  # which nobody looks for
    assert (config.width, config.loss) == (expected.width, expected.loss)


def described(folder: Path):
    return describe(folder).config


# -- whole pipelines of transformers ----------------------------------------------------------------------------------


def siglip_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = {"<pad>": 0, "</s>": 1, "<unk>": 2, "a": 3, "low": 4, "lower": 5}
    made = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    made.save(str(folder / "tokenizer.json"))
    names = {"pad_token": "</s>", "eos_token": "</s>", "unk_token": "<unk>"}
    settings = {"model_max_length": 64, "model_input_names": ["input_ids"], **names}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_pipelines_of_transformers_run_on_what_we_export(kind, tmp_path):
    from PIL import Image

    if kind == "clip":
        words = clip_vocabulary(tmp_path)
        end = words["<|endoftext|>"]
        transformers_pair(tmp_path, "CLIPModel", projection_dim=24, text=dict(vocab_size=len(words), eos_token_id=end))
        size = dict(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
        transformers.CLIPImageProcessor(**size).save_pretrained(tmp_path)
    else:
        siglip_tokenizer(tmp_path)
        transformers_pair(tmp_path, "SiglipModel", text=dict(hidden_size=32, max_position_embeddings=64))
        transformers.SiglipImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    model = zoo.load(tmp_path)
    zoo.export(model, tmp_path / "out")
    image = Image.effect_mandelbrot((60, 50), (-2, -2, 2, 2), 50).convert("RGB")
    batch = model.preprocess(images=image, text=["a low", "a lower"])
    if kind == "siglip":
        assert set(batch) == {"pixel_values", "input_ids"} and batch["input_ids"].shape == (2, 64)
    with torch.no_grad():
        scores = model(**batch).logits("image", "text")[0]
    scores = scores.softmax(-1) if kind == "clip" else scores.sigmoid()
    classify = transformers.pipeline("zero-shot-image-classification", str(tmp_path / "out"))
    results = classify(image, candidate_labels=["low", "lower"], hypothesis_template="a {}")
    theirs = {answer["label"]: answer["score"] for answer in results}
    assert theirs == pytest.approx({"low": scores[0].item(), "lower": scores[1].item()}, abs=1e-5)
    zoo.save(model, tmp_path / "zoo")
    assert zoo.load(tmp_path / "zoo").preprocess == model.preprocess
