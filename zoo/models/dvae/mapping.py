"""Mapping of discrete VAEs to transformers: the image codebook of FLAVA, which is the encoder of DALL-E's dVAE."""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from zoo.models.mapping.config_keys import CheckpointMapping
from zoo.utils.errors import LoadError

GROUPS = 4  # of their networks, whatever `num_groups` says

BLOCKS = "".join(
    f"""
    encoder.groups.{g}.*.skip.@    = ~blocks.group_{g + 1}.group.block_*+1.id_path.@
    encoder.groups.{g}.*.convs.0.@ = ~blocks.group_{g + 1}.group.block_*+1.res_path.path.conv_1.@
    encoder.groups.{g}.*.convs.1.@ = ~blocks.group_{g + 1}.group.block_*+1.res_path.path.conv_2.@
    encoder.groups.{g}.*.convs.2.@ = ~blocks.group_{g + 1}.group.block_*+1.res_path.path.conv_3.@
    encoder.groups.{g}.*.convs.3.@ = ~blocks.group_{g + 1}.group.block_*+1.res_path.path.conv_4.@
"""
    for g in range(GROUPS)
)
TABLE = f"""
    encoder.stem.@ = ~blocks.input.@
{BLOCKS}
    encoder.out.@  = ~blocks.output.conv.@
"""

KEYS = """
    in_chans   = input_channels
    vocab_size = vocab_size
    depth      = num_blocks_per_group
"""
# Of the class, for keys that a file omits; the published codebook reads images of 112 x 112.
DEFAULTS: dict[str, Any] = dict(
    image_size=112, in_chans=3, vocab_size=8192, depth=2, widths=(256, 512, 1024, 2048), resample="pool",
    quantizer="gumbel", loss="laplace", code_width=None,
)  # fmt: skip


NOT_READ = ("code_width", "temperature", "straight_through", "ema_decay")


def read(fields: dict[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    """The widths, each twice the one before."""
    width = theirs.get("hidden_size", 256)
    return {"widths": tuple(width * 2**g for g in range(GROUPS))}


def write(config: Any) -> dict[str, Any]:
    widths = config.widths
    if config.resample != "pool" or config.quantizer != "gumbel":
        raise ValueError(f"resample={config.resample!r} with quantizer={config.quantizer!r}")
    if len(widths) != GROUPS or any(b != 2 * a for a, b in pairwise(widths)):
        raise ValueError(f"widths={widths} (it has {GROUPS} widths, each twice the one before)")
    return {"hidden_size": widths[0], "num_groups": GROUPS}


def rewrite(config: Any) -> Any:
    """The same encoder with the usual values of what only training, a decoder or another quantizer reads."""
    usual = {name: type(config).__dataclass_fields__[name].default for name in NOT_READ} | {"image_size": 112}
    return config.replace(**usual | {"loss": "laplace"}) if config.head is None else config


def read_flava(fields: dict[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    """The codebook of a whole FLAVA model. Raises LoadError for a model without one."""
    if not theirs.get("init_codebook", True):
        raise LoadError("flava: init_codebook=False: this model has no image codebook, the part of it that is read")
    return FLAVA_IMAGE_CODEBOOK.to_ours(fields, theirs.get("image_codebook_config") or {})


FLAVA_IMAGE_CODEBOOK = CheckpointMapping(
    name="flava_image_codebook",
    keys=KEYS,
    table=TABLE,
    defaults=DEFAULTS,
    heads={"FlavaImageCodebook": {"head": None}},
    only={"num_groups": (GROUPS,)},
    read=read,
    write=write,
    rewrite=rewrite,
)
FLAVA = CheckpointMapping(
    name="flava",
    base="image_codebook.",
    keys="",
    table=TABLE
    + """
    -              = flava.**
    -              = mim_head.**
    -              = mlm_head.**
    -              = itm_head.**
    -              = mmm_image_head.**
    -              = mmm_text_head.**
""",
    defaults=DEFAULTS,
    heads={"FlavaForPreTraining": {"head": None}},
    read=read_flava,
)

MAPPINGS = {"transformers": (FLAVA_IMAGE_CODEBOOK, FLAVA)}
