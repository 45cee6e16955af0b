"""Suggestions for an unknown model name: other spellings of our names, and families that are not in this library."""

import re
from collections.abc import Collection, Mapping
from difflib import get_close_matches

# Families of other libraries, matched at the beginning of a name. A near miss among our names would be another network.
OTHER_NAMES = """
    aimv2 beit beitv2 cait coat coatnet convmixer convnext convnextv2 crossvit davit densenet detr dino dinov3 dpt
    edgenext efficientformer efficientnet efficientnetv2 eva focalnet ghostnet hiera inception levit mae maxvit
    mlp_mixer mixer mobilenet mobilenetv2 mobilenetv3 mobilenetv4 mobilevit mvit mvitv2 nfnet owlvit poolformer pvt
    regnet resmlp resnet resnetv2 resnext rtdetr sam sam2 segformer swin swinv2 tnt twins vgg vit_hybrid vit_mae vit_msn
    vitdet volo wide_resnet xcit yolo yolos

    albert biogpt bloom camembert canine chatglm codegen command_r deberta deepseek electra
    ernie falcon flan_ul2 flaubert fnet funnel gpt_bigcode gpt_j gpt_neo gpt_neox gpt_oss gptj
    ibert jamba layoutlm led llama4 longt5 luke megatron mixtral mobilebert mpnet
    mpt nezha nystromformer olmo olmo2 openai_gpt opt pegasus phi phi3 prophetnet pythia qwen2_moe qwen2_vl
    qwen3_moe reformer rembert retribert smollm squeezebert stablelm starcoder switch_transformers transfo_xl
    ul2 umt5 xglm xlnet xmod yi

    align altclip blip2 chameleon fuyu git imagebind instructblip kosmos metaclip florence flamingo
    lxmert pix2struct qwen2_audio stable_diffusion trocr vilt visualbert xclip

    audiomae bark beats clap conformer data2vec encodec fastspeech hts htsat mms musicgen panns sew sew_d speecht5
    unispeech unispeech_sat univnet vits wav2vec2_bert wav2vec2_conformer wavlm
"""
OTHER_FAMILIES = frozenset(OTHER_NAMES.split())
# Families that are also a part of ViT names: "vit_small_patch16_dinov3".
OTHER_WORDS = frozenset({"dinov3"})

SIZES = {"ti": "tiny", "s": "small", "b": "base", "l": "large", "h": "huge", "g": "giant"}
# Patterns of names in papers, torchvision, open_clip, torch.hub and transformers (lower case), and our names for them.
SPELLINGS = (
    (r"vit_?(ti|s|b|l|h)_?(\d+)", ("vit_{size}_patch{patch}_224", "clip_vit_{size}_patch{patch}")),
    (r"dinov2_vit(s|b|l|g)(14)", ("vit_{size}_patch{patch}_dinov2",)),
    (r"dinov2_vit(s|b|l|g)(14)_reg", ("vit_{size}_patch{patch}_reg4_dinov2",)),
    (r"dinov2_(small|base|large|giant)()", ("vit_{size}_patch14_dinov2",)),
    (r"dinov2_with_registers_(small|base|large|giant)()", ("vit_{size}_patch14_reg4_dinov2",)),
)


def missing_family(name: str) -> str | None:
    """The family of another library that a model name begins with: "swin" of "swin_tiny_patch4_window7_224"."""
    spelled = _spelled(name)
    if word := next((word for word in spelled.split("_") if word in OTHER_WORDS), None):
        return word
    ends = [i for i in range(1, len(spelled) + 1) if i == len(spelled) or not spelled[i].isalpha()]
    return next((spelled[:end] for end in reversed(ends) if spelled[:end] in OTHER_FAMILIES), None)


def suggestion(name: str, variants: Collection[str], sources: Mapping[str, str]) -> str:
    """`"; did you mean 'vit_base_patch16_224'?"`, or an empty string if no model name is near.

    variants: all model names. sources: {model name: hub repository}, whose names are understood, too.
    """
    spelled = _spelled(name)
    repositories = {_spelled(source): variant for variant, source in sources.items()}
    if spelled in variants:
        near = [spelled]
    elif spelled in repositories:
        near = [repositories[spelled]]
    elif longer := [variant for variant in variants if variant.startswith(f"{spelled}_")]:
        if len(longer) > 3:
            return f"; did you mean one of zoo.list_models('{spelled}_*')?"
        near = longer
    else:
        near = _known_spellings(name, variants) or get_close_matches(spelled, variants, n=1, cutoff=0.5)
    return f"; did you mean {' or '.join(map(repr, near))}?" if near else ""


def _spelled(name: str) -> str:
    """A name without its hub organization and its tag of pretrained weights, as our names are spelled."""
    last = name.rpartition("/")[2]
    return re.sub(r"[-\s]+", "_", re.sub(r"(?<=[a-z0-9])\.[a-z]\w*$", "", last).lower())


def _known_spellings(name: str, variants: Collection[str]) -> list[str]:
    spelled = re.sub(r"[-/\s]+", "_", name.lower())  # "ViT-B/16" has a slash that does not end an organization
    for pattern, ours in SPELLINGS:
        if match := re.fullmatch(pattern, spelled) or re.fullmatch(pattern, _spelled(name)):
            size, patch = SIZES.get(match[1], match[1]), match[2]
            return [known for each in ours if (known := each.format(size=size, patch=patch)) in variants]
    return []
