"""The towers of CLIP ViT-B/32 as loaded and after zoo.optimize, against open_clip in the same process.

    python benchmarks/towers.py [what=text,captions,image] [name=ViT-B-32-quickgelu] [depth=12] [rounds=7] [device=cuda]
        [batch=1]

text: 8 texts of 12 tokens in 77, as open_clip's tokenizer pads them; targets: >= 5x as loaded, >= 6x optimized.
captions: 32 texts of 6 to 24 tokens. image: 8 images; target after zoo.optimize: >= 1.2x in float32. Both have the same
random weights, saved to and loaded from a folder. On a GPU everything is in bfloat16; `batch` is how many times each
row is there.
"""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import open_clip
import torch
from _measure import clock_of, options, paired
from safetensors.torch import save_file
from torch import Tensor

import zoo

REAL = 12
LENGTHS = {"text": (REAL,) * 8, "captions": tuple(6 + i % 19 for i in range(32)), "image": (REAL,) * 8}


def both(name: str, depth: int, device: str) -> tuple[Any, zoo.Model]:
    """(open_clip model, zoo model) with the same weights."""
    config = open_clip.get_model_config(name)
    config["vision_cfg"]["layers"] = config["text_cfg"]["layers"] = depth
    theirs = open_clip.model.CLIP(**json.loads(json.dumps(config))).eval()
    with TemporaryDirectory() as folder:
        save_file(theirs.state_dict(), Path(folder) / "open_clip_model.safetensors")
        (Path(folder) / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
        ours = zoo.load(folder, device=device)
        ours.load_state_dict({key: value.clone() for key, value in ours.state_dict().items()}, assign=True)
    return theirs.to(device), ours


def texts(lengths: tuple[int, ...], device: str) -> Tensor:
    """Token ids [rows, 77]: start token, random words, end token, zeros."""
    ids = torch.randint(5, 40000, (len(lengths), 77), generator=torch.Generator().manual_seed(0))
    ends, places = torch.tensor(lengths)[:, None] - 1, torch.arange(77)
    ids[:, 0] = 49406
    return ids.where(places < ends, torch.where(places == ends, 49407, 0)).to(device)


def calls(what: str, theirs: Any, ours: zoo.Model, device: str, batch: int) -> dict[str, Callable[[], object]]:
    rows, tower = batch * len(LENGTHS[what]), "image" if what == "image" else "text"
    pixels = torch.randn(rows, 3, *theirs.visual.image_size, device=device)
    x = pixels if what == "image" else texts(LENGTHS[what] * batch, device)
    x_half = x.bfloat16() if what == "image" else x
    fast, half = zoo.optimize(ours), zoo.optimize(ours, dtype=torch.bfloat16)
    models = {"loaded": ours, "optimized": fast, "half": half, "theirs": theirs}
    models |= {f"{name} in bfloat16": copy.deepcopy(models[name]).to(torch.bfloat16) for name in ("loaded", "theirs")}
    run = {name: getattr(model, f"encode_{tower}") for name, model in models.items()}
    with torch.inference_mode():
        reference = run["theirs"](x, normalize=True)
        for name in ("loaded", "optimized", "half"):
            error = float((run[name](x) - reference).abs().max() / max(1.0, float(reference.abs().max())))
            print(f"{what}, {name}: maximum difference to open_clip {error:.1e}")
    plain: dict[str, Callable[[], object]] = {
        "open_clip float32": lambda: run["theirs"](x, normalize=True),
        "zoo as loaded": lambda: run["loaded"](x),
        "zoo optimized float32": lambda: run["optimized"](x),
        "zoo optimized bfloat16": lambda: run["half"](x),
    }
    half_calls: dict[str, Callable[[], object]] = {
        "open_clip bfloat16": lambda: run["theirs in bfloat16"](x_half, normalize=True),
        "zoo bfloat16": lambda: run["loaded in bfloat16"](x_half),
        "zoo optimized bfloat16": lambda: run["half"](x_half),
    }
    return half_calls if device == "cuda" else plain


def main() -> None:
    smoke = dict(depth=1, rounds=1)
    o = options(smoke, what="text,captions,image", name="ViT-B-32-quickgelu", depth=12, rounds=7, device="cpu", batch=1)
    torch.set_num_threads(1)
    theirs, ours = both(o.name, o.depth, o.device)
    for what in o.what.split(","):
        candidates = calls(what, theirs, ours, o.device, o.batch)
        with torch.inference_mode():
            rows, tokens = o.batch * len(LENGTHS[what]), o.batch * sum(LENGTHS[what])
            title = f"{o.name}, {what}: {rows} rows" + (f" of 77, {tokens} tokens" if what != "image" else "")
            paired(candidates, rounds=o.rounds, clock=clock_of(o.device), items=rows, title=title)


if __name__ == "__main__":
    main()
