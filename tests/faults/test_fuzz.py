"""Damaged folders of every format: loading ends in a model, or in one LoadError or ValueError, and never runs code.

The damage is chosen by hypothesis, the same on every run; `ZOO_FUZZ_EXAMPLES` sets how many inputs a format gets.
"""

import contextlib
import copy
import io
import json
import os
import pickle
import sys
import tempfile
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from peers import error
from safetensors.torch import load_file, save_file

import zoo
from zoo.checkpoints.formats import native
from zoo.models.example_batch import example_batch
from zoo.preprocessing.ctc_vocabulary import Vocabulary
from zoo.preprocessing.tokenizer_training import train

EXAMPLES = int(os.environ.get("ZOO_FUZZ_EXAMPLES", 100))
Files = dict[str, bytes]
TINY = {"depth": 1, "width": 16, "heads": 2}

# --- Undamaged inputs -------------------------------------------------------------------------------------------------


def image_model(name: str = "vit_tiny_patch16_224") -> zoo.Model:
    model = zoo.create_model(name, **TINY, num_classes=2, image_size=16, patch_size=8, seed=0).eval()
    model.labels = ["cat", "dog"]
    return model


def text_model(name: str = "bert_tiny", **options: Any) -> zoo.Model:
    model = zoo.create_model(name, **TINY, vocab_size=300, max_length=64, **options, seed=0).eval()
    kind = "wordpiece" if name.startswith("bert") else "bpe"
    model.preprocess = train(kind, ["the cat sat on the mat"] * 9, 270, max_length=32)
    return model


def classifier() -> zoo.Model:
    model = text_model(num_classes=2)
    model.labels = ["negative", "positive"]
    return model


def ctc_model() -> zoo.Model:
    vocabulary = Vocabulary.of(["the cat sat"])
    options = {"conv_channels": (8, 8), "conv_kernels": (10, 8), "conv_strides": (5, 4), "position_kernel": 8,
               "position_groups": 2}  # fmt: skip
    model = zoo.create_model("wav2vec2_base", **TINY, head="ctc", vocab_size=len(vocabulary), **options, seed=0).eval()
    return model


def clip_model() -> zoo.Model:
    image = {"image.depth": 1, "image.width": 16, "image.heads": 2, "image.image_size": 16, "image.patch_size": 8}
    text = {"text.depth": 1, "text.width": 16, "text.heads": 2, "text.vocab_size": 99, "text.max_length": 16}
    return zoo.create_model("clip_vit_base_patch32", **image, **text, width=8, seed=0).eval()


def sharded(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = list(tensors)
    shards = {"model-1.safetensors": names[::2], "model-2.safetensors": names[1::2]}
    for shard, own in shards.items():
        save_file({name: tensors[name] for name in own}, folder / shard, {"format": "pt"})
    index = {"metadata": {}, "weight_map": {name: shard for shard, own in shards.items() for name in own}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def pickled(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def checkpoint(model: zoo.Model, folder: Path) -> None:
    folder.mkdir(parents=True)
    state = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    torch.save({"zoo": native.describe(model), "state_dict": state}, folder / "last.ckpt")


def exported(model: zoo.Model, folder: Path, format: str = "transformers", then: Any = None) -> None:
    zoo.export(model, folder, format)
    if then is not None:
        then(folder)


FORMATS: dict[str, Callable[[Path], object]] = {
    "zoo image": lambda folder: zoo.save(image_model("vit_cifar_tiny"), folder),
    "zoo text": lambda folder: zoo.save(classifier(), folder),
    "zoo towers": lambda folder: zoo.save(clip_model(), folder),
    "checkpoint": lambda folder: checkpoint(classifier(), folder),
    "BERT": lambda folder: exported(classifier(), folder),
    "GPT-2": lambda folder: exported(text_model("gpt_nano"), folder),
    "wav2vec 2.0": lambda folder: exported(ctc_model(), folder),
    "ViT, sharded": lambda folder: exported(image_model(), folder, then=sharded),
    "BERT, pickled": lambda folder: exported(text_model(), folder, then=pickled),
    "CLIP": lambda folder: exported(clip_model(), folder),
    "sentence-transformers": lambda folder: exported(text_model(head="pool", pool="mean", pooler=None), folder),
    "timm": lambda folder: exported(image_model(), folder, "timm"),
    "open_clip": lambda folder: exported(clip_model(), folder, "open_clip"),
}


@cache
def good(format: str) -> tuple[Files, Any]:
    """(the files of an undamaged folder, the outputs of its model)."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "model"
        FORMATS[format](folder)
        files = {
            str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
        }
        return files, outputs(loaded(folder))


def loaded(folder: Path) -> zoo.Model:
    file = folder / "last.ckpt"
    return zoo.load(file if file.exists() else folder)


def outputs(model: zoo.Model) -> torch.Tensor:
    with torch.no_grad():
        result = model(**example_batch(model))
    return result if isinstance(result, torch.Tensor) else result.image_features


# --- Damage -----------------------------------------------------------------------------------------------------------

VALUES = st.sampled_from([
    None, True, False, 0, 1, -1, 2, 3, 7, 10**6, 10**12, 10**18, 10**40, 0.5, -0.5, 1e-300, 1e300, float("nan"),
    float("inf"), "", "a", "2", "None", "../../etc", "\x00", "\ud800", "x" * 5000, [], [1], [0, 0], [None], ["a"],
    [[1]], [1, 2, 3, 4], {}, {"a": 1}, {"0": "a"}, {"content": "a"}, {"content": None}, [{"type": "x"}],
])  # fmt: skip


def places(value: Any, way: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The ways to all values within a JSON value; of large ones, to the first few."""
    found = [way] if way else []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in list(items)[:40]:
        found += places(inner, (*way, key))
    return found


def damage_json(data: st.DataObject, content: bytes) -> bytes:
    value = json.loads(content)
    for _ in range(data.draw(st.integers(1, 2))):
        ways = places(value)
        if not ways:
            break
        *way, key = data.draw(st.sampled_from(ways))
        parent = value
        for step in way:
            parent = parent[step]
        action = data.draw(st.sampled_from(["replace", "replace", "delete", "wrap", "rename"]))
        if action == "delete":
            del parent[key]
        elif action == "wrap":
            parent[key] = data.draw(st.sampled_from([[parent[key]], {"a": parent[key]}, str(parent[key])]))
        elif action == "rename" and isinstance(parent, dict):
            parent[data.draw(st.sampled_from(["x", "", "2", f"{key} "]))] = parent.pop(key)
        else:
            parent[key] = copy.deepcopy(data.draw(VALUES))
    return json.dumps(value).encode()


def damage_bytes(data: st.DataObject, content: bytes) -> bytes:
    size = len(content)
    action = data.draw(st.sampled_from(["cut", "flip", "flip", "insert", "empty", "zeros", "text"]))
    place = min(data.draw(st.integers(0, 400) | st.integers(0, max(size - 1, 0))), max(size - 1, 0))
    if action == "cut":
        return content[:place]
    if action == "flip" and size:
        return content[:place] + bytes([content[place] ^ (1 << data.draw(st.integers(0, 7)))]) + content[place + 1 :]
    if action == "insert":
        return content[:place] + data.draw(st.binary(min_size=1, max_size=9)) + content[place:]
    if action == "zeros":
        return content[:place] + bytes(min(64, size - place)) + content[place + 64 :]
    return (
        b""
        if action == "empty"
        else data.draw(st.sampled_from([b"null", b"[]", b"{}", b'{"a": 1, "a": 2}', b"[" * 3000]))
    )


def damage_header(data: st.DataObject, content: bytes) -> bytes:
    """Change the JSON header of a safetensors file, with the length that belongs to it."""
    size = int.from_bytes(content[:8], "little")
    header = damage_json(data, content[8 : 8 + size])
    return len(header).to_bytes(8, "little") + header + content[8 + size :]


def damage_weights(data: st.DataObject, folder: Path, name: str) -> None:
    """One tensor of another type, shape or name, or with values that are not finite."""
    tensors = load_file(folder / name)
    key = data.draw(st.sampled_from(sorted(tensors)))
    changes: list[Callable[[torch.Tensor], torch.Tensor]] = [
        lambda t: t.to(torch.int8), lambda t: t.half(), lambda t: t.double(), lambda t: t.to(torch.float8_e4m3fn),
        lambda t: t.to(torch.complex64), lambda t: t[..., :-1].contiguous(), lambda t: t[None], lambda t: t.flatten(),
        lambda t: t * float("nan"), lambda t: t.new_zeros(0), lambda t: t.bool(), lambda t: t.new_zeros(()),
    ]  # fmt: skip
    change = data.draw(st.sampled_from(range(len(changes) + 2)))
    if change < len(changes):
        tensors[key] = changes[change](tensors[key])
    elif change == len(changes):
        tensors[f"{key}.more"] = torch.ones(2)
    else:
        tensors["x"] = tensors.pop(key)
    save_file(tensors, folder / name, {"format": "pt"})


def damage(data: st.DataObject, folder: Path, files: Files) -> bool:
    """Damage one file of a folder. Returns whether the numbers of a model that loads must still be the same."""
    names = [name for name in files if not name.startswith("golden")]
    name = data.draw(st.sampled_from(names))
    path, content = folder / name, files[name]
    kinds = ["bytes", "remove", "folder", "other"]
    kinds += (
        ["json"] * 8
        if name.endswith(".json")
        else ["header", "header", "weights", "weights"] * name.endswith(".safetensors")
    )
    kind = data.draw(st.sampled_from(kinds))
    if kind == "json":
        path.write_bytes(damage_json(data, content))
    elif kind == "header":
        path.write_bytes(damage_header(data, content))
    elif kind == "weights":
        damage_weights(data, folder, name)
    elif kind == "bytes":
        path.write_bytes(damage_bytes(data, content))
    elif kind == "other":
        path.write_bytes(files[data.draw(st.sampled_from(names))])
    else:
        path.unlink()
        if kind == "folder":
            path.mkdir()
    return kind == "remove" and not name.endswith(".json")


# --- The tests --------------------------------------------------------------------------------------------------------

CALLS: list[str] = []
if not getattr(sys, "_zoo_fuzz_hook", False):
    FORBIDDEN = ("os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "socket.connect")
    sys.addaudithook(lambda event, arguments: CALLS.append(event) if event in FORBIDDEN else None)


@pytest.mark.parametrize("format", FORMATS)
def test_damage_ends_in_one_error_or_in_a_model(format: str) -> None:
    files, expected = good(format)

    @settings(
        max_examples=EXAMPLES,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
        print_blob=False,
    )
    @given(st.data())
    def check(data: st.DataObject) -> None:
        with tempfile.TemporaryDirectory() as temporary, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            folder = Path(temporary) / "model"
            for name, content in files.items():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(content)
            same = damage(data, folder, files)
            CALLS.clear()
            with contextlib.redirect_stderr(io.StringIO()):
                try:
                    model = loaded(folder)
                except ValueError as problem:
                    assert str(problem)
                    assert "\n" not in str(problem) or len(str(problem)) < 4000
                    return
                finally:
                    assert not CALLS
            assert not any(parameter.is_meta for parameter in model.parameters())
            if same:
                assert error(outputs(model), expected) <= 1e-5

    check()


class Code:
    """Unpickling it would call a function."""

    def __reduce__(self) -> Any:
        return os.system, ("true",)


@pytest.mark.parametrize("format", ["BERT, pickled", "checkpoint"])
def test_a_pickle_with_code_is_refused(format: str, tmp_path: Path) -> None:
    files, _ = good(format)
    folder = tmp_path / "model"
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    name = "last.ckpt" if format == "checkpoint" else "pytorch_model.bin"
    for protocol in (2, 4):
        torch.save({"state_dict": Code(), "zoo": {}}, folder / name, pickle_protocol=protocol)
        CALLS.clear()
        with pytest.raises(zoo.LoadError, match="would run code" if protocol == 2 else "protocol 2"):
            loaded(folder)
        (folder / name).write_bytes(pickle.dumps(Code(), protocol))
        with pytest.raises(zoo.LoadError, match=name):
            loaded(folder)
        assert not CALLS
