"""One contract for every model of the registry. A new family is found here; write the snapshot of its keys by

ZOO_WRITE_SNAPSHOTS=1 pytest tests/models/test_contract.py -k snapshot
"""

import json
import os
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import pytest
import torch
from peers import close
from speeds import full_unless
from torch import Tensor

import zoo
from zoo.models.encoder_decoder import EncoderDecoder
from zoo.models.example_batch import example_batch
from zoo.models.registry import build, families, family, family_names, find_variant
from zoo.nn import Stack
from zoo.nn.grid_attention import GRID_KINDS
from zoo.nn.registry import BUILT_IN

# Those for the tokens of images are for ViT here, and for all in tests/nn.
SEQUENCE_KINDS = tuple(kind for kind in BUILT_IN if kind not in GRID_KINDS)
UNORDERED_KINDS = ("softmax", "additive", "linear", "performer", "rfa")  # those that a set has: without a pattern
SNAPSHOTS = Path(__file__).parents[1] / "snapshots"


def images() -> dict[str, Tensor]:
    return {"pixel_values": torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))}


def texts() -> dict[str, Tensor]:
    """Three rows without padding."""
    return {"input_ids": torch.randint(5, 50, (3, 11), generator=torch.Generator().manual_seed(0))}


def spectrograms() -> dict[str, Tensor]:
    return {"input_values": torch.randn(3, 21, 16, generator=torch.Generator().manual_seed(0))}


def waveforms() -> dict[str, Tensor]:
    """Three clips of eleven tokens each."""
    return {"input_values": torch.randn(3, 231, generator=torch.Generator().manual_seed(0))}


def clouds() -> dict[str, Tensor]:
    """Three clouds of eleven points."""
    return {"points": torch.randn(3, 11, 3, generator=torch.Generator().manual_seed(0))}


@dataclass(frozen=True)
class Row:
    """One family at a size for tests. more: its other shapes, as overrides; causal: nobody sees the future; kinds:
    attention kinds that its masks and positions leave possible; counts: published numbers of parameters."""

    variant: str
    small: dict
    batch: Callable[[], dict[str, Tensor]]
    more: dict[str, dict] = field(default_factory=dict)
    causal: bool = False
    kinds: tuple[str, ...] = SEQUENCE_KINDS
    counts: dict[str, int] = field(default_factory=dict)


TINY = dict(width=32, depth=2, heads=4, mlp_dim=48)
TEXT = TINY | dict(vocab_size=50, max_length=32, dropout=0.0, attention_dropout=0.0)
WAVES = TINY | dict(
    conv_channels=(8, 12, 8), conv_kernels=(10, 3, 2), conv_strides=(5, 2, 2), position_kernel=6, position_groups=4,
    vocab_size=7, dropout=0.0, attention_dropout=0.0,
)  # fmt: skip
STATE_SPACE = {name: value for name, value in TEXT.items() if name != "mlp_dim"} | dict(expand=1.5)
HYBRIDS = {"MLPs": dict(mlp_dim=48), "biases": dict(bias=True, conv_bias=False, tie_word_embeddings=False)}
GROUPS = {"shared keys": {"kv_heads": 2}, "wide heads": {"head_dim": 16}}

ROWS = {
    "vit": Row(
        "vit_cifar_tiny",
        TINY,
        images,
        kinds=BUILT_IN,
        more=GROUPS
        | {
            "class token": dict(class_token=True, pool="cls", stem="patch"),
            "distilled": dict(class_token=True, pool="cls", distilled=True),
            "dinov2": dict(class_token=True, pool="cls_mean", registers=2, position_prefix=0, layer_scale=0.1),
            "swiglu": dict(gated_mlp=True, act="silu", qkv_bias=False),
            "norm after pooling": dict(pool_norm=True, patch_size=8),
            "layers of different kinds": dict(attention=["local", "performer"]),
        },
        counts={
            "vit_tiny_patch16_224": 5_717_416,
            "vit_small_patch16_224": 22_050_664,
            "vit_small_patch32_224": 22_878_952,
            "vit_base_patch16_224": 86_567_656,
            "vit_base_patch32_224": 88_224_232,
            "vit_base_patch16_384": 86_859_496,
            "vit_base_patch8_224": 86_576_872,
            "vit_large_patch16_224": 304_326_632,
            "vit_huge_patch14_224": 632_045_800,
            "deit_tiny_distilled_patch16_224": 5_910_800,
            "deit_small_distilled_patch16_224": 22_436_432,
            "deit_base_distilled_patch16_384": 87_630_032,
            "deit3_small_patch16_224": 22_059_496,
            "deit3_medium_patch16_224": 38_849_512,
            "deit3_huge_patch14_224": 632_126_440,
            "vit_small_patch14_dinov2": 22_056_192,
            "vit_base_patch14_dinov2": 86_579_712,
            "vit_giant_patch14_dinov2": 1_136_479_232,
            "vit_small_patch14_reg4_dinov2": 22_057_344,
            "vit_giant_patch14_reg4_dinov2": 1_136_483_840,
        },
    ),
    "bert": Row("bert_tiny", TEXT, texts, more=GROUPS, counts={"bert_base": 109_514_298}),
    "roberta": Row("roberta_small", TEXT, texts, counts={"roberta_base": 124_697_433}),
    "distilbert": Row("distilbert_small", TEXT, texts, counts={"distilbert_base": 66_985_530}),
    "modernbert": Row("modernbert_tiny", TEXT, texts),
    "esm": Row("esm2_t6_8m", TEXT, texts, more=GROUPS | {"absolute positions": dict(rope=None, embedding_norm=True)}),
    "longformer": Row(
        "longformer_nano",
        TEXT | dict(attention_window=4),
        texts,
        more=GROUPS | {"a window for each layer": dict(attention_window=(2, 6))},
        kinds=(*SEQUENCE_KINDS, None),
        counts={"longformer_base": 148_711_257},
    ),
    "bigbird": Row(
        "bigbird_nano",
        TEXT | dict(block_size=1, num_random_blocks=1),
        texts,
        more=GROUPS | {"full attention": dict(attention="softmax"), "blocks of two": dict(block_size=2)},
        kinds=(*SEQUENCE_KINDS, None),
        counts={"bigbird_base": 127_520_694},
    ),
    "gpt2": Row(
        "gpt_nano",
        TEXT,
        texts,
        causal=True,
        counts={"gpt2": 124_439_808, "gpt2_medium": 354_823_168, "gpt2_xl": 1_557_611_200},
    ),
    "llama": Row("llama_nano", TEXT, texts, more=GROUPS, causal=True, counts={"llama2_7b": 6_738_415_616}),
    "gemma": Row(
        "gemma_nano",
        TEXT | dict(kv_heads=None, head_dim=None, window=4, global_every=2),
        texts,
        more=GROUPS
        | {
            "gemma": dict(window=None, local_rope_base=None, order="pre", qk_norm=False),
            "gemma 2": dict(local_rope_base=None, qk_norm=False, attention_softcap=2.0, logits_softcap=3.0),
        },
        causal=True,
        kinds=(*BUILT_IN, None),
    ),
    "mamba": Row(
        "mamba_nano",
        STATE_SPACE | dict(state=5, dt_rank=3),
        texts,
        more=HYBRIDS | {"attention layers": dict(mixer=["mamba", "attention"])},
        causal=True,
        kinds=("softmax",),
        counts={"mamba_130m": 129_135_360, "mamba_370m": 371_516_416, "mamba_790m": 793_204_224},
    ),
    "mamba2": Row(
        "mamba2_nano",
        STATE_SPACE | dict(state=6, groups=2),
        texts,
        more=HYBRIDS | {"attention layers": dict(mixer=["mamba2", "attention"])},
        causal=True,
        kinds=("softmax",),
        counts={"mamba2_130m": 128_989_632, "mamba_codestral_7b": 7_285_403_648},
    ),
    "granite": Row(
        "granite4_nano",
        TEXT | dict(embedding_multiplier=3.0, residual_multiplier=0.7, logits_scaling=2.0, mixer=None),
        texts,
        more=GROUPS
        | {
            "hybrid": dict(mixer=["mamba2", "attention"]),
            "rotary positions": dict(rope_base=1e4, residual_multiplier=1.0, attention_multiplier=0.3),
        },
        causal=True,
        counts={"granite4_h_350m": 340_332_224},
    ),
    "ast": Row(
        "ast_tiny",
        TINY | dict(max_length=21, mel_bins=16, patch_size=8, stride=(4, 5)),
        spectrograms,
        more=GROUPS
        | {
            "mean of the patches": dict(class_token=False, distilled=False, pool="mean", patch_size=(8, 4)),
            "one token": dict(distilled=False, layer_scale=0.1, gated_mlp=True, act="silu", qkv_bias=False),
        },
        counts={"ast_base": 86_594_063, "ast_base_14_14": 86_167_823, "ast_base_speech_commands": 85_395_491},
    ),
    "wav2vec2": Row(
        "wav2vec2_tiny",
        WAVES,
        waveforms,
        more=GROUPS
        | {
            "base": dict(conv_norm="group", conv_bias=False, order="post", position_kernel=5),
            "a mixture of layers": dict(layer_sum=True, feature_norm=False, order="post"),
        },
        counts={
            "wav2vec2_base": 94_370_944,
            "wav2vec2_base_960h": 94_395_552,
            "wav2vec2_large": 315_427_968,
            "wav2vec2_large_lv60": 315_437_696,
            "wav2vec2_large_960h_lv60_self": 315_470_496,
        },
    ),
    "hubert": Row(
        "hubert_tiny",
        WAVES | dict(conv_norm="group", conv_bias=False, order="post"),
        waveforms,
        counts={"hubert_base": 94_370_944, "hubert_large": 315_437_696, "hubert_xlarge": 962_496_128},
    ),
    "clip_text": Row(
        "clip_text_tiny",
        TEXT | dict(eos_token_id=49),
        texts,
        more=GROUPS | {"first end": dict(pool="eos"), "siglip": dict(causal=False, pool="last", act="gelu_tanh")},
        counts={"clip_text_base": 63_165_952},
    ),
    "point_transformer": Row(
        "point_transformer_tiny",
        TINY | dict(stages=(), neighbors=4),
        clouds,
        kinds=("softmax", "additive", None),
        more=GROUPS | {"as published": dict(mlp_dim=0, pair_dim=24, qkv_bias=True), "dots": dict(attention="softmax")},
    ),
    "set_transformer": Row(
        "set_transformer_tiny",
        TINY | dict(induced_points=5),
        clouds,
        kinds=UNORDERED_KINDS,
        more=GROUPS
        | {
            "all pairs": dict(induced_points=None, seeds=3, pool="mean"),
            "as the authors have it": dict(mlp_dim=None, layer_norm=False, seeds=2, decoder_depth=1),
        },
    ),
}


def examples(model: zoo.Model) -> dict[str, Tensor]:
    """Three rows of any modality."""
    pairs = [example_batch(model, seed) for seed in (0, 1)]
    return {key: torch.cat([pair[key] for pair in pairs])[:3] for key in pairs[0]}


@cache
def on_meta(name: str) -> zoo.Model:
    f = find_variant(name)
    return build(f, f.config(**f.variants[name]))


def discovered(name: str) -> Row:
    """The row of a family that has none above: its smallest variant at test size, and a batch of its modality."""
    own = family(name)
    sizes = {v: sum(p.numel() for p in on_meta(v).parameters()) for v in own.variants}
    variant = min(sizes, key=lambda v: sizes[v])
    fields = TEXT | dict(image_size=32, patch_size=8)
    fields = {field: value for field, value in fields.items() if field in own.config.names()}
    model = build(own, own.config(**own.variants[variant]).replace(**fields))
    usual = {"vision": images, "text": texts}.get(own.modality, lambda: examples(small(name)))
    core = getattr(model.blocks[0].mixer, "core", None)
    return Row(variant, fields, usual, causal=bool(core and core.spec.causal))


# tests/models/test_contrast.py, test_bridge.py and test_text_to_image.py have their contract
TOWERS = [f.name for f in families() if f.modality == "multimodal" and not issubclass(f.model, EncoderDecoder)]
# tests/models/test_encoder_decoder.py has theirs
ENCODER_DECODERS = [f.name for f in families() if issubclass(f.model, EncoderDecoder)]


# Without a `Stack`; tests/models/test_dvae.py and test_evoformer.py have theirs.
CONVOLUTIONAL = [
    f.name for f in families() if f.name not in {*ROWS, *TOWERS, *ENCODER_DECODERS}
    and not any(isinstance(module, Stack) for module in on_meta(next(iter(f.variants))).modules())
]  # fmt: skip
# tests/models/test_graphs.py has theirs
GRAPHS = [f.name for f in families() if f.modality == "graph"]
OTHERS = {*ROWS, *TOWERS, *ENCODER_DECODERS, *CONVOLUTIONAL, *GRAPHS}
ROWS |= {name: discovered(name) for name in family_names() if name not in OTHERS}
SMALL = [name for name in family_names() if name in ROWS]
SHAPES = [(name, shape) for name in SMALL for shape in ("", *ROWS[name].more)]
KINDS = [(name, kind) for name in SMALL for kind in ROWS[name].kinds]


def is_quick(pair: tuple[str, str | None]) -> bool:
    """Every kind in three families, and a quarter of the kinds, others in each, in every other family."""
    name, kind = pair
    usual = name in ("vit", "bert", "gpt2") or kind in ("softmax", None)
    return usual or (SMALL.index(name) + ROWS[name].kinds.index(kind)) % 4 == 0


VARIANTS = [(f.name, variant) for f in families() for variant in f.variants]
SINGLE = [(name, variant) for name, variant in VARIANTS if name not in TOWERS]
PADDED = [name for name in SMALL if "attention_mask" in family(name).model.inputs]
CAUSAL = [name for name in SMALL if ROWS[name].causal]


# Families without attention, and their mixer: an attention kind goes into every other layer.
RECURRENT = {"mamba": "mamba", "mamba2": "mamba2", "rwkv": "rwkv4", "retnet": "retention"}


def small(name: str, **overrides) -> zoo.Model:
    row = ROWS[name]
    if "attention" in overrides and name in RECURRENT:
        overrides = {"mixer": [RECURRENT[name], "attention"]} | overrides
    return zoo.create_model(row.variant, seed=0, **row.small | overrides).eval()


def shaped(name: str, shape: str) -> zoo.Model:
    return small(name, **ROWS[name].more.get(shape, {}))


def first(batch: dict[str, Tensor], rows: slice = slice(0, 1)) -> dict[str, Tensor]:
    return {key: value[rows] for key, value in batch.items()}


# -- every variant, on meta -------------------------------------------------------------------------------------------


def snapshot(model: torch.nn.Module) -> dict[str, str]:
    """State-dict keys with the layer number collapsed -> how many, and their shape."""
    seen: dict[str, list] = {}
    for key, value in model.state_dict().items():
        seen.setdefault(re.sub(r"(^|\.)blocks\.\d+\.", r"\1blocks.*.", key), []).append(list(value.shape))
    assert all(shape == shapes[0] for shapes in seen.values() for shape in shapes)
    return {key: f"{len(shapes)} x {shapes[0]}" for key, shapes in seen.items()}


@pytest.mark.parametrize("name", family_names())
def test_keys_equal_the_snapshot(name):
    made = {variant: snapshot(on_meta(variant)) for variant in family(name).variants}
    file = SNAPSHOTS / f"{name}.json"
    if os.environ.get("ZOO_WRITE_SNAPSHOTS"):
        lines = (f"{json.dumps(variant)}: {json.dumps(keys)}" for variant, keys in made.items())
        file.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    assert file.exists(), f"no {file.name}: write it as the head of this file says"
    kept = json.loads(file.read_text())
    assert list(made) == list(kept), "variants came or went: write the snapshot again"
    for variant, keys in made.items():
        assert keys == kept[variant], f"{variant}: saved models would not load any more"


@pytest.mark.parametrize(("name", "variant"), SINGLE)
def test_every_variant_builds_on_meta(name, variant):
    model = on_meta(variant)
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    assert all(t.is_meta for t in tensors.values())
    stored = model.state_dict().keys()
    assert set(dict(model.named_buffers())) <= set(stored), "a buffer that no file holds stays on meta after loading"
    for module in model.modules():
        loose = [k for k, v in vars(module).items() if isinstance(v, Tensor)]
        assert not loose, f"{type(module).__name__}.{loose}: constants are computed from the config"
    assert name in (*ENCODER_DECODERS, *CONVOLUTIONAL) or isinstance(model.blocks, Stack)
    assert model.num_features > 0
    c = model.config
    assert type(c).from_dict(json.loads(json.dumps(c.to_dict()))) == c
    with pytest.raises(AttributeError):
        c.width = 3
    with pytest.raises(ValueError, match="'depht'; did you mean 'depth'"):
        type(c).from_dict(c.to_dict() | {"depht": 3})
    with pytest.raises(ValueError, match=r"lacks .*'depth'"):
        type(c).from_dict({k: v for k, v in c.to_dict().items() if k != "depth"})


@pytest.mark.parametrize(("variant", "count"), [item for row in ROWS.values() for item in row.counts.items()])
def test_published_parameter_counts(variant, count):
    if find_variant(variant).name in family_names():
        assert sum(p.numel() for p in on_meta(variant).parameters()) == count


def test_names_are_unique_and_listed():
    names = zoo.list_models()
    assert len(names) == len(set(names)) == len(VARIANTS)
    assert zoo.list_models("*dinov2*") == [n for n in names if "dinov2" in n]
    assert set(zoo.list_models(pretrained=True)) == {n for f in families() for n in f.sources}
    for f in families():
        assert set(f.sources) <= set(f.variants) and set(zoo.list_models(modality=f.modality)) >= set(f.variants)
        assert f.model.family == f.name and on_meta(next(iter(f.variants))).inputs
        assert f.model.has_loss == hasattr(f.model, "loss")


# -- a small model of each family -------------------------------------------------------------------------------------


def gradients(model: zoo.Model, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Of a loss that every output has a part in."""
    model.zero_grad()
    y = model(**batch)
    y.mul(torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y)).sum().backward()
    missing = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not missing, f"no finite gradient: {missing}"
    return {name: p.grad.clone() for name, p in model.named_parameters()}


def all_inputs(name: str, kind: str | None = None) -> dict[str, Tensor]:
    """A batch that uses every input, so that every parameter has its part; kind: of an attention that replaces the
    published one, which alone has global tokens."""
    batch = ROWS[name].batch()
    if "global_attention_mask" in family(name).model.inputs and kind is None:
        batch["global_attention_mask"] = (torch.arange(33).view(3, 11) % 5 == 2).long()
    if "token_type_ids" in family(name).model.inputs:
        last = small(name).config.type_vocab_size - 1
        batch["token_type_ids"] = (torch.arange(11) > 5).long().clamp(max=last).expand(3, -1)
    return batch


@pytest.mark.parametrize(("name", "kind"), full_unless(is_quick, KINDS))
def test_every_kind_trains(name, kind):
    model, batch = small(name, attention=kind).train(), all_inputs(name, kind)
    made = gradients(model, batch)
    assert all(g.any() for key, g in made.items() if "mixer" in key and not key.endswith("k.bias"))
    y, plain = model(**batch), small(name)(**batch)
    assert y.isfinite().all() and y.shape == plain.shape


@pytest.mark.parametrize(("name", "shape"), SHAPES)
def test_every_shape_trains_saves_and_loads(name, shape, tmp_path):
    model, batch = shaped(name, shape), all_inputs(name)
    gradients(model, batch)
    folder = zoo.save(model, tmp_path / "model")
    loaded = zoo.load(folder)
    assert loaded.config == model.config and loaded.family == name and loaded.variant == model.variant
    assert not any(t.is_meta for t in (*loaded.parameters(), *loaded.buffers()))
    assert loaded.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(a, b) for a, b in zip(loaded.state_dict().values(), model.state_dict().values()))
    report = loaded.load_report
    assert not (report.initialized or report.dropped or report.resampled) and report.mapped
    with torch.no_grad():
        assert torch.equal(loaded.eval()(**batch), model(**batch))


@pytest.mark.parametrize(("name", "kind"), full_unless(is_quick, KINDS))
@torch.no_grad()
def test_a_row_does_not_depend_on_its_batch(name, kind):
    model, batch = small(name, attention=kind), ROWS[name].batch()
    close(model(**first(batch, slice(1, 2))), model(**batch)[1:2])


@pytest.mark.parametrize("name", SMALL)
def test_the_seed_decides_everything(name):
    a, b, other = small(name), small(name), zoo.create_model(ROWS[name].variant, seed=1, **ROWS[name].small)
    assert all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values()))
    assert any(not torch.equal(x, y) for x, y in zip(a.state_dict().values(), other.state_dict().values()))
    if "performer" in ROWS[name].kinds:
        softmax, performer = (small(name, attention=kind).state_dict() for kind in ("softmax", "performer"))
        assert all(torch.equal(performer[key], value) for key, value in softmax.items())
        if name not in RECURRENT:  # whose layers are others
            assert all(torch.equal(a.state_dict()[key], value) for key, value in softmax.items())  # which may have more
    torch.manual_seed(5)
    x = zoo.create_model(ROWS[name].variant, **ROWS[name].small).state_dict()
    torch.manual_seed(5)
    y = zoo.create_model(ROWS[name].variant, **ROWS[name].small).state_dict()
    assert all(torch.equal(x[key], y[key]) for key in x)


@pytest.mark.parametrize("name", full_unless(("vit", "gpt2", "mamba"), SMALL))
@torch.no_grad()
def test_one_graph(name):
    """One layer of each kind for ViT, for the others of linear attention, where they allow it: the next test has that
    of softmax."""
    torch._dynamo.reset()
    kinds = [kind for kind in ROWS[name].kinds if name == "vit" or kind == "linear"] or ["softmax"]
    depth = 2 if name in RECURRENT else len(kinds)
    model = small(name, attention=kinds[-1] if name in RECURRENT else kinds, depth=depth)
    batch = padded(name)[0] if name in PADDED else ROWS[name].batch()
    expected = model(**batch)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    real = real_tokens(model, batch) if name in PADDED else slice(None)
    if expected.ndim < 3:
        real = slice(None)
    close(compiled(**batch)[real], expected[real])


def heads(name: str) -> list[str | None]:
    """The heads that a family has, its usual one first."""
    own = family(name)
    found = [own.config(**own.variants[ROWS[name].variant] | ROWS[name].small).head]
    for head in ("classify", "lm", "masked_lm", "token", "qa", "pool", "ctc", None):
        try:
            own.config(**own.variants[ROWS[name].variant] | ROWS[name].small | {"head": head})
            found.append(head)
        except ValueError:
            pass
    return list(dict.fromkeys(found))


HEADS = [
    pytest.param(name, head, marks=[] if head == heads(name)[0] else pytest.mark.full)
    for name in SMALL for head in heads(name)
]  # fmt: skip


def graded(run: Callable[..., Tensor], model: zoo.Model, batch: dict[str, Tensor]) -> list[Tensor]:
    """[output at real tokens, gradients of all parameters that have one]."""
    model.zero_grad()
    y = run(**batch)
    y = y[real_tokens(model, batch)] if y.ndim == 3 and "attention_mask" in batch else y
    y.mul(torch.randn(y.shape, generator=torch.Generator().manual_seed(1))).sum().backward()
    return [y.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]


@pytest.mark.parametrize(("name", "head"), HEADS)
def test_one_graph_forward_and_backward(name, head):
    """Of every head, of a padded batch: its padding is kept, under a mask."""
    check_graph(small(name, head=head, depth=1), padded(name)[0] if name in PADDED else ROWS[name].batch())


@pytest.mark.parametrize("name", full_unless(("bert", "gpt2"), PADDED))
def test_one_graph_without_padding(name):
    check_graph(small(name, depth=1), ROWS[name].batch())


def check_graph(model: zoo.Model, batch: dict[str, Tensor]) -> None:
    torch._dynamo.reset()
    expected = graded(model, model, batch)
    ours = graded(torch.compile(model, backend="eager", fullgraph=True), model, batch)
    assert len(ours) == len(expected) > 1
    for a, b in zip(ours, expected, strict=True):
        close(a, b, 2e-5)


@pytest.mark.parametrize("name", full_unless(("vit", "bert", "gpt2", "llama", "wav2vec2", "clip_text"), SMALL))
@torch.no_grad()
def test_export(name):
    model, batch = small(name, depth=1), ROWS[name].batch()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(model, (), batch)
    close(program.module()(**batch), model(**batch))


@pytest.mark.parametrize(("name", "shape"), SHAPES)
@torch.no_grad()
def test_embed_encode_head(name, shape):
    model, batch = shaped(name, shape), ROWS[name].batch()
    hidden = model.encode(**batch)
    assert hidden.ndim == 3 and hidden.shape[0] == 3 and hidden.shape[2] == model.config.width
    bare = zoo.create_model(ROWS[name].variant, seed=0, head=None, **ROWS[name].small | ROWS[name].more.get(shape, {}))
    assert bare.head is None and torch.equal(bare.eval()(**batch), hidden)
    assert not [key for key in bare.state_dict() if key.startswith("head.proj")]
    last, (low, high) = model.encode(**batch, layers=[0, -1])
    assert torch.equal(last, hidden) and low.shape == high.shape == hidden.shape
    assert not torch.equal(low, high)


@pytest.mark.parametrize(("name", "shape"), SHAPES)
def test_heads_can_be_changed(name, shape):
    options, batch = ROWS[name].more.get(shape, {}), ROWS[name].batch()
    model = small(name, head="classify", num_classes=10, **options)
    body = {key: value.clone() for key, value in model.state_dict().items() if not key.startswith("head.")}
    assert model(**batch).shape == (3, 10)
    model.labels = [str(i) for i in range(10)]
    model.reset_head(4)
    assert model(**batch).shape == (3, 4) and model.config.num_classes == 4 and model.labels is None
    gradients(model, all_inputs(name) | batch)
    other = small(name, head="classify", num_classes=10, **options)
    other.reset_head(4)
    assert all(torch.equal(other.state_dict()[key], value) for key, value in model.state_dict().items())
    assert all(torch.equal(model.state_dict()[key], value) for key, value in body.items())
    model.reset_head(0)
    assert model.config.head == "pool" and model(**batch).shape == (3, model.num_features)
    pooled = small(name, num_classes=0, **options)
    assert pooled.config.head == "pool" and pooled(**batch).shape == (3, pooled.num_features)
    double = small(name, head="classify", **options).double()
    double.reset_head(3)
    assert {p.dtype for p in double.parameters()} == {torch.float64}


@pytest.mark.parametrize("name", SMALL)
def test_checkpointing_changes_no_gradient(name):
    model, batch = small(name).train(), all_inputs(name)
    kept = gradients(model, batch)
    model.set_checkpointing(True)
    assert model.blocks.checkpointing
    calls: list[int] = []
    handle = model.blocks[0].norm1.register_forward_pre_hook(lambda *_: calls.append(1))
    recomputed = gradients(model, batch)
    handle.remove()
    assert len(calls) == 2
    for key, value in kept.items():
        close(recomputed[key], value)
    model.set_checkpointing(False)
    assert not model.blocks.checkpointing


@pytest.mark.parametrize("name", SMALL)
@torch.no_grad()
def test_half_precision_stays_near(name):
    model, batch = small(name), ROWS[name].batch()
    exact = model(**batch)
    half = {k: v.bfloat16() if v.is_floating_point() else v for k, v in batch.items()}
    y = model.to(torch.bfloat16)(**half)
    assert y.dtype == torch.bfloat16
    close(y.float(), exact, 0.1)


# -- padding, causality and state, where a family has them ------------------------------------------------------------


def padded(name: str) -> tuple[dict[str, Tensor], str]:
    """(a batch of eleven tokens with padding on the right, on the left and nowhere, the name of what is padded)."""
    batch = ROWS[name].batch()
    ((key, x),) = batch.items()
    each = x.shape[1] // 11
    mask = torch.ones(x.shape[:2], dtype=torch.long)
    mask[0, 8 * each :] = 0
    mask[1, : 4 * each] = 0
    return batch | {"attention_mask": mask}, key


def real_tokens(model: zoo.Model, batch: dict[str, Tensor]) -> Tensor:
    """[B, N], which of the tokens that come out are real; those of a clip come first."""
    mask = batch["attention_mask"].bool()
    if "input_values" not in batch:
        return mask
    return torch.arange(model.frames(mask.shape[1])) < model.frames(mask.sum(1))[:, None]


PADDED_KINDS = [(name, kind) for name, kind in KINDS if name in PADDED]


@pytest.mark.parametrize(("name", "kind"), full_unless(is_quick, PADDED_KINDS))
@torch.no_grad()
def test_padding_does_not_affect_outputs(name, kind):
    model, (batch, key) = small(name, attention=kind, head=None), padded(name)
    x, mask = batch[key], batch["attention_mask"].bool()
    real = real_tokens(model, batch)
    dropped = model(**batch)
    model.drop_padding = False
    masked = model(**batch)
    for y in (dropped, masked, model(**batch | {key: torch.where(mask.view(*mask.shape, *[1] * (x.ndim - 2)), x, 7)})):
        assert (y[~real] == 0).all()
        for row, keep in enumerate(mask):
            alone = model(**{key: x[row : row + 1, keep]})
            close(y[row, real[row]], alone[0], 2e-5)


@pytest.mark.parametrize("name", PADDED)
@torch.no_grad()
def test_logits_at_padding_are_finite(name):
    y = small(name)(**padded(name)[0])
    assert y.isfinite().all() and len(y) == 3


@pytest.mark.parametrize(("name", "kind"), [(name, kind) for name, kind in KINDS if name in CAUSAL])
@torch.no_grad()
def test_nothing_leaks_from_the_future_and_decoding_is_the_full_forward(name, kind):
    model, ids = small(name, attention=kind), ROWS[name].batch()["input_ids"]
    full = model(input_ids=ids)
    later = torch.cat([ids[:, :6], ids[:, 6:].flip(1)], 1)
    assert torch.equal(model(input_ids=later)[:, :6], full[:, :6])
    hidden, state, parts = model.encode(input_ids=ids), model.new_state(3), []
    for chunk in ids.split([4, 1, 1, 3, 2], 1):
        parts.append(model.encode(input_ids=chunk, state=state))
    close(torch.cat(parts, 1), hidden, 2e-5)


# -- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"embed_dim": 64}, r"no field 'embed_dim'; did you mean 'width'\?"),
        ({"num_attention_heads": 4}, r"no field 'num_attention_heads'; did you mean 'heads'\?"),
        ({"dept": 3}, r"no field 'dept'; did you mean 'depth'\?"),
        ({"attention": "preformer"}, r"unknown attention 'preformer'; did you mean 'performer'\?"),
        ({"attention": {"kind": "local", "wind": 3}}, r"LocalAttention has no option 'wind'; did you mean 'window'\?"),
        ({"attention": ["softmax"] * 3}, r"got 3 kinds for 2 layers"),
        ({"attention": "nowhere:Mine"}, r"nowhere"),
        ({"mixer": "mambo"}, r"unknown mixer 'mambo'"),
        ({"heads": 5}, r"width=32.*heads=5|heads=5.*width=32"),
        ({"kv_heads": 3}, r"heads=4.*kv_heads=3"),
        ({"act": "gelo"}, r"act='gelo' is unknown; did you mean 'gelu'\?"),
        ({"width": "wide"}, r"width='wide' should be int"),
        ({"depth": 2.5}, r"depth=2.5 should be int"),
        ({"depth": True}, r"depth=True should be int"),
        ({"head": "nose"}, r"head='nose'"),
        ({"head": "classify", "num_classes": 0}, r"num_classes=0"),
        ({"depth": 0}, r"depth=0"),
        ({"width": -32}, r"width=-32"),
        ({"kv_heads": 0}, r"kv_heads=0"),
        ({"drop_path": 1.5}, r"drop_path=1.5"),
        ({"dropout": -0.1}, r"dropout=-0.1"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_invalid_overrides_are_named(name, overrides, message):
    with pytest.raises((ValueError, ModuleNotFoundError), match=message):
        small(name, **overrides)


def test_unknown_names():
    with pytest.raises(ValueError, match="no modality 'vison'; did you mean 'vision'"):
        zoo.list_models(modality="vison")
    with pytest.raises(AttributeError, match="did you mean 'create_model'"):
        zoo.create_modl  # noqa: B018
    with pytest.raises(ValueError, match="vit_cifar_tiny has no published weights"):
        zoo.create_model("vit_cifar_tiny", pretrained=True)


@pytest.mark.parametrize("name", SMALL)
def test_unused_inputs_raise_with_an_alternative(name):
    model, batch = small(name), ROWS[name].batch()
    for key, way in (("labels", "cross_entropy"), ("output_attentions", "zoo.capture"), ("use_cache", "state")):
        with pytest.raises(ValueError, match=f"does not use '{key}'.*{way}"):
            model(**batch, **{key: True})
    wrong = next(iter(batch))[:-1]
    with pytest.raises(ValueError, match=f"does not use '{wrong}'; did you mean"):
        model(**{wrong: batch[wrong + batch_end(batch, wrong)]})
    if "token_type_ids" not in model.inputs and "input_ids" in batch:
        with pytest.raises(ValueError, match="does not use 'token_type_ids'"):
            model(**batch, token_type_ids=torch.zeros_like(batch["input_ids"]))


@pytest.mark.parametrize("name", [name for name in SMALL if family(name).model.forward is not zoo.Model.forward])
def test_a_missing_input_is_named(name):
    model = small(name)
    with pytest.raises(ValueError, match=f"{model.inputs[0]}.*'{model.inputs[0]}' is missing: model.preprocess"):
        model()


def batch_end(batch: dict, beginning: str) -> str:
    return next(key for key in batch if key.startswith(beginning))[len(beginning) :]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"image_size": 30}, r"image_size=\(30, 30\) is not a multiple of patch_size=\(4, 4\); use \(28, 28\)"),
        ({"patch_size": 5, "stem": "patch"}, r"not a multiple of patch_size=\(5, 5\)"),
        ({"patch_size": (4, 8)}, r"stem='conv'.*got \(4, 8\)"),
        ({"pool": "cls"}, r"class_token=False.*pool='mean'"),
        ({"pool": "median"}, r"pool='median' should be one of 'cls', 'mean', 'cls_mean'"),
        ({"position_prefix": 3}, r"position_prefix=3"),
        ({"image_size": 0}, r"image_size"),
        ({"patch_size": 0}, r"patch_size"),
        ({"in_chans": 0}, r"in_chans=0"),
    ],
)
def test_image_options_that_do_not_fit_are_named(overrides, message):
    with pytest.raises(ValueError, match=message):
        small("vit", **overrides)


def test_images_of_a_wrong_shape_raise_and_of_a_wrong_range_warn():
    model = small("vit")
    with pytest.raises(ValueError, match=r"expected pixel_values \[B, 3, 32, 32\], got \(2, 1, 32, 32\).*in_chans="):
        model(torch.randn(2, 1, 32, 32))
    with pytest.raises(ValueError, match=r"images are 32 x 40, but the model expects 32 x 32.*image_size="):
        model(torch.randn(2, 3, 32, 40))
    with pytest.raises(ValueError, match=r"expected pixel_values"):
        model(torch.randn(3, 32, 32))
    for odd, what in (
        (torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8), "integers"),
        (torch.rand(2, 3, 32, 32) * 255, "as in 8-bit images"),
        (torch.rand(2, 3, 32, 32), "unnormalized"),
    ):
        with pytest.warns(UserWarning, match=what):
            small("vit")(odd)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        small("vit")(torch.randn(2, 3, 32, 32))


def test_other_sizes_and_channels():
    model = small("vit", image_size=(16, 40), in_chans=1, num_classes=4, stem="patch", patch_size=(8, 4))
    assert model(torch.randn(2, 1, 16, 40)).shape == (2, 4)


def test_num_classes_adds_a_classifier():
    """DINOv2 is published without a head: num_classes=10 asks for one, it is not ignored."""
    tiny = dict(width=32, depth=1, heads=2, image_size=28)
    model = zoo.create_model("vit_small_patch14_dinov2", num_classes=10, **tiny)
    assert model(torch.randn(1, 3, 28, 28)).shape == (1, 10)
    assert zoo.create_model("vit_small_patch14_dinov2", **tiny).config.head == "pool"
    with pytest.raises(ValueError, match="num_classes"):
        zoo.create_model("vit_small_patch14_dinov2", head="classify", **tiny)
