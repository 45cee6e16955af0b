"""Audio encoders against transformers in the same process: AST-base on whole spectrograms, wav2vec 2.0 on ragged clips.

    python benchmarks/audio.py [what=ast,waves,large] [depth=12] [seconds=1,2,3,5,7,10] [rounds=5] [device=cpu|cuda]
        [batch=1]

ast: one spectrogram of 1024 frames and 128 mel bins, 1,214 tokens; targets after zoo.optimize: >= 1.2x in float32,
>= 2.1x in bfloat16 over transformers in float32. waves: wav2vec 2.0 base on clips of 1, 2, 3, 5, 7 and 10 s, which
transformers pads to 10 s; target for seconds of audio per second, without padding: >= 1.8x. Both have the same random
weights; outputs are compared with those of single clips, because the group norm of transformers includes the padding.
large: the same clips through the large model with stable layer norm, also with `depth` layers. On a GPU everything is
in bfloat16; `batch` is the number of spectrograms, and how many times each clip is there.
"""

import copy
from collections.abc import Callable
from tempfile import TemporaryDirectory
from typing import Any

import torch
import transformers
from _measure import clock_of, for_device, options, paired
from torch import Tensor

import zoo

SAMPLING_RATE = 16000


def both(name: str, device: str, **config: Any) -> tuple[Any, zoo.Model]:
    """(transformers model, zoo model) with the same weights."""
    cls = getattr(transformers, name)
    theirs = cls(cls.config_class(**config)).to(device).eval()
    with TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        ours = zoo.load(folder, device=device)
        ours.load_state_dict({key: value.clone() for key, value in ours.state_dict().items()}, assign=True)
    return theirs, ours


def half_of(model: Any) -> Any:
    """A copy of a model in bfloat16."""
    half = type(model)(model.config).to(model.device, torch.bfloat16).eval()
    half.load_state_dict(model.state_dict())
    return half


def error(ours: Tensor, theirs: Tensor) -> float:
    return ((ours - theirs).abs().max() / theirs.abs().max().clamp_min(1)).item()


def half_of_ours(model: zoo.Model) -> zoo.Model:
    """A copy of our model in bfloat16, as created."""
    return copy.deepcopy(model).to(torch.bfloat16)


def spectrograms(depth: int, device: str, seconds: list[int], batch: int) -> dict[str, Callable[[], object]]:
    theirs, ours = both("ASTForAudioClassification", device, num_hidden_layers=depth, num_labels=527)
    half, fast, fast_half = half_of(theirs), zoo.optimize(ours), zoo.optimize(ours, dtype=torch.bfloat16)
    own_half = half_of_ours(ours)
    x = torch.randn(batch, 1024, 128, generator=torch.Generator().manual_seed(0)).to(device)
    with torch.inference_mode():
        reference = theirs(x).logits
        for name, model in (("as loaded", ours), ("optimized", fast), ("optimized bfloat16", fast_half)):
            print(f"{name}: maximum difference to transformers {error(model(x), reference):.1e}")
    return {
        "transformers float32": lambda: theirs(x),
        "transformers bfloat16": lambda: half(x.bfloat16()),
        "zoo as loaded": lambda: ours(x),
        "zoo optimized float32": lambda: fast(x),
        "zoo optimized bfloat16": lambda: fast_half(x),
        "zoo bfloat16": lambda: own_half(x.bfloat16()),
    }


def clips(depth: int, device: str, seconds: list[int], batch: int, **config: Any) -> dict[str, Callable[[], object]]:
    theirs, ours = both("Wav2Vec2Model", device, num_hidden_layers=depth, **config)
    half, fast, fast_half = half_of(theirs), zoo.optimize(ours), zoo.optimize(ours, dtype=torch.bfloat16)
    own_half = half_of_ours(ours)
    lengths = [SAMPLING_RATE * each for each in seconds] * batch
    keep = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    x = torch.randn(keep.shape, generator=torch.Generator().manual_seed(0)) * keep
    x, keep = x.to(device), keep.to(device)
    with torch.inference_mode():
        unpadded = [theirs(x[row : row + 1, :n]).last_hidden_state[0] for row, n in enumerate(lengths)]
        for name, model in (("as loaded", ours), ("optimized", fast), ("optimized bfloat16", fast_half)):
            y = model(x, keep)
            worst = max(error(y[row, : len(z)], z) for row, z in enumerate(unpadded))
            print(f"{name}: maximum difference to transformers on single clips {worst:.1e}")
    return {
        "transformers float32": lambda: theirs(x, attention_mask=keep),
        "transformers one by one": lambda: [theirs(x[row : row + 1, :n]) for row, n in enumerate(lengths)],
        "transformers bfloat16": lambda: half(x.bfloat16(), attention_mask=keep),
        "zoo as loaded": lambda: ours(x, keep),
        "zoo optimized float32": lambda: fast(x, keep),
        "zoo optimized bfloat16": lambda: fast_half(x, keep),
        "zoo bfloat16": lambda: own_half(x.bfloat16(), keep),
    }


def large(depth: int, device: str, seconds: list[int], batch: int) -> dict[str, Callable[[], object]]:
    wide = dict(hidden_size=1024, num_attention_heads=16, intermediate_size=4096)
    layer_norm = dict(feat_extract_norm="layer", do_stable_layer_norm=True, conv_bias=True)
    return clips(depth, device, seconds, batch, **layer_norm, **wide)


WHAT: dict[str, tuple[Callable[..., dict[str, Callable[[], object]]], str]] = {
    "ast": (spectrograms, "ast_base, one spectrogram of 1024 x 128"),
    "waves": (clips, "wav2vec2_base, clips of {} s"),
    "large": (large, "wav2vec 2.0 with stable layer norm, 1024 wide, clips of {} s"),
}


def main() -> None:
    smoke = dict(what="ast,waves", depth=1, seconds="1", rounds=1)
    o = options(smoke, what="ast,waves,large", depth=12, seconds="1,2,3,5,7,10", rounds=5, device="cpu", batch=1)
    torch.set_num_threads(1)
    seconds = [int(each) for each in o.seconds.split(",")]
    for what in o.what.split(","):
        make, title = WHAT[what]
        calls = for_device(make(o.depth, o.device, seconds, o.batch), o.device)
        items = o.batch * (1 if what == "ast" else sum(seconds))
        title = title.format(", ".join(map(str, seconds))) + (f", {o.batch} times" if o.batch > 1 else "")
        with torch.inference_mode():
            paired(calls, rounds=o.rounds, clock=clock_of(o.device), items=items, title=title)


if __name__ == "__main__":
    main()
