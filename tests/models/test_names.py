"""Suggestions for unknown model names, family names and config fields."""

import pytest

import zoo
from zoo.models.config import FOREIGN_NAMES
from zoo.models.mapping.config_keys import CheckpointMapping, key_lines
from zoo.models.names import OTHER_FAMILIES, OTHER_WORDS, missing_family
from zoo.models.registry import families, family, family_names

TYPOS = {
    "vit_bse_patch16_224": "vit_base_patch16_224",
    "gpt_nan": "gpt_nano",
    "bert-base": "bert_base",
    "bert-base-uncased": "bert_base",
    "gpt2-medium": "gpt2_medium",
    "google/vit-base-patch16-224": "vit_base_patch16_224",
    "vit_base_patch16_224.augreg2_in21k_ft_in1k": "vit_base_patch16_224",
    "openai/clip-vit-base-patch32": "clip_vit_base_patch32",
    "all-MiniLM-L6-v2": "minilm_l6",
    "meta-llama/Llama-3.2-1B": "llama32_1b",
    "xlm-roberta-base": "xlm_roberta_base",
    "ViT-B/16": "vit_base_patch16_224",
    "ViT-B-32": "vit_base_patch32_224' or 'clip_vit_base_patch32",
    "vit_l_16": "vit_large_patch16_224",
    "dinov2_vitb14_reg": "vit_base_patch14_reg4_dinov2",
    "facebook/dinov2-with-registers-large": "vit_large_patch14_reg4_dinov2",
    "t5-small": "t5_small",
    "google/flan-t5-base": "flan_t5_base",
    "google/t5-v1_1-large": "t5_v1_1_large",
}

OTHERS = {
    "swin_tiny_patch4_window7_224": "swin",
    "swinv2_base_window8_256": "swinv2",
    "convnext-tiny": "convnext",
    "resnet50": "resnet",
    "efficientnet_b0": "efficientnet",
    "eva02_base_patch14_224": "eva",
    "dino_vitb16": "dino",
    "vit_small_patch16_dinov3": "dinov3",
    "facebook/dinov3-vits16-pretrain-lvd1689m": "dinov3",
    "facebook/vit-mae-base": "vit_mae",
    "clap": "clap",
    "laion/clap-htsat-unfused": "clap",
    "albert-base-v2": "albert",
    "microsoft/deberta-v3-base": "deberta",
    "google/umt5-small": "umt5",
    "google/flan-ul2": "flan_ul2",
    "facebook/opt-125m": "opt",
    "phi-2": "phi",
    "wav2vec2-bert-2.0": "wav2vec2_bert",
    "stable-diffusion-v1-5": "stable_diffusion",
}


@pytest.mark.parametrize(("name", "expected"), TYPOS.items())
def test_another_spelling_suggests_our_name(name, expected):
    with pytest.raises(ValueError, match=f"no model '{name}'; did you mean '{expected}'"):
        zoo.create_model(name)


def test_the_beginning_of_many_names_suggests_the_list():
    with pytest.raises(ValueError, match=r"did you mean one of zoo\.list_models\('vit_base_\*'\)"):
        zoo.create_model("vit_base")
    with pytest.raises(ValueError, match="did you mean 'qwen2_0_5b' or 'qwen2_1_5b' or 'qwen2_7b'"):
        zoo.create_model("qwen2")


@pytest.mark.parametrize(("name", "other"), OTHERS.items())
def test_a_family_of_another_library_is_named_without_a_suggestion(name, other):
    with pytest.raises(
        ValueError, match=f"the family '{other}' is not in this library. Its families are ast, bart"
    ) as e:
        zoo.create_model(name)
    assert "did you mean" not in str(e.value) and all(known in str(e.value) for known in family_names())


def test_families_of_other_libraries_are_not_near_ours():
    with pytest.raises(ValueError, match="no family 'albert' "):
        family("albert")
    with pytest.raises(ValueError, match="no family 'brt'; did you mean 'bert'"):
        family("brt")
    assert {"swin", "clap", "albert", "umt5", "wavlm"} <= OTHER_FAMILIES
    assert OTHER_FAMILIES.isdisjoint(family_names()) and OTHER_WORDS <= OTHER_FAMILIES


def test_our_names_and_repositories_are_not_taken_for_other_families():
    for f in families():
        for name in (f.name, *f.variants, *f.sources.values()):
            assert missing_family(name) is None, name


KEYS = {
    (f.name, theirs): ours
    for f in families()
    for found in f.mappings.values()
    for mapping in (found if isinstance(found, tuple) else (found,))
    if isinstance(mapping, CheckpointMapping)
    for ours, theirs, _ in key_lines(mapping.keys)
    if theirs not in f.config.names() and "." not in theirs  # keys of a part of their config
}


@pytest.mark.parametrize(("name", "theirs"), KEYS)
def test_a_config_key_of_timm_or_transformers_suggests_our_field(name, theirs):
    with pytest.raises(ValueError, match=f"no field '{theirs}'; did you mean '{KEYS[name, theirs]}'"):
        family(name).config().replace(**{theirs: 1})


@pytest.mark.parametrize(
    ("name", "theirs", "ours"),
    [
        ("vit", "mlp_ratio", "mlp_dim"),
        ("vit", "img_size", "image_size"),
        ("vit", "layer_norm_eps", "norm_eps"),
        ("vit", "use_swiglu_ffn", "gated_mlp"),
        ("vit", "num_labels", "num_classes"),
        ("vit", "fc_norm", "pool_norm"),
        ("bert", "num_token_types", "type_vocab_size"),
        ("bert", "padding_idx", "pad_token_id"),
        ("bert", "normalize_embeddings", "normalize"),
        ("bert", "hidden", "mlp_dim"),
        ("gpt2", "tie_weights", "tie_word_embeddings"),
        ("gpt2", "block_size", "max_length"),
        ("gpt2", "resid_pdrop", "dropout"),
        ("llama", "rms_norm_eps", "norm_eps"),
        ("llama", "rope_theta", "rope_base"),
        ("llama", "sliding_window", "attention"),
        ("modernbert", "sliding_window", "window"),
        ("modernbert", "rope_theta", "rope"),
        ("wav2vec2", "pad_token_id", "blank"),
        ("wav2vec2", "do_stable_layer_norm", "order"),
        ("ast", "task_type", "problem_type"),
    ],
)
def test_a_name_of_another_library_suggests_our_field(name, theirs, ours):
    with pytest.raises(ValueError, match=f"no field '{theirs}'; did you mean '{ours}'"):
        family(name).config().replace(**{theirs: 1})


def test_foreign_names_belong_to_fields_that_exist():
    known = {name for f in families() for name in f.config.names()}
    assert set(FOREIGN_NAMES) <= known
    for ours, theirs in FOREIGN_NAMES.items():
        assert len(set(theirs.split())) == len(theirs.split()) and ours not in theirs.split()


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [("projection_dim", "width"), ("img_size", "image.image_size"), ("num_hidden_layers", "image.depth")],
)
def test_a_field_of_a_tower_is_suggested_with_its_tower(theirs, ours):
    with pytest.raises(ValueError, match=f"no field '{theirs}'; did you mean '{ours}'"):
        zoo.create_model("clip_tiny", **{theirs: 1})
