import json
import os
import re
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from peers import answer, edit_json, error, pixels, timm_folder, transformers_folder
from PIL import Image
from safetensors.torch import load_file, save_file

import zoo
import zoo.preprocessing.image
from zoo.checkpoints.formats import native
from zoo.nn import Core

TINY = {"image_size": 32, "patch_size": 8, "width": 32, "depth": 2, "heads": 4, "num_classes": 7}


def tiny(**changes):
    return zoo.create_model("vit_base_patch16_224", seed=0, **TINY | changes).eval()


@pytest.fixture
def folder(tmp_path):
    model = tiny()
    model.labels = [f"class {i}" for i in range(7)]
    model.preprocess = zoo.preprocessing.image.ImageProcessor(size=(32, 32))
    return zoo.save(model, tmp_path / "zoo")


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    """A folder of transformers with a class head."""
    folder = tmp_path_factory.mktemp("vit")
    transformers_folder(folder, "ViTForImageClassification")
    return folder


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """A folder of transformers without a head, but with a pooler."""
    folder = tmp_path_factory.mktemp("bare")
    transformers_folder(folder, "ViTModel")
    return folder


def lists(model):
    report = model.load_report
    return report.dropped, report.initialized, report.resampled


def rewrite(folder, change, name="model.safetensors"):
    tensors = load_file(folder / name)
    change(tensors)
    save_file(tensors, folder / name, metadata={"format": "pt"})


# --- sources ----------------------------------------------------------------------------------------------------------


def test_a_folder_of_ours(folder):
    model = zoo.load(folder)
    x = pixels()
    assert torch.equal(model(x), tiny()(x)) and not model.training
    assert lists(model) == ([], [], []) and len(model.load_report.mapped) == len(tiny().state_dict())
    assert model.variant == "vit_base_patch16_224" and model.labels[3] == "class 3" and model.family == "vit"
    assert model.preprocess.size == (32, 32) and model.config == tiny().config


def test_a_run_folder_and_a_checkpoint_file(folder, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(folder, run / "model")
    (run / "config.yaml").write_text("seed: 0")
    x = pixels()
    assert torch.equal(zoo.load(run)(x), tiny()(x))
    model = tiny()
    state = {f"model.{name}": tensor for name, tensor in model.state_dict().items()} | {"metric.total": torch.ones(1)}
    description = json.loads((folder / "config.json").read_text())
    torch.save({"state_dict": state, "zoo": description, "global_step": 3}, tmp_path / "last.ckpt")
    again = zoo.load(tmp_path / "last.ckpt")
    assert torch.equal(again(x), model(x)) and again.labels[3] == "class 3" and lists(again) == ([], [], [])
    average = {f"ema.{name}": tensor + 1 for name, tensor in model.state_dict().items()}
    torch.save({"state_dict": state | average, "zoo": description}, tmp_path / "averaged.ckpt")
    loaded = zoo.load(tmp_path / "averaged.ckpt").state_dict()  # the average is what the run evaluated
    assert all(torch.equal(loaded[name], tensor + 1) for name, tensor in model.state_dict().items())
    with_bias = torch.ones(7)
    model.head.proj.bias.data.copy_(with_bias)
    stored = {"state_dict": state | {"model.head.proj.bias": with_bias}, "zoo": description, "unit": [100.0, 5.0]}
    torch.save(stored, tmp_path / "standardized.ckpt")  # the targets of a regression were (target - 100) / 5
    again = zoo.load(tmp_path / "standardized.ckpt")
    torch.testing.assert_close(again(x), model(x) * 5 + 100)
    torch.save({"state_dict": state}, tmp_path / "other.ckpt")
    with pytest.raises(zoo.LoadError, match=r"is a file of weights alone; expected a folder.*give the folder"):
        zoo.load(folder / "model.safetensors")
    (tmp_path / "reviews.csv").write_text("review\n")
    with pytest.raises(zoo.LoadError, match=r"reviews.csv is a file; expected a folder.*give the folder of a model$"):
        zoo.load(tmp_path / "reviews.csv")


@pytest.mark.parametrize("stored, kind", [
    ({"state_dict": {}, "pytorch-lightning_version": "2.5"}, "a Lightning checkpoint of another project"),
    ({"a.weight": torch.ones(1), "a.bias": torch.ones(1)}, r"a state dict of 2 tensors \(a\.weight, a\.bias\)"),
    ({"state_dict": {}, "arch": "resnet50"}, r"a training checkpoint of timm or torchvision \(arch='resnet50'\)"),
    ({"model": {}, "epoch": 3}, "a dict with the keys 'model', 'epoch'"),
    ({}, "an empty dict"),
])  # fmt: skip
def test_a_ckpt_of_another_library_is_described(tmp_path, stored, kind):
    torch.save(stored, tmp_path / "other.ckpt")
    with pytest.raises(zoo.LoadError, match=rf"other\.ckpt is not a checkpoint of this package.* {kind}; load"):
        zoo.load(tmp_path / "other.ckpt")


def test_a_checkpoint_of_a_run_may_hold_tied_weights(tmp_path):
    model = zoo.create_model("bert_tiny", vocab_size=50, width=32, seed=0).eval()  # its word table is its last map, too
    state = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    torch.save({"state_dict": state, "zoo": native.describe(model)}, tmp_path / "last.ckpt")
    again = zoo.load(tmp_path / "last.ckpt")
    assert again.head.proj.weight is again.tokens.word.weight and lists(again) == ([], [], [])
    ids = torch.arange(6)[None]
    assert torch.equal(again(ids), model(ids))


def test_sharded_and_pickled_files(vit, tmp_path):
    import transformers

    model = transformers.ViTForImageClassification.from_pretrained(vit)
    model.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    assert (tmp_path / "shards" / "model.safetensors.index.json").is_file()
    shutil.copytree(vit, tmp_path / "pickle", ignore=shutil.ignore_patterns("*.safetensors"))
    torch.save(load_file(vit / "model.safetensors"), tmp_path / "pickle" / "pytorch_model.bin")
    x = pixels()
    for name in ("shards", "pickle"):
        assert error(answer(zoo.load(tmp_path / name), x), answer(model, x)) <= 1e-5


def test_nothing_is_copied(tmp_path):
    zoo.save(tiny(width=512, depth=4, heads=8), tmp_path / "wide")  # 50 MB
    zoo.load(tmp_path / "wide")
    before = _resident()
    model = zoo.load(tmp_path / "wide")
    assert _resident() - before < 12
    assert sum(p.numel() for p in model.parameters()) * 4 > 48e6


def _resident():
    """Memory of the process in MB, without pages of files: those are shared, and the system may drop them."""
    with open("/proc/self/statm") as file:
        _, resident, of_files, *_ = map(int, file.read().split())
        return (resident - of_files) * os.sysconf("SC_PAGE_SIZE") / 1e6


# --- the hub ----------------------------------------------------------------------------------------------------------


class Hub:
    """A stand-in for snapshot_download: copies what the patterns allow, as the hub does."""

    def __init__(self, served, cache):
        self.served, self.cache, self.calls = served, cache, []

    def __call__(self, repo_id, *, revision=None, allow_patterns=None):
        from huggingface_hub.utils import filter_repo_objects

        self.calls.append((repo_id, revision))
        self.cache.mkdir(exist_ok=True)
        for name in filter_repo_objects(os.listdir(self.served), allow_patterns=allow_patterns):
            shutil.copy(self.served / name, self.cache / name)
        return str(self.cache)


@pytest.mark.parametrize("source", ["org/name", "hf-hub:org/name"])
def test_the_hub(vit, tmp_path, monkeypatch, source):
    hub = Hub(vit, tmp_path / "cache")
    monkeypatch.setattr("huggingface_hub.snapshot_download", hub)
    assert zoo.load(source, revision="v1").config == zoo.load(vit).config
    assert hub.calls == [("org/name", "v1")]


def test_a_revision_of_a_local_folder_raises(vit):
    with pytest.raises(ValueError, match=r"revision='v1' is for hub repositories.*omit revision"):
        zoo.load(vit, revision="v1")


def test_pickles_are_downloaded_only_without_safetensors(vit, tmp_path, monkeypatch):
    served = tmp_path / "served"
    shutil.copytree(vit, served)
    torch.save(load_file(vit / "model.safetensors"), served / "pytorch_model.bin")
    for name in ("tf_model.h5", "model.onnx", "flax_model.msgpack"):
        (served / name).write_text("large")
    monkeypatch.setattr("huggingface_hub.snapshot_download", Hub(served, tmp_path / "first"))
    zoo.load("org/name")
    assert sorted(os.listdir(tmp_path / "first")) == ["config.json", "model.safetensors"]
    (served / "model.safetensors").unlink()
    monkeypatch.setattr("huggingface_hub.snapshot_download", Hub(served, tmp_path / "second"))
    zoo.load("org/name")
    assert sorted(os.listdir(tmp_path / "second")) == ["config.json", "pytorch_model.bin"]


def test_pretrained_takes_the_default_source(tmp_path, monkeypatch):
    timm_folder(tmp_path / "served", "vit_small_patch16_224", img_size=32, patch_size=8)
    hub = Hub(tmp_path / "served", tmp_path / "cache")
    monkeypatch.setattr("huggingface_hub.snapshot_download", hub)
    model = zoo.create_model("vit_small_patch16_224", pretrained=True, num_classes=3)
    assert hub.calls == [("timm/vit_small_patch16_224.augreg_in21k_ft_in1k", None)]
    assert model.config.num_classes == 3 and model.variant == "vit_small_patch16_224"


def test_the_hub_out_of_reach_says_so(monkeypatch, tmp_path):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(zoo.LoadError, match=r"'org/never-heard-of' is neither a local folder.*cannot be reached"):
        zoo.load("org/never-heard-of")


def test_a_repository_that_is_not_there(monkeypatch):
    from huggingface_hub.errors import RepositoryNotFoundError

    def missing(*_, **__):
        raise RepositoryNotFoundError("404 Client Error.", response=SimpleNamespace(headers={}, request=None))

    monkeypatch.setattr("huggingface_hub.snapshot_download", missing)
    with pytest.raises(zoo.LoadError, match=r"cannot download 'org/name' at revision 'v2' .*: 404"):
        zoo.load("org/name", revision="v2")


@pytest.mark.parametrize("source", ["no/such/folder", "vit_base_patch16_224", "./nothing"])
def test_a_source_that_is_not_there(source):
    with pytest.raises(zoo.LoadError, match=r"does not exist: expected a folder.*zoo\.create_model"):
        zoo.load(source)


# --- formats ----------------------------------------------------------------------------------------------------------


def test_none_or_two_formats_at_once(vit, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(zoo.LoadError, match="not a checkpoint of a known format: it is empty"):
        zoo.load(tmp_path / "empty")
    shutil.copytree(vit, tmp_path / "two")
    edit_json(tmp_path / "two" / "config.json", architecture="vit_base_patch16_224")
    with pytest.raises(zoo.LoadError, match="has the configs of timm and transformers at once; remove"):
        zoo.load(tmp_path / "two")
    (tmp_path / "clip").mkdir()
    (tmp_path / "clip" / "open_clip_config.json").write_text('{"model_cfg": {"vision_cfg": {}}}')
    with pytest.raises(zoo.LoadError, match=r"open_clip"):
        zoo.load(tmp_path / "clip")


@pytest.mark.parametrize("file, text, reason", [
    ("adapter_config.json", "{}", r"an adapter of PEFT \(adapter_config\.json\); merge it"),
    ("model.gguf", "", r"a GGUF file of llama\.cpp \(model\.gguf\)"),
    ("tf_model.h5", "", "a file of Keras.*use the PyTorch weights"),
    ("checkpoints/last.ckpt", "", r"a run that has no model yet; load .*last\.ckpt"),
    ("config.json", '{"hidden_dim": 3}', r"its config\.json has the keys 'hidden_dim', and none that names a library"),
    ("model.safetensors", "", r"weights but no config\.json \(model\.safetensors\)"),
    ("notes.md", "", r"it contains notes\.md"),
])  # fmt: skip
def test_a_folder_of_an_unknown_format_is_described(tmp_path, file, text, reason):
    (tmp_path / "folder" / file).parent.mkdir(parents=True)
    (tmp_path / "folder" / file).write_text(text)
    with pytest.raises(zoo.LoadError, match=rf"folder is not a checkpoint of a known format.*{reason}"):
        zoo.load(tmp_path / "folder")


@pytest.mark.parametrize("change, reason", [
    ({"model_type": "swinv2"}, r"config\.json: .*model_type 'swinv2' is not supported.*supported: .*vit"),
    ({"model_type": "dinov"}, r"did you mean 'dinov2'"),
    ({"architectures": ["ViTForMaskedImageModeling"]}, r"MaskedImageModeling' .*'vit'.* not .*supported: ViTModel"),
    ({"architectures": ...}, r"lacks 'architectures'.*add one of ViTModel"),
    ({"hidden_act": "mish"}, r"act='mish'"),
    ({"num_attention_heads": 5}, r"heads=5"),
    ({"hidden_size": "wide"}, r"config\.json.*width='wide'"),
])  # fmt: skip
def test_unsupported_configs_of_transformers_are_named(vit, tmp_path, change, reason):
    shutil.copytree(vit, tmp_path / "vit")
    edit_json(tmp_path / "vit" / "config.json", **change)
    with pytest.raises(ValueError, match=reason):
        zoo.load(tmp_path / "vit")


@pytest.mark.parametrize("change, reason", [
    ({"architecture": "resnet50"}, r"config\.json: timm's architecture 'resnet50' is not supported"),
    ({"architecture": "vit_bas_patch16_224"}, r"did you mean 'vit_base_patch16_224'"),
    ({"architecture": "vit_cifar"}, r"timm's architecture 'vit_cifar' is not supported"),
    ({"qk_norm": True}, r"qk_norm=True is not supported"),
    ({"global_pool": "prr"}, r"global_pool='prr' is not supported"),
    ({"block_fn": "x"}, r"block_fn='x' is not supported"),
])  # fmt: skip
def test_unsupported_configs_of_timm_are_named(tmp_path, change, reason):
    timm_folder(tmp_path, "vit_base_patch16_224", img_size=32, patch_size=8)
    if "architecture" in change:
        edit_json(tmp_path / "config.json", **change)
    else:
        arguments = json.loads((tmp_path / "config.json").read_text())["model_args"]
        edit_json(tmp_path / "config.json", model_args=arguments | change)
    with pytest.raises(zoo.LoadError, match=reason):
        zoo.load(tmp_path)


def test_a_tag_in_timms_name_and_arguments_that_differ_from_the_pretrained_config(tmp_path):
    """Arguments are those of the model in the file; the pretrained config is that of the weights it began with."""
    theirs = timm_folder(tmp_path, "vit_base_patch16_224", img_size=32, patch_size=8)
    values = json.loads((tmp_path / "config.json").read_text())
    pretrained = values["pretrained_cfg"] | {"input_size": [3, 224, 224], "num_classes": 1000}
    name = f"{values['architecture']}.augreg_in21k"
    edit_json(tmp_path / "config.json", architecture=name, pretrained_cfg=pretrained)
    model = zoo.load(tmp_path)
    assert model.variant == "vit_base_patch16_224" and model.config.image_size == 32
    assert error(answer(model, pixels()), answer(theirs, pixels())) <= 1e-5


@pytest.mark.parametrize("path, value, reason", [
    ((), {"color": 1}, r"unknown key 'color'"),
    ((), {"labels": ...}, r"lacks the key 'labels'"),
    ((), {"family": "vitt"}, r"no family 'vitt'; did you mean 'vit'"),
    ((), {"format": 99}, r"config\.json has format 99: it was saved by a newer version.*upgrade"),
    ((), {"format": native.FORMAT + 1}, r"it was saved by a newer version.*upgrade"),
    ((), {"format": "2"}, r"has format '2', expected a whole number from 1 to"),
    ((), {"format": 0}, r"has format 0, expected a whole number from 1 to"),
    ((), {"format": ...}, r"lacks the key 'format'"),
    (("config",), {"hidden_size": 3}, r"no field 'hidden_size'; did you mean 'width'"),
    (("config",), {"width": ...}, r"lacks .*'width'"),
    (("config",), {"depth": "deep"}, r"depth='deep'"),
    (("preprocess",), {"sizes": 3}, r"unknown key 'sizes'"),
    (("preprocess",), {"mean": ...}, r"lacks the key 'mean'"),
])  # fmt: skip
def test_our_config_is_taken_literally(folder, path, value, reason):
    values = json.loads((folder / "config.json").read_text())
    inner = values
    for name in path:
        inner = inner[name]
    inner |= value
    for name in [name for name, v in inner.items() if v is ...]:
        del inner[name]
    (folder / "config.json").write_text(json.dumps(values))
    with pytest.raises(zoo.LoadError, match=reason):
        zoo.load(folder)


def test_a_class_that_is_not_registered_is_named_with_the_line_to_write(folder):
    values = json.loads((folder / "config.json").read_text())
    edit_json(folder / "config.json", config=values["config"] | {"attention": "my_file:Mine"})
    with pytest.raises(ValueError, match=r"from my_file import Mine; zoo\.register_attention"):
        zoo.load(folder)


# --- tensors ----------------------------------------------------------------------------------------------------------

KEYS = {
    "zoo": "blocks.1.norm1.bias",
    "timm": "blocks.1.norm1.bias",
    "transformers": "vit.encoder.layer.1.layernorm_before.bias",
}  # fmt: skip


@pytest.fixture(params=KEYS)
def any_folder(request, tmp_path, folder, vit):
    if request.param == "zoo":
        return folder, KEYS["zoo"]
    if request.param == "timm":
        timm_folder(tmp_path / "timm", "vit_base_patch16_224", img_size=32, patch_size=8)
        return tmp_path / "timm", KEYS["timm"]
    shutil.copytree(vit, tmp_path / "vit")
    return tmp_path / "vit", KEYS["transformers"]


def test_a_missing_an_extra_a_renamed_and_a_misshapen_tensor(any_folder):
    folder, key = any_folder
    (original := folder.parent / "original").mkdir()
    shutil.copy(folder / "model.safetensors", original)
    for change, reason in [
        (lambda t: t.pop(key), f"missing {key}"),
        (lambda t: t.update(extra=torch.ones(1)), "left over extra"),
        (lambda t: t.update({key + "x": t.pop(key)}), f"missing {key}.*left over {key}x"),
        (lambda t: t.update({key: torch.ones(5)}), rf"{key} is \[5\], expected \[32\]"),
    ]:
        shutil.copy(original / "model.safetensors", folder)
        rewrite(folder, change)
        pattern = re.sub(r"(?<=\w)\.(?=\w)", r"\\.", reason) + r".* Expected the tensors of .*config\.json"
        with pytest.raises(zoo.LoadError, match=rf"model\.safetensors .*{pattern}"):
            zoo.load(folder)


def test_damaged_files(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(zoo.LoadError, match=r"model\.safetensors is truncated"):
        zoo.load(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(zoo.LoadError, match=r"config\.json is not readable JSON"):
        zoo.load(folder)


def test_the_base_prefix_may_be_present_or_absent(vit, bare, tmp_path):
    shutil.copytree(bare, tmp_path / "with")
    rewrite(tmp_path / "with", lambda t: [t.update({f"vit.{k}": t.pop(k)}) for k in list(t)])
    shutil.copytree(vit, tmp_path / "without")
    rewrite(tmp_path / "without", lambda t: [t.update({k.removeprefix("vit."): t.pop(k)}) for k in list(t)])
    x = pixels()
    assert torch.equal(zoo.load(tmp_path / "with")(x), zoo.load(bare)(x))
    assert torch.equal(zoo.load(tmp_path / "without")(x), zoo.load(vit)(x))


# --- overrides --------------------------------------------------------------------------------------------------------

POOLER = ["pooler.dense.bias", "pooler.dense.weight"]
HEAD = ["head.proj.weight", "head.proj.bias"]


def test_the_files_own_head_and_others(vit, bare):
    assert lists(zoo.load(vit)) == ([], [], [])
    hidden = zoo.load(vit, head=None)
    assert hidden(pixels()).shape == (2, 17, 32) and lists(hidden) == (HEAD, [], [])
    pooled = zoo.load(vit, head="pool")
    torch.testing.assert_close(pooled(pixels()), hidden(pixels())[:, 0], atol=1e-6, rtol=1e-6)
    assert pooled.labels is None
    assert torch.equal(zoo.load(vit, num_classes=0)(pixels()), pooled(pixels()))
    assert lists(zoo.load(bare)) == (POOLER, [], [])
    fresh = zoo.load(bare, num_classes=3)
    assert fresh(pixels()).shape == (2, 3) and lists(fresh) == (POOLER, HEAD, [])
    with pytest.raises(ValueError, match="give num_classes="):
        zoo.load(bare, head="classify")


def test_another_number_of_classes(vit, capsys):
    same, other = zoo.load(vit, num_classes=7), zoo.load(vit, num_classes=3)
    assert lists(same) == ([], [], []) and lists(other) == (HEAD, HEAD, [])
    assert other(pixels()).shape == (2, 3) and other.head.proj.weight.std() > 0
    assert torch.equal(other.head.proj.weight, zoo.load(vit, num_classes=3).head.proj.weight), "drawn by name and seed"
    assert torch.equal(other.encode(pixels()), same.encode(pixels()))
    lines = capsys.readouterr().err.splitlines()
    assert next(line for line in lines if "head.proj" in line).startswith(f"{vit}: 38 tensors mapped; 2 dropped")


def test_a_new_classifier_is_of_single_labels_and_the_files_own_keeps_its_problem_type(tmp_path):
    zoo.save(tiny(problem_type="multi_label_classification"), tmp_path / "model")
    assert zoo.load(tmp_path / "model", num_classes=7).config.problem_type == "multi_label_classification"
    assert zoo.load(tmp_path / "model", num_classes=3).config.resolved_problem_type == "single_label_classification"


def test_labels(folder, vit):
    assert zoo.load(vit).labels is None
    assert zoo.load(vit, labels=["cat", "dog"]).labels == ["cat", "dog"]
    assert zoo.load(vit, labels=["cat", "dog"]).config.num_classes == 2
    names = list("abcdefg")
    named = zoo.load(folder, labels=names)
    assert named.labels == names and lists(named) == ([], [], [])
    assert zoo.load(folder, num_classes=3).labels is None
    with pytest.raises(ValueError, match="2 labels were given for num_classes=3"):
        zoo.load(vit, num_classes=3, labels=["cat", "dog"])


def test_labels_of_the_files(vit, tmp_path):
    shutil.copytree(vit, tmp_path / "vit")
    edit_json(tmp_path / "vit" / "config.json", id2label={str(i): f"fish {i}" for i in range(7)})
    assert zoo.load(tmp_path / "vit").labels == [f"fish {i}" for i in range(7)]
    timm_folder(tmp_path / "timm", "vit_base_patch16_224", img_size=32, patch_size=8)
    edit_json(tmp_path / "timm" / "config.json", label_names=[f"bird {i}" for i in range(7)])
    assert zoo.load(tmp_path / "timm").labels == [f"bird {i}" for i in range(7)]


@pytest.mark.parametrize("change", [{"img_size": 48}, {"img_size": (16, 40)}, {"in_chans": 1}, {"in_chans": 5}])
def test_other_sizes_as_timm_makes_them(tmp_path, change):
    import timm

    folder = tmp_path / "tiny"
    timm_folder(folder, "vit_base_patch16_224", img_size=32, patch_size=8)
    theirs = timm.create_model(f"local-dir:{folder}", pretrained=True, **change).eval()
    ours = zoo.load(folder, **{{"img_size": "image_size"}.get(name, name): value for name, value in change.items()})
    x = pixels(ours.patches.image_size, ours.config.in_chans)
    assert error(answer(ours, x), answer(theirs, x)) <= 1e-5
    wanted = "patches.positions" if "img_size" in change else "patches.proj.weight"
    assert lists(ours) == ([], [], [wanted])
    assert ours.preprocess.size == ours.patches.image_size and ours.preprocess.channels == ours.config.in_chans
    picture = Image.fromarray(np.zeros((50, 60, 3), np.uint8))
    if ours.config.in_chans in (1, 3):
        assert ours(**ours.preprocess(picture)).shape == (1, 7)


def test_another_patch_size(folder):
    model = zoo.load(folder, patch_size=16, image_size=64)
    assert lists(model) == ([], [], ["patches.proj.weight"])


def test_other_attention_keeps_the_projections(folder):
    plain, performer = zoo.load(folder), zoo.load(folder, attention="performer")
    dropped, initialized, resampled = lists(performer)
    assert (dropped, resampled) == ([], []) and initialized
    assert all(".mixer." in name and name not in plain.state_dict() for name in initialized)
    assert all(torch.equal(performer.state_dict()[name], value) for name, value in plain.state_dict().items())
    assert performer(pixels()).isfinite().all() and error(performer(pixels()), plain(pixels())) > 1e-4
    assert torch.equal(performer(pixels()), zoo.load(folder, attention="performer")(pixels()))
    mixed = zoo.load(folder, attention=["softmax", {"kind": "local", "window": 3}])
    assert lists(mixed) == ([], [], []) and mixed(pixels()).isfinite().all()


class Tempered(Core):
    """A custom attention with a parameter."""

    def __init__(self, spec):
        super().__init__(spec)
        self.heat = torch.nn.Parameter(torch.linspace(0.5, 2, spec.heads))

    def weights(self, q, k, mask=None, bias=None):
        return (self.scores(q, k, mask, bias) * self.heat[:, None, None]).softmax(-1)


def test_a_custom_attention(folder, tmp_path):
    model = zoo.load(folder, attention=Tempered)
    assert model.load_report.initialized == [f"blocks.{i}.mixer.core.heat" for i in range(2)]
    assert torch.equal(model.blocks[0].mixer.core.heat, torch.linspace(0.5, 2, 4)), "as its constructor made it"
    zoo.save(model, tmp_path / "own")
    assert torch.equal(zoo.load(tmp_path / "own")(pixels()), model(pixels()))


@pytest.mark.parametrize("override, reason", [
    ({"width": 64, "heads": 4}, r"patches\.cls is \[32\], expected \[64\]"),
    ({"depth": 1}, r"blocks\.1\.\S+ has no place in the model"),
    ({"registers": 4}, r"patches\.registers is absent, expected \[4, 32\]"),
    ({"stem": "conv"}, r"patches\.proj"),
    ({"kv_heads": 2}, r"mixer\.k\.weight is \[32, 32\], expected \[16, 32\]"),
    ({"mlp_dim": 64}, r"mlp\.up\.weight is \[128, 32\], expected \[64, 32\]"),
    ({"qkv_bias": False}, r"mixer\.q\.bias has no place in the model"),
    ({"embed_dim": 3}, r"no field 'embed_dim'; did you mean 'width'"),
    ({"attention": "performr"}, r"did you mean 'performer'"),
    ({"image_size": 33}, r"not a multiple of patch_size"),
    ({"head": "lm"}, r"head='lm'"),
])  # fmt: skip
def test_overrides_without_weights_raise(folder, override, reason):
    with pytest.raises(ValueError, match=reason):
        zoo.load(folder, **override)


def test_dtype_and_training_options(folder):
    for dtype in (torch.float64, torch.bfloat16):
        model = zoo.load(folder, dtype=dtype, num_classes=3)
        assert {p.dtype for p in model.parameters()} == {dtype}
    half = zoo.save(zoo.load(folder, dtype=torch.float16), folder.parent / "half")
    assert (
        zoo.load(half).dtype == torch.float16 and zoo.load(half, num_classes=3).head.proj.weight.dtype == torch.float16
    )
    dropped = zoo.load(folder, dropout=0.5, drop_path=0.1)
    assert lists(dropped) == ([], [], []) and torch.equal(dropped(pixels()), zoo.load(folder)(pixels()))
    dropped.train()
    assert not torch.equal(dropped(pixels()), dropped(pixels()))


def test_a_loaded_model_trains_and_leaves_the_file_alone(vit):
    model = zoo.load(vit).train()
    before = (vit / "model.safetensors").read_bytes()
    assert all(p.is_leaf and p.requires_grad for p in model.parameters())
    model(pixels()).square().mean().backward()
    torch.optim.SGD(model.parameters(), lr=1.0).step()
    assert (vit / "model.safetensors").read_bytes() == before


def test_preprocessing_for_another_size_is_reported(vit, tmp_path, capsys):
    shutil.copytree(vit, tmp_path / "vit")
    processor = {"image_processor_type": "ViTImageProcessor", "size": {"height": 24, "width": 24}}
    (tmp_path / "vit" / "preprocessor_config.json").write_text(json.dumps(processor))
    model = zoo.load(tmp_path / "vit")
    assert model.preprocess.size == (32, 32) and "preprocessing for 24x24" in capsys.readouterr().err
    assert lists(model) == ([], [], [])
    (tmp_path / "vit" / "preprocessor_config.json").write_text('{"image_processor_type": "LevitImageProcessor"}')
    assert zoo.load(tmp_path / "vit").preprocess is None
    assert "LevitImageProcessor is not supported" in capsys.readouterr().err
