"""Every key of a config that changes what transformers computes is read as transformers reads it, or refused."""

import inspect
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from audio_peers import SPECTROGRAM, STABLE, WAVEFORM, noise
from clip_peers import TEXT, VISION, texts
from peers import TINY_DINO, TINY_VIT, error, pixels, randomize
from speeds import full_unless
from torch import Tensor, nn

import zoo

WORDS = {
    "vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
    "max_position_embeddings": 40, "num_labels": 5, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
DECODER = WORDS | {"num_key_value_heads": 2}
OWN_NAMES = {  # of the settings in WORDS
    "GPT2": {"hidden_size": "n_embd", "num_hidden_layers": "n_layer", "num_attention_heads": "n_head",
             "max_position_embeddings": "n_positions", "intermediate_size": "n_inner"},
    "DistilBert": {"hidden_size": "dim", "num_hidden_layers": "n_layers", "num_attention_heads": "n_heads",
                   "intermediate_size": "hidden_dim"},
}  # fmt: skip
GPT2, DISTILBERT = ({names.get(name, name): value for name, value in WORDS.items()} for names in OWN_NAMES.values())
PAIR = {"text_config": TEXT, "vision_config": VISION}
MODELS: dict[str, dict[str, Any]] = {
    "BertForSequenceClassification": WORDS,
    "RobertaForMaskedLM": WORDS,
    "DistilBertForMaskedLM": DISTILBERT,
    "GPT2LMHeadModel": GPT2,
    "LlamaForCausalLM": DECODER,
    "MistralForCausalLM": DECODER | {"sliding_window": 5},
    "Qwen2ForCausalLM": DECODER | {"sliding_window": 5, "use_sliding_window": True, "max_window_layers": 1},
    "Qwen3ForCausalLM": DECODER | {"head_dim": 8},
    "ModernBertForSequenceClassification": WORDS | {"local_attention": 8},
    "ViTForImageClassification": TINY_VIT,
    "DeiTForImageClassificationWithTeacher": TINY_VIT,
    "Dinov2ForImageClassification": TINY_DINO,
    "Dinov2WithRegistersForImageClassification": TINY_DINO,
    "CLIPVisionModel": VISION,
    "SiglipVisionModel": VISION,
    "ASTForAudioClassification": SPECTROGRAM,
    "Wav2Vec2ForCTC": WAVEFORM | STABLE,
    "Wav2Vec2ForSequenceClassification": WAVEFORM,
    "HubertForCTC": WAVEFORM,
    "CLIPModel": PAIR,
    "SiglipModel": PAIR | {"text_config": TEXT | {"projection_size": 32}},
}
ROPE = {"rope_type": "default", "rope_theta": 33.0}
# Another value of a key; else a flag is inverted, 1 is added to an integer, a number is made larger.
VALUES: dict[str, Any] = {
    **dict.fromkeys(
        ["hidden_act", "activation_function", "activation", "hidden_activation", "feat_extract_activation"], "relu"
    ),
    **dict.fromkeys(["classifier_activation", "pooler_act"], "relu"),
    **dict.fromkeys(["hidden_size", "n_embd", "dim"], 48),
    **dict.fromkeys(["num_attention_heads", "n_head", "n_heads"], 2),
    **dict.fromkeys(["layer_norm_eps", "layer_norm_epsilon", "rms_norm_eps", "norm_eps"], 0.3),
    "num_key_value_heads": 1,
    "head_dim": 16,
    "image_size": 48,
    "patch_size": 16,
    "num_channels": 1,
    "feat_extract_norm": "layer",
    "conv_dim": [8, 8, 8],
    "conv_kernel": [6, 3, 2],
    "conv_stride": [4, 2, 2],
    "num_conv_pos_embedding_groups": 2,
    "adapter_attn_dim": 8,
    "classifier_pooling": "mean",
    "n_inner": 96,
    "position_embedding_type": "relative_key",
    "problem_type": "multi_label_classification",
    "sliding_window": 2,
    "rope_scaling": {"rope_type": "linear", "factor": 4.0},
    "rope_parameters": ROPE,
    "rope_theta": 77.0,
    "partial_rotary_factor": 0.5,
    "layer_types": ["full_attention", "sliding_attention"],
    "chunk_size_feed_forward": 2,
    "layerscale_value": 0.5,
    "logit_scale_init_value": 1.0,
}
ADDED = (
    "rope_scaling", "rope_parameters", "partial_rotary_factor", "sliding_window", "layer_types",
    "position_embedding_type", "chunk_size_feed_forward",
    "is_decoder", "tie_word_embeddings", "attention_bias", "qkv_bias", "head_dim",
)  # fmt: skip
# What stands beside the model: names, what the call returns, the number of classes (id2label and the tensors say it).
BESIDE = {
    "architectures", "model_type", "transformers_version", "id2label", "label2id", "num_labels", "vision_config",
    "text_config", "return_dict", "output_attentions", "output_hidden_states", "dtype", "torch_dtype",
}  # fmt: skip


def changes(cls: Any, config: Any, raw: dict[str, Any], part: str = "") -> Iterator[tuple[str, Any]]:
    """(key, another value): of the config, of what the code of the class reads, of its other names, and `ADDED`."""
    code = inspect.getsource(sys.modules[cls.__module__])
    read = set(re.findall(r"config\.(\w+)", code)) | set(re.findall(r'getattr\((?:self\.)?config, "(\w+)"', code))
    for key in sorted((config.to_dict().keys() | read | set(config.attribute_map) | set(ADDED)) - BESIDE):
        old = raw.get(key, getattr(config, key, None))
        if key.startswith("_") or callable(old):
            continue
        value: Any = VALUES.get(key)
        if key == "rope_parameters" and config.model_type == "modernbert":
            value = {"full_attention": ROPE, "sliding_attention": ROPE}
        elif value is None and isinstance(old, bool | float | int | None):
            value = not old if isinstance(old, bool | None) else old + 1 if isinstance(old, int) else old * 1.5 + 0.1
        if value is not None and value != old:
            yield part + key, value


def batch_for(config: Any) -> dict[str, Tensor]:
    vision = getattr(config, "vision_config", config)
    batch = {}
    if hasattr(vision, "image_size"):
        batch["pixel_values"] = pixels((vision.image_size,) * 2, vision.num_channels)
    if hasattr(config, "num_mel_bins"):
        batch["input_values"] = noise(2, config.max_length, config.num_mel_bins)
    elif hasattr(config, "conv_dim"):
        batch["input_values"] = noise(2, 900)
    elif hasattr(config, "text_config"):
        batch["input_ids"] = texts()[0].clamp(min=1)
    elif not batch:
        batch["input_ids"] = torch.randint(3, 90, (2, 12), generator=torch.Generator().manual_seed(1))
    return batch


def outputs(model: nn.Module, batch: dict[str, Tensor]) -> list[Tensor]:
    with torch.no_grad():
        output = model(**batch)
    if isinstance(output, Tensor):
        return [output]
    if hasattr(output, "image_features"):
        return [output.image_features, output.text_features, output.logits("image", "text")]
    if hasattr(output, "image_embeds"):
        return [output.image_embeds, output.text_embeds, output.logits_per_image]
    return [output.logits if "logits" in output else output.pooler_output]


def changed(raw: dict[str, Any], edits: dict[str, Any]) -> dict[str, Any]:
    result = json.loads(json.dumps(raw))
    for key, value in edits.items():
        part, _, name = key.rpartition("/")
        (result[part] if part else result)[name] = value
    return result


def same(ours: list[Tensor], theirs: list[Tensor]) -> bool:
    return all(a.shape == b.shape and error(a, b) <= 1e-5 for a, b in zip(ours, theirs))


class Folder:
    """A folder with a tiny model of a class of transformers."""

    def __init__(self, path: Path, name: str) -> None:
        self.path, self.cls = path, getattr(transformers, name)
        self.base = randomize(self.cls(self.cls.config_class(**MODELS[name])))
        self.base.save_pretrained(path)
        self.raw = json.loads((path / "config.json").read_text())

    def theirs(self, edits: dict[str, Any]) -> tuple[nn.Module, bool] | None:
        """(their model with changed keys, whether it has the tensors of the folder); None where they refuse it."""
        try:
            model = self.cls(self.cls.config_class.from_dict(changed(self.raw, edits)))
            fits = {name: t.shape for name, t in model.state_dict().items()} == self.shapes
            fits = fits and not any("tie_word_embeddings" in key for key in edits)
            model = model.eval() if fits else randomize(model)
            if fits:
                model.load_state_dict(self.base.state_dict())
            outputs(model, batch_for(model.config))
        except Exception:  # of any kind
            return None
        return model, fits

    @property
    def shapes(self) -> dict[str, torch.Size]:
        return {name: tensor.shape for name, tensor in self.base.state_dict().items()}

    def load(self, path: Path, edits: dict[str, Any]) -> zoo.Model:
        (path / "config.json").write_text(json.dumps(changed(self.raw, edits)))
        return zoo.load(path).eval()


QUICK = (
    "BertForSequenceClassification", "GPT2LMHeadModel", "LlamaForCausalLM", "Qwen2ForCausalLM",
    "ViTForImageClassification", "Dinov2WithRegistersForImageClassification", "Wav2Vec2ForCTC", "CLIPModel",
)  # fmt: skip


@pytest.mark.parametrize("name", full_unless(QUICK, MODELS))
def test_a_changed_key_is_computed_or_refused(name: str, tmp_path: Path) -> None:
    folder = Folder(tmp_path / "base", name)
    batch = batch_for(folder.base.config)
    usual = outputs(folder.base, batch)
    assert same(outputs(folder.load(folder.path, {}), batch), usual)
    keys = dict(changes(folder.cls, folder.base.config, folder.raw))
    for part in folder.raw.keys() & {"vision_config", "text_config"}:
        keys |= dict(changes(folder.cls, getattr(folder.base.config, part), folder.raw[part], f"{part}/"))
    without_effect, wrong = {}, []
    for key, value in keys.items():
        if (found := folder.theirs({key: value})) is None:
            continue
        theirs, fits = found
        batch = batch_for(theirs.config)
        expected = outputs(theirs, batch)
        if fits and same(expected, usual):
            without_effect[key] = value
            continue
        path = folder.path
        if not fits:
            path = tmp_path / key.replace("/", "_")
            theirs.save_pretrained(path)
        try:
            if not same(outputs(folder.load(path, {key: value}), batch), expected):
                wrong.append(f"{key}={value!r}: other numbers")
        except zoo.LoadError as refusal:
            if key.rpartition("/")[2] not in str(refusal) and "does not fit the model" not in str(refusal):
                wrong.append(f"{key}={value!r}: {refusal}")
    batch = batch_for(folder.base.config)
    for _ in keys:  # those without an effect at once; what is refused is removed
        try:
            if not same(outputs(folder.load(folder.path, without_effect), batch), usual):
                wrong.append(f"one of {', '.join(without_effect)}: other numbers")
            break
        except zoo.LoadError as refusal:
            named = {key for key in without_effect if key.rpartition("/")[2] in str(refusal)}
            assert named, refusal
            without_effect = {key: value for key, value in without_effect.items() if key not in named}
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("name", "theirs", "ours"),
    [
        ("GPT2LMHeadModel", "num_attention_heads", "n_head"),
        ("DistilBertForMaskedLM", "num_attention_heads", "n_heads"),
        ("DistilBertForMaskedLM", "num_hidden_layers", "n_layers"),
    ],
)
def test_another_name_of_a_key_is_read(name: str, theirs: str, ours: str, tmp_path: Path) -> None:
    folder = Folder(tmp_path, name)
    folder.raw[theirs] = folder.raw.pop(ours)
    batch = batch_for(folder.base.config)
    assert same(outputs(folder.load(tmp_path, {}), batch), outputs(folder.base, batch))
    with pytest.raises(zoo.LoadError, match=f"{theirs}=1 and {ours}=2 differ"):
        folder.load(tmp_path, {theirs: 1, ours: 2})
