"""Options of Gemma that contradict themselves, kinds that cannot cap scores, files with layers that we do not have."""

import pytest
from decoder_peers import case
from peers import edit_json

import zoo


@pytest.mark.parametrize("options, message", [
    ({"attention_softcap": 0.0}, r"attention_softcap=0\.0: expected a positive number, or None"),
    ({"logits_softcap": -30.0}, r"logits_softcap=-30\.0: expected a positive number, or None"),
    ({"query_pre_attn_scalar": 0}, "query_pre_attn_scalar=0: expected a positive number"),
    ({"window": 0}, "window=0: expected a positive number"),
    ({"global_every": 0}, "global_every=0: expected at least 1"),
    ({"attention_softcap": 50.0, "attention": "linear"}, "LinearAttention has no scores to cap: choose 'softmax'"),
    ({"rope_scaling": {"kind": "longrope"}}, "kind='longrope' is not supported"),
    ({"softcap": 50.0}, "no field 'softcap'.*attention_softcap"),
])  # fmt: skip
def test_options_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        zoo.create_model("gemma_nano", **options)


@pytest.mark.parametrize("name, change, named", [
    ("gemma 2", {"layer_types": ["sliding_attention", "full_attention", "full_attention", "full_attention"]},
     "layer_types"),
    ("gemma 3", {"layer_types": ["full_attention"]}, "layer_types"),
    ("gemma 3", {"rope_parameters": {"sliding_attention": {"rope_type": "yarn"}}}, "yarn"),
    ("gemma 3", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping"),
    ("gemma", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
    ("gemma", {"attention_bias": True}, "attention_bias"),
])  # fmt: skip
def test_files_are_refused_by_name(tmp_path, name, change, named):
    case(tmp_path, name)
    edit_json(tmp_path / "config.json", **change)
    with pytest.raises(zoo.LoadError, match=named):
        zoo.load(tmp_path)


@pytest.mark.parametrize("options, named", [
    ({"attention": "performer"}, "attention"), ({"qk_norm": False}, "local_rope_base|qk_norm"),
    ({"local_rope_base": None, "rope_scaling": {"kind": "linear", "factor": 2.0}}, "qk_norm"),
])  # fmt: skip
def test_what_transformers_lacks_is_not_exported(tmp_path, options, named):
    with pytest.raises(ValueError, match=named):
        zoo.export(zoo.create_model("gemma_nano", **options), tmp_path)
