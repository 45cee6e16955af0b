"""Every family at a size for tests of plans: a model in float64 with random weights, a batch, and its gradients."""

import warnings
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.tensor import DTensor, Shard

import zoo
from zoo.models.example_batch import example_batch
from zoo.models.registry import families, family
from zoo.models.tower_config import TowersConfig

SIZES: dict[str, Any] = dict(
    width=16, depth=2, heads=4, kv_heads=None, head_dim=None, mlp_dim=24, vocab_size=50, max_length=40, dropout=0.0,
    attention_dropout=0.0, conv_channels=(8, 8), conv_kernels=(10, 3), conv_strides=(5, 4), position_kernel=6,
    position_groups=4, image_size=16, patch_size=8, mel_bins=16, decoder_depth=1, text_depth=1, text_vocab_size=40,
    text_length=5, image_vocab_size=20, image_grid=(2, 3), decoder_width=16, projection_dim=8, pooler_queries=4,
    pooler_heads=4, text_dropout=0.0,
)  # fmt: skip
OWN: dict[str, dict[str, Any]] = {
    "ast": dict(max_length=21, stride=(4, 5)),
    "whisper": dict(frames=22),
    "longformer": dict(attention_window=4),
    "bigbird": dict(block_size=1, num_random_blocks=1),
    "gemma": dict(kv_heads=2, window=4, global_every=2),
    "llama": dict(kv_heads=2),
    "granite": dict(mixer=None, kv_heads=1),
    "rnn_seq2seq": dict(mlp_dim=None),
    "dvae": dict(widths=(8, 8), vocab_size=11, depth=1),
    "t5": dict(head_dim=4),
    "marian": dict(pad_token_id=49),
    "idefics": dict(image_token_id=7, additional_vocab_size=0, gate_value=0.5, resampler_heads=4, resampler_head_dim=4),
    **{name: dict(image_token_id=7) for name in ("bridge", "llava", "llava_next", "paligemma")},
}  # fmt: skip
# Of graphs a batch has no rows that processes could divide.
FAMILIES = tuple(f.name for f in families() if f.modality != "graph")


def variant_of(name: str) -> str:
    """A small variant of a family."""
    variants = family(name).variants
    if name == "dvae":
        return "vqvae_tiny"  # the other draws random numbers
    return next((v for v in variants if v.endswith(("_nano", "_tiny"))), next(iter(variants)))


def small(name: str, **overrides: Any) -> zoo.Model:
    """A model of a family in float64, whose parameters are all random."""
    own, variant = family(name), variant_of(name)
    config = own.config(**own.variants[variant])
    sizes = {key: value for key, value in SIZES.items() if key in config.names()}
    for part, of_part in config.parts.items() if isinstance(config, TowersConfig) else ():
        sizes |= {f"{part}.{key}": value for key, value in SIZES.items() if key in of_part.names()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = zoo.create_model(variant, seed=0, **sizes | OWN.get(name, {}) | overrides).double()
    with torch.no_grad():
        for i, (key, value) in enumerate(model.named_parameters()):
            noise = torch.randn(value.shape, dtype=value.dtype, generator=torch.Generator().manual_seed(i))
            around = 1.0 if "norm" in key and key.endswith("weight") else 0.0
            value.copy_(around + noise * (0.3 if value.ndim < 2 else value[0].numel() ** -0.5))
    return model


def batch_of(model: zoo.Model) -> dict[str, Any]:
    """Four rows; those of texts have different lengths."""
    pairs = [example_batch(model, seed) for seed in (0, 1)]
    batch = {name: torch.cat([pair[name] for pair in pairs]) for name in pairs[0]}
    batch = {name: x.double() if x.is_floating_point() else x for name, x in batch.items()}
    if "attention_mask" in model.inputs and "input_ids" in batch and "pixel_values" not in batch:
        size = batch["input_ids"].shape[1]
        lengths = torch.tensor([size, size // 2, size - 1, 2])
        batch["attention_mask"] = (torch.arange(size) < lengths[:, None]).long()
    return batch


def loss_of(model: Any, output: Any, group: dist.ProcessGroup | str = "local") -> Tensor:
    """A number that all outputs have a part in, a mean over rows. group: of processes with parts of a batch."""
    if hasattr(output, "pairs"):
        return model.loss(output, group=group)
    return sum((x * x).mean() if x.ndim else x for x in tensors_of(output))  # type: ignore[return-value]


def tensors_of(output: Any) -> list[Tensor]:
    """The tensors of floating-point numbers in an output."""
    if isinstance(output, Tensor):
        return [output] if output.is_floating_point() else []
    parts = [getattr(output, f.name) for f in fields(output)] if is_dataclass(output) else output
    return [x for part in parts for x in tensors_of(part)] if isinstance(parts, list | tuple) else []


def gradients_of(
    model: nn.Module, batch: dict[str, Any], group: dist.ProcessGroup | str = "local"
) -> dict[str, Tensor]:
    """{name of a parameter: its gradient}, without those that have none."""
    loss_of(model, model(**batch), group).backward()
    return {name: value.grad for name, value in model.named_parameters() if value.grad is not None}


def part_of_this_rank(whole: Tensor, value: Tensor) -> Tensor:
    """What this process holds of a tensor that is distributed as the parameter `value`."""
    if not isinstance(value, DTensor):
        return whole
    mesh, places = value.device_mesh, list(range(value.device_mesh.ndim))
    for dim in [*places[-1:], *places[:-1]]:  # tensor parallelism divides first
        placement: Any = value.placements[dim]
        if isinstance(placement, Shard) or type(placement).__name__ == "_StridedShard":
            parts, own = whole.chunk(mesh.size(dim), placement.dim), mesh.get_local_rank(dim)
            whole = parts[own] if own < len(parts) else whole.narrow(placement.dim, 0, 0)
    return whole
