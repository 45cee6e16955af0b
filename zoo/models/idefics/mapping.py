"""Mapping of Idefics to transformers: config keys and tensor names, in both directions."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo.models.config import Config
from zoo.models.family import Family, config_of
from zoo.models.llama.mapping import KEYS as LLAMA_KEYS
from zoo.models.llama.mapping import TABLE as LLAMA_TABLE
from zoo.models.llama.mapping import read_rope, write_rope
from zoo.models.mapping.bridge import BridgeMapping
from zoo.models.mapping.config_keys import CheckpointMapping, differences
from zoo.models.mapping.towers import prefixed, tower_values
from zoo.models.registry import family
from zoo.models.tower_config import Part
from zoo.models.vit.clip_mapping import CLIP_IMAGE, VISION_KEYS, VISION_TABLE, read_edges
from zoo.utils.errors import LoadError

MODEL = "model."
TEXT = CheckpointMapping(
    name="idefics",
    base=MODEL,
    keys="\n".join(
        line for line in LLAMA_KEYS.splitlines() if not line.split()[:1] or line.split()[0] not in
        ("vocab_size", "kv_heads", "head_dim", "attention_dropout")
    ),
    table=LLAMA_TABLE,
    defaults=dict(
        vocab_size=32000, max_length=2048, width=4096, depth=32, heads=32, mlp_dim=11008, norm_eps=1e-6,
        bos_token_id=1, eos_token_id=2, pad_token_id=0,
    ),
    only={"dropout": (0.0,)},
    read=lambda fields, theirs: read_rope(theirs),
    write=write_rope,
)  # fmt: skip
VISION = CheckpointMapping(
    name="idefics_vision",
    keys=VISION_KEYS.replace("= hidden_size", "= embed_dim"),
    table=VISION_TABLE,
    defaults=CLIP_IMAGE
    | dict(
        image_size=224, patch_size=14, width=768, depth=32, heads=16, mlp_dim=5120, norm_eps=1e-5, head=None,
        position_antialias=False,
    ),
    aliases={"hidden_size": "embed_dim"},
    read=read_edges,
)  # fmt: skip

# ours = theirs [their_value=our_value ...]
KEYS = """
    cross_interval = cross_layer_interval
    cross_qk_norm  = qk_layer_norms
    gate           = alpha_type             float=scalar vector=channel
"""
RESAMPLER_KEYS = """
    resampler_tokens   = resampler_n_latents
    resampler_depth    = resampler_depth
    resampler_heads    = resampler_n_heads
    resampler_head_dim = resampler_head_dim
    resampler_qk_norm  = qk_layer_norms_perceiver
"""
OWN = CheckpointMapping(
    name="idefics", keys=KEYS, table="", defaults=dict(cross_interval=1, cross_qk_norm=False, gate="scalar")
)
RESAMPLER = CheckpointMapping(
    name="idefics_perceiver",
    keys=RESAMPLER_KEYS,
    table="",
    defaults=dict(
        resampler_tokens=64, resampler_depth=6, resampler_heads=16, resampler_head_dim=96, resampler_qk_norm=False
    ),
)
FREEZING = {
    "freeze_text_layers": True, "freeze_text_module_exceptions": [], "freeze_lm_head": False,
    "freeze_vision_layers": True, "freeze_vision_module_exceptions": [],
}  # fmt: skip

CROSS_TABLE = """
    gated_cross.blocks.*.norm1.weight        = model.gated_cross_attn_layers.*.input_layernorm.weight
    gated_cross.blocks.*.cross.q.weight      = model.gated_cross_attn_layers.*.cross_attn.q_proj.weight
    gated_cross.blocks.*.cross.k.weight      = model.gated_cross_attn_layers.*.cross_attn.k_proj.weight
    gated_cross.blocks.*.cross.v.weight      = model.gated_cross_attn_layers.*.cross_attn.v_proj.weight
    gated_cross.blocks.*.cross.q_norm.weight = model.gated_cross_attn_layers.*.cross_attn.q_layer_norm.weight
    gated_cross.blocks.*.cross.k_norm.weight = model.gated_cross_attn_layers.*.cross_attn.k_layer_norm.weight
    gated_cross.blocks.*.cross.out.weight    = model.gated_cross_attn_layers.*.cross_attn.o_proj.weight
    gated_cross.blocks.*.gate1.alpha         = model.gated_cross_attn_layers.*.alpha_cross_attn  {ops}
    gated_cross.blocks.*.norm2.weight        = model.gated_cross_attn_layers.*.post_attention_layernorm.weight
    gated_cross.blocks.*.mlp.gate.weight     = model.gated_cross_attn_layers.*.mlp.gate_proj.weight
    gated_cross.blocks.*.mlp.up.weight       = model.gated_cross_attn_layers.*.mlp.up_proj.weight
    gated_cross.blocks.*.mlp.down.weight     = model.gated_cross_attn_layers.*.mlp.down_proj.weight
    gated_cross.blocks.*.gate2.alpha         = model.gated_cross_attn_layers.*.alpha_dense       {ops}
    -                                        = model.gated_cross_attn_layers.*.cross_attn.rotary_emb.inv_freq
"""
RESAMPLER_TABLE = """
    connector.latents                        = model.perceiver_resampler.latents
    connector.blocks.*.mixer.memory_norm.@   = model.perceiver_resampler.blocks.*.0.context_layer_norm.@
    connector.blocks.*.norm1.@               = model.perceiver_resampler.blocks.*.0.latents_layer_norm.@
    connector.blocks.*.mixer.q.weight        = model.perceiver_resampler.blocks.*.0.q_proj.weight
    connector.blocks.*.mixer.k.weight        = model.perceiver_resampler.blocks.*.0.k_proj.weight
    connector.blocks.*.mixer.v.weight        = model.perceiver_resampler.blocks.*.0.v_proj.weight
    connector.blocks.*.mixer.q_norm.@        = model.perceiver_resampler.blocks.*.0.q_layer_norm.@
    connector.blocks.*.mixer.k_norm.@        = model.perceiver_resampler.blocks.*.0.k_layer_norm.@
    connector.blocks.*.mixer.out.weight      = model.perceiver_resampler.blocks.*.0.output_proj.weight
    connector.blocks.*.norm2.@               = model.perceiver_resampler.blocks.*.1.ln.@
    connector.blocks.*.mlp.up.weight         = model.perceiver_resampler.blocks.*.1.fc.weight
    connector.blocks.*.mlp.down.weight       = model.perceiver_resampler.blocks.*.1.c_proj.weight
    connector.blocks.norm.@                  = model.perceiver_resampler.layer_norm.@
"""


def read_gates(theirs: Mapping[str, Any]) -> dict[str, Any]:
    """The gates at first, from `alpha_initializer` and the standard deviation of the random one."""
    kind = theirs.get("alpha_initializer", "zeros")
    if kind in ("zeros", "ones"):
        return {"gate_value": float(kind == "ones"), "gate_std": 0.0}
    if kind in ("normal", "gaussian", "random"):
        return {"gate_value": 0.0, "gate_std": float(theirs.get("alphas_initializer_range", 0.0))}
    raise LoadError(f"idefics: alpha_initializer={kind!r} is not supported, only zeros, ones and normal")


def write_gates(config: Any) -> dict[str, Any]:
    """How they are made at first, which the gates in a file do not depend on; near to our config."""
    kind = "normal" if config.gate_std else "ones" if config.gate_value == 1 else "zeros"
    return {"alpha_initializer": kind, "alphas_initializer_range": config.gate_std}


@dataclass(frozen=True, kw_only=True)
class IdeficsMapping(BridgeMapping):
    """Mapping of Idefics, whose text tower has its keys among those of the whole model.

    Its vocabulary is in two tensors: that of LLaMA, and `additional_vocab_size` tokens that are for images.
    """

    def table_for(self, config: Any) -> str:
        c, vocabulary = config, config.text.config.vocab_size - config.additional_vocab_size
        words, head = "model.embed_tokens.weight", "lm_head.weight"
        if c.additional_vocab_size:
            words = f"model.embed_tokens.{{weight:{vocabulary},additional_embedding.weight}}"
            head = f"lm_head.{{weight:{vocabulary},additional_fc.weight}}"
        return (
            f"text.tokens.word.weight = {words}\ntext.head.proj.weight = {head}\n"
            + CROSS_TABLE.replace("{ops}", "row0 row0" if c.gate == "channel" else "")
            + RESAMPLER_TABLE
            + prefixed(TEXT.table, "text.", (MODEL,))
            + prefixed(VISION.table, "image.", ("model.vision_model.",))
            + ("-  = lm_head.**\n" if c.text.config.tie_word_embeddings else "")
        )

    def config(self, own: Family, values: Mapping[str, Any], file: Path) -> Config:
        try:
            vision = VISION.to_ours(family("vit").config().to_dict() | dict(VISION.defaults), self.vision(values))
            more = values.get("additional_vocab_size", 0)
            text = TEXT.to_ours(family("llama").config().to_dict() | dict(TEXT.defaults), values)
            text |= {"vocab_size": values.get("vocab_size", 32000) + more}
            fields = OWN.to_ours(dict(OWN.defaults), values) | read_gates(values)
            perceiver = values.get("perceiver_config") or {}
            if values.get("use_resampler", False):
                fields |= RESAMPLER.to_ours(dict(RESAMPLER.defaults), perceiver)
        except LoadError as error:
            raise LoadError(f"{file}: {error}") from None
        except ValueError as error:
            raise LoadError(f"{file}: {self.name}: {error}") from None
        marker = values.get("image_token_id", usual_marker(text["vocab_size"], more))
        parts = {
            "image": Part(family="vit", config=config_of(family("vit"), vision, file)),
            "text": Part(family="llama", config=config_of(family("llama"), text, file)),
        }
        fields |= {"additional_vocab_size": more, "image_token_id": marker, "feature_layer": vision["depth"] - 1}
        return config_of(own, {**parts, **fields}, file)

    @staticmethod
    def vision(values: Mapping[str, Any]) -> Mapping[str, Any]:
        """The config of the image tower."""
        return VISION._without_aliases(tower_values(values, "vision_config"))

    def values(self, own: Family, config: Any) -> dict[str, Any]:
        lost = [f"{n}: {p.family}" for n, p in config.towers.items() if p.family != {"text": "llama"}.get(n, "vit")]
        if lost or set(config.towers) != {"image", "text"}:
            raise ValueError(f"{self.architecture} cannot express towers {', '.join(lost) or ', '.join(config.towers)}")
        text, vision = config.text.config, config.image.config
        values = TEXT.to_theirs(text) | OWN.to_theirs(config) | write_gates(config) | FREEZING
        values |= {
            "vocab_size": text.vocab_size - config.additional_vocab_size,
            "additional_vocab_size": config.additional_vocab_size,
            "dropout": 0.0,
            "vision_config": VISION.to_theirs(vision),
            "use_resampler": config.resampler_tokens is not None,
            "perceiver_config": {"use_resampler": config.resampler_tokens is not None},
        }
        if config.image_token_id != usual_marker(text.vocab_size, config.additional_vocab_size):
            values["image_token_id"] = config.image_token_id
        if config.resampler_tokens is not None:
            values["perceiver_config"] |= RESAMPLER.to_theirs(config)
        again: Any = self.config(own, values, Path(self.architecture))
        for name in ("image", "text"):
            lost += [f"{name}.{field}" for field in differences(config.parts[name], again.parts[name])]
        before, after = own_fields(config), own_fields(again)
        lost += [f"{name}={before[name]!r}" for name in before if before[name] != after[name]]
        if lost:
            raise ValueError(f"{self.architecture} cannot express {', '.join(lost)}")
        return values

    def processor_files(self, files: dict[str, Any], config: Any) -> dict[str, Any]:
        files = super().processor_files(files, config)
        if (image := files.get("preprocessor_config.json")) is not None:
            files["preprocessor_config.json"] = as_idefics_processor(image)
        return files


def as_idefics_processor(image: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of an image processor as those of their class. Raises ValueError for others than a resize to a
    square."""
    size = image["size"].get("height")
    if size is None or image["do_center_crop"] or not image["do_resize"] or image["size"]["width"] != size:
        raise ValueError(
            "transformers' IdeficsImageProcessor resizes images to a square without a crop: set model.preprocess with "
            "an image processor that has fit='squash' and a square size"
        )
    kept = {name: value for name, value in image.items() if "crop" not in name}
    return kept | {"image_processor_type": "IdeficsImageProcessor", "image_size": size}


def usual_marker(vocab_size: int, additional: int) -> int | None:
    """The token of an image, which is not in their config: the second additional one, behind that around an image."""
    return vocab_size - additional + 1 if additional > 1 else None


def own_fields(config: Any) -> dict[str, Any]:
    """The fields outside the towers that affect the outputs."""
    others = ("image", "text", "audio", "gate_value", "gate_std")
    used = [name for name in config.names() if name not in others and "projector" not in name]
    if config.resampler_tokens is None:
        used = [name for name in used if not name.startswith("resampler_")]
    return {name: getattr(config, name) for name in used}


TRANSFORMERS = IdeficsMapping(
    name="idefics",
    architecture="IdeficsForVisionText2Text",
    parts={},
    table="",
    read=lambda values, towers: {},
    write=lambda config: {},
    processor="IdeficsProcessor",
    processor_values=lambda config: {},
    around="<fake_token_around_image>",
)
