import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import zoo
from zoo.preprocessing.auto import processor_from_dict
from zoo.preprocessing.image import IMAGENET_MEAN, IMAGENET_STD, ImageProcessor
from zoo.utils.errors import LoadError


def photo(height, width, seed=0):
    """An image with edges, gradients and noise, on which all filters differ."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / 40
    waves = np.stack([np.sin(x * k) * np.cos(y / k) for k in (1, 2, 3)], -1) * 90 + 128
    waves[height // 3 : height // 2, width // 4 :] = (250, 10, 130)
    return Image.fromarray((waves + rng.normal(0, 20, waves.shape)).clip(0, 255).astype(np.uint8))


def real_photo():
    folder = os.environ.get("ZOO_DATA_DIR")
    file = Path(folder or "") / "cifar10" / "test.parquet"
    if not folder or not file.is_file():
        pytest.skip("ZOO_DATA_DIR holds no cifar10/test.parquet")
    import pyarrow.parquet as parquet

    first = next(parquet.ParquetFile(file).iter_batches(1)).to_pylist()[0]
    return Image.open(io.BytesIO(first["img"]["bytes"])).convert("RGB")


IMAGES = {"landscape": lambda: photo(231, 347), "portrait": lambda: photo(401, 222), "small": lambda: photo(20, 31)}
IMAGES["cifar"] = real_photo

TIMM = [
    {"input_size": [3, 224, 224], "crop_pct": 0.9, "interpolation": "bicubic", "mean": [0.5] * 3, "std": [0.5] * 3},
    {"input_size": [3, 224, 224], "crop_pct": 0.875, "interpolation": "bilinear", "crop_mode": "center"},
    {"input_size": [3, 518, 518], "crop_pct": 1.0},
    {"input_size": [3, 96, 128], "crop_pct": 0.9},
    {"input_size": [3, 384, 384], "crop_pct": 1.0, "crop_mode": "squash"},
    {"input_size": [3, 97, 97], "crop_pct": 0.93, "crop_mode": "border", "interpolation": "lanczos"},
]


@pytest.mark.parametrize("image", IMAGES)
@pytest.mark.parametrize("config", TIMM, ids=lambda c: "-".join(str(v) for v in c.values()))
def test_equals_timms_transform(image, config):
    from timm.data import create_transform, resolve_data_config

    image = IMAGES[image]()
    theirs = create_transform(**resolve_data_config({}, pretrained_cfg=config))(image)
    ours = ImageProcessor.from_timm(config)(image)["pixel_values"]
    assert ours.dtype == torch.float32 and ours.shape == (1, *config["input_size"])
    torch.testing.assert_close(ours[0], theirs, atol=2e-6, rtol=0)


TRANSFORMERS = [
    ("ViTImageProcessor", {}),
    ("ViTImageProcessor", {"size": {"height": 384, "width": 384}, "image_mean": [0.5] * 3, "resample": 3}),
    ("ViTImageProcessor", {"size": {"height": 96, "width": 128}, "do_normalize": False}),
    ("ViTImageProcessor", {"size": {"height": 32, "width": 32}, "do_rescale": False}),
    ("DeiTImageProcessor", {"image_mean": IMAGENET_MEAN, "image_std": IMAGENET_STD}),
    ("BitImageProcessor", {"size": {"shortest_edge": 256}, "image_mean": IMAGENET_MEAN, "image_std": IMAGENET_STD}),
    ("BitImageProcessor", {"size": {"shortest_edge": 97}, "crop_size": {"height": 64, "width": 90}}),
]


@pytest.mark.parametrize("image", IMAGES)
@pytest.mark.parametrize("name, options", TRANSFORMERS)
def test_equals_transformers_processor(tmp_path, image, name, options):
    import transformers

    image = IMAGES[image]()
    processor = getattr(transformers, name)(**options)
    processor.save_pretrained(tmp_path)
    theirs = processor(image, return_tensors="pt")["pixel_values"]
    ours = ImageProcessor.from_transformers(json.loads((tmp_path / "preprocessor_config.json").read_text()), (9, 9))
    scale = max(1.0, theirs.abs().max().item())
    torch.testing.assert_close(ours(image)["pixel_values"], theirs, atol=2e-6 * scale, rtol=0)
    short = {"image_processor_type": name, **options}
    assert ImageProcessor.from_transformers(short, (9, 9)) == ours, "defaults of keys that a file leaves out"


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "tRNS"])
def test_transparent_images_are_on_white_as_in_transformers(mode):
    import transformers

    pixels = np.random.default_rng(0).integers(0, 256, (20, 24, 4), dtype=np.uint8)
    pixels[:12] = (40, 90, 10, 30)
    transparent = Image.fromarray(pixels, "RGBA").convert({"tRNS": "RGB"}.get(mode, mode))
    if mode in ("P", "tRNS"):  # one color is transparent
        transparent.info["transparency"] = transparent.getpixel((0, 0))
    options = dict(size={"height": 16, "width": 16}, do_center_crop=False)
    theirs = transformers.CLIPImageProcessor(**options)
    ours = ImageProcessor.from_transformers(theirs.to_dict(), (16, 16))
    made = ours(transparent)["pixel_values"]
    assert torch.allclose(made, theirs(transparent, return_tensors="pt")["pixel_values"], atol=1e-5)
    opaque = transparent.convert("RGB").copy()
    opaque.info.clear()
    assert not torch.allclose(made, ours(opaque)["pixel_values"], atol=0.01)
    timms = ImageProcessor(size=(16, 16))
    assert torch.equal(timms(transparent)["pixel_values"], timms(opaque)["pixel_values"])


def test_old_feature_extractor_files():
    old = {
        "do_center_crop": True, "crop_size": 224, "do_normalize": True, "do_resize": True, "resample": 3, "size": 256,
        "feature_extractor_type": "DeiTFeatureExtractor", "image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.4],
    }  # fmt: skip
    ours = ImageProcessor.from_transformers(old, (224, 224))
    assert (ours.size, ours.resize_to, ours.fit, ours.interpolation) == ((224, 224), (256, 256), "squash", "bicubic")
    assert ours.rescale == 1 / 255
    with pytest.raises(LoadError, match="LevitImageProcessor is not supported"):
        ImageProcessor.from_transformers({"image_processor_type": "LevitImageProcessor"}, (224, 224))
    with pytest.raises(LoadError, match="no fixed size"):
        ImageProcessor.from_transformers({"size": {"shortest_edge": 9}}, (224, 224))


@pytest.mark.parametrize("config", TIMM, ids=lambda c: "-".join(str(v) for v in c.values()))
def test_timm_round_trip(config):
    ours = ImageProcessor.from_timm(config)
    assert ImageProcessor.from_timm(json.loads(json.dumps(ours.to_timm()))) == ours


def test_missing_settings_have_timms_defaults():
    from timm.data import resolve_data_config

    ours, theirs = ImageProcessor.from_timm({}), resolve_data_config(pretrained_cfg={"input_size": (3, 224, 224)})
    assert ours == ImageProcessor.from_timm(theirs) and theirs["crop_pct"] == 0.875 and ours.resize_to == (256, 256)


@pytest.mark.parametrize("resize_to", [(224, 224), (225, 225), (248, 248), (256, 256), (257, 257), (599, 599)])
def test_any_resize_becomes_a_crop_share(resize_to):
    ours = ImageProcessor(size=(224, 224), resize_to=resize_to)
    assert ImageProcessor.from_timm(ours.to_timm()).resize_to == resize_to


@pytest.mark.parametrize("image", ["landscape", "portrait"])
@pytest.mark.parametrize("name, options", TRANSFORMERS[:1] + TRANSFORMERS[4:])
def test_transformers_round_trip(tmp_path, image, name, options):
    import transformers

    ours = ImageProcessor.from_transformers({"image_processor_type": name, **options}, (224, 224))
    written = ours.to_transformers()
    assert ImageProcessor.from_transformers(written, (224, 224)) == ours
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(written))
    image = IMAGES[image]()
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path)
    theirs = processor(image, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(ours(image)["pixel_values"], theirs, atol=2e-6, rtol=0)


def test_what_a_format_cannot_say_is_refused():
    with pytest.raises(ValueError, match="longest"):
        ImageProcessor(size=(8, 8), fit="longest").to_transformers()
    with pytest.raises(ValueError, match="shortest edge"):
        ImageProcessor(size=(8, 16)).to_transformers()
    with pytest.raises(ValueError, match="rescale"):
        ImageProcessor(size=(8, 8), rescale=1.0).to_timm()
    with pytest.raises(ValueError, match="one factor"):
        ImageProcessor(size=(8, 16), resize_to=(16, 16)).to_timm()


PLAIN = ImageProcessor(size=(16, 24), resize_to=(20, 30), fit="squash")


def test_our_own_round_trip():
    values = json.loads(json.dumps(PLAIN.to_dict()))
    assert processor_from_dict(values) == PLAIN and hash(PLAIN) and processor_from_dict(None) is None
    with pytest.raises(LoadError, match=r"unknown key 'sizes'; did you mean 'size'"):
        processor_from_dict(values | {"sizes": 3})
    with pytest.raises(LoadError, match="lacks the key 'std'"):
        processor_from_dict({name: value for name, value in values.items() if name != "std"})
    with pytest.raises(LoadError, match="unknown kind 'smell'"):
        processor_from_dict(values | {"kind": "smell"})
    with pytest.raises(ValueError, match=r"fit is 'sqash'.*did you mean 'squash'"):
        ImageProcessor(size=(8, 8), fit="sqash")
    with pytest.raises(ValueError, match="mean has 3 values for 4 channels"):
        ImageProcessor(size=(8, 8), channels=4)


@pytest.mark.parametrize("backend", ["pil", "tensor"])
def test_every_kind_of_input_gives_the_same(tmp_path, backend):
    image = photo(40, 50)
    image.save(tmp_path / "a.png")
    array = np.array(image)
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    preprocess = ImageProcessor(size=(16, 24), fit="squash", backend=backend)
    one = preprocess(image)["pixel_values"]
    assert one.shape == (1, 3, 16, 24)
    kinds = [image, tmp_path / "a.png", str(tmp_path / "a.png"), array, tensor, image.convert("RGBA")]
    for kind in kinds:
        assert torch.equal(preprocess(kind)["pixel_values"], one)
    assert torch.equal(preprocess(kinds)["pixel_values"], one.expand(6, -1, -1, -1))
    assert torch.equal(preprocess(torch.stack([tensor] * 2))["pixel_values"], one.expand(2, -1, -1, -1))
    gray = ImageProcessor(size=(16, 24), mean=(0.5,), std=(0.5,), channels=1, backend=backend)
    assert torch.equal(gray(image)["pixel_values"], gray(np.array(image.convert("L")))["pixel_values"])
    gray_as_rgb = np.repeat(np.array(image.convert("L"))[..., None], 3, -1)
    assert torch.equal(preprocess(image.convert("L"))["pixel_values"], preprocess(gray_as_rgb)["pixel_values"])
    five = ImageProcessor(size=(16, 24), mean=(0.5,), std=(0.5,), channels=5, backend=backend)
    assert five(torch.zeros(5, 40, 40, dtype=torch.uint8))["pixel_values"].shape == (1, 5, 16, 24)


def test_invalid_images_are_named(tmp_path):
    (tmp_path / "broken.png").write_bytes(b"not an image")
    photo(30, 30).save(tmp_path / "cut.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "cut.jpg").read_bytes()[:300])
    for name in ("broken.png", "cut.jpg", "none.png"):
        with pytest.raises(ValueError, match=name):
            PLAIN(tmp_path / name)
    for image, reason in [
        (torch.rand(3, 8, 8), "float32"), (np.zeros((8, 8, 3)), "float64"), ([], "list of images is empty"), (3, "int"),
        (torch.zeros(1, 2, 3, 8, 8, dtype=torch.uint8), "shape"),
    ]:  # fmt: skip
        with pytest.raises(ValueError, match=reason):
            PLAIN(image)
    five = ImageProcessor(size=(8, 8), mean=(0.5,), std=(0.5,), channels=5)
    with pytest.raises(ValueError, match="the image has 3 channels, but the model takes 5"):
        five(torch.zeros(3, 8, 8, dtype=torch.uint8))
    with pytest.raises(ValueError, match="model takes 5"):
        five(photo(8, 8))


def test_fitted_to_another_model():
    crop = ImageProcessor(size=(224, 224), resize_to=(256, 256))
    assert crop.fitted((112, 112), 3).resize_to == (128, 128)
    assert ImageProcessor(size=(224, 224)).fitted((32, 48), 3) == ImageProcessor(size=(32, 48))
    assert crop.fitted((224, 224), 3) == crop
    gray = crop.fitted((224, 224), 1)
    assert gray.channels == 1 and gray.mean == (sum(crop.mean) / 3,)
    assert gray(photo(300, 300))["pixel_values"].shape == (1, 1, 224, 224)


def test_a_new_model_takes_images_and_reports_its_initialization():
    model = zoo.create_model("vit_cifar_tiny", in_chans=1, seed=0)
    assert model.preprocess(Image.new("RGB", (50, 40)))["pixel_values"].shape == (1, 1, 32, 32)
    assert set(model.load_report.initialized) == set(model.state_dict()) and not model.load_report.mapped


def test_whole_images_keep_their_aspect_ratio():
    preprocess = ImageProcessor(size=(64, 64), mean=(0.5,), std=(0.5,))
    made = preprocess.whole([Image.new("RGB", (300, 100), "white"), Image.new("L", (50, 50))], 8)["pixel_values"]
    assert [tuple(x.shape) for x in made] == [(3, 40, 112), (3, 64, 64)]
    assert made[0].min() == 1 and made[1].max() == -1
    same = torch.randint(0, 255, (3, 64, 64), dtype=torch.uint8)
    assert torch.equal(preprocess.whole(same, 16)["pixel_values"][0], preprocess(same)["pixel_values"][0])
    assert preprocess.whole(same[:, :2], (16, 32))["pixel_values"][0].shape[1:] == (16, 352)
    with pytest.raises(ValueError, match="list of images is empty"):
        preprocess.whole([], 16)


@pytest.mark.parametrize("interpolation", ["box", "hamming", "lanczos"])
def test_filters_that_torch_may_lack_resize_tensors(interpolation):
    image = photo(40, 50)
    one, other = (ImageProcessor(size=(20, 24), interpolation=interpolation, backend=backend).pixels(image)
                  for backend in ("pil", "tensor"))  # fmt: skip
    assert other.dtype == torch.uint8 and (one.int() - other.int()).abs().max() <= 2
