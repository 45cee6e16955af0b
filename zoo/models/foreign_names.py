"""Names of timm's, transformers' and open_clip's models that ours do not have, and what to use instead."""

from typing import Any

ENCODE = "model.encode(**inputs) returns the hidden states after the final norm"
LAYERS = "use model.encode(**inputs, layers=[...])"
TOWERS = "the model has no tower for it: model.encode returns hidden states, zoo.contrast combines two encoders"
SAVE = "use zoo.save(model, folder), or zoo.export(model, folder, format='transformers')"
IMAGES_ONLY = "it describes image models; model.preprocess has the preprocessing of this one"

# Attributes and methods of their models.
MODEL_NAMES = {
    # transformers
    "from_pretrained": "use zoo.load(folder)",
    "save_pretrained": SAVE,
    "push_to_hub": "use zoo.push_to_hub(model, repository)",
    "generate": "use zoo.generate(model, **inputs)",
    "generation_config": "pass its values to zoo.generate(model, **inputs, temperature=..., max_new_tokens=...)",
    "id2label": "model.labels has the names of the classes",
    "label2id": "model.labels has the names of the classes",
    "num_labels": "use model.num_classes",
    "gradient_checkpointing_enable": "use model.set_checkpointing(True)",
    "gradient_checkpointing_disable": "use model.set_checkpointing(False)",
    "resize_token_embeddings": "create or load the model with another vocab_size=",
    "tie_weights": "weights are tied when a model is created or loaded, and stay so",
    "get_input_embeddings": "model.tokens.word has the embeddings of tokens",
    "num_parameters": "use sum(p.numel() for p in model.parameters()), or zoo info MODEL",
    "get_output_embeddings": "model.head.proj is the output layer",
    "set_attn_implementation": "load the model with attention=...; fused kernels are used where they apply",
    "add_adapter": "use zoo.tasks.add_lora(model), or peft.get_peft_model(model, ...)",
    "lm_head": "model.head is the head",
    "score": "model.head is the head, model.head.proj its last layer",
    "classifier": "model.head is the head, model.head.proj its last layer",
    "pooler": "model.head pools",
    "embeddings": "model.embed(...) embeds; model.tokens and model.patches hold the weights",
    "encoder": "model.blocks holds the layers",
    "decoder": "model.blocks holds the layers",
    "get_image_features": "use model.encode_image(...), of a model with an image tower",
    "get_text_features": "use model.encode_text(...), of a model with a text tower",
    "get_audio_features": "use model.encode_audio(...), of a model with an audio tower",
    "vision_model": "model.image is the image tower",
    "text_model": "model.text is the text tower",
    "tokenizer": "model.preprocess(texts) tokenizes",
    "processor": "model.preprocess makes the inputs",
    # attributes of the outputs of transformers' models
    "logits": "the output of the model is the tensor of logits itself",
    "last_hidden_state": ENCODE,
    "hidden_states": LAYERS,
    "attentions": "use `with zoo.capture(model) as maps:`",
    "pooler_output": "load the model with head='pool'",
    # open_clip
    "encode_image": TOWERS,
    "encode_text": TOWERS,
    "encode_audio": TOWERS,
    "lock_image_tower": "use model.lock('image', number of groups that are trained)",
    "lock_text_tower": "use model.lock('text', number of groups that are trained)",
    "visual": "model.image is the image tower",
    "transformer": "model.blocks holds the layers",
    # timm
    "forward_features": ENCODE,
    "forward_head": "the towers have it: model.tower('image').forward_head(x)",
    "forward_intermediates": LAYERS,
    "feature_info": LAYERS,
    "pretrained_cfg": IMAGES_ONLY,
    "default_cfg": IMAGES_ONLY,
    "get_classifier": "the model has no classifier; zoo.zero_shot classifies with it",
    "reset_classifier": "the model has no classifier; zoo.zero_shot classifies with it",
    "num_classes": "the model has no classifier; zoo.zero_shot classifies with it",
    "head_hidden_size": "the model has no classifier; model.config.width is the width of its features",
    "no_weight_decay": "use zoo.tasks.param_groups(model, ...)",
    "group_matcher": "use zoo.tasks.param_groups(model, layer_decay=..., ...)",
    "set_input_size": "load the model with image_size=",
    "grad_checkpointing": "use model.set_checkpointing(True)",
    "embed_dim": "use model.config.width",
    "num_prefix_tokens": "use model.patches.prefix",
    "patch_embed": "model.patches embeds the patches",
    "cls_token": "use model.patches.cls",
    "dist_token": "use model.patches.dist",
    "reg_token": "use model.patches.registers",
    "pos_embed": "use model.patches.positions",
    "fc_norm": "use model.head.norm",
    "norm": "use model.blocks.norm",
    "head_dist": "use model.head.proj_dist",
}

# Attributes of transformers' configs that are not fields of ours under another name.
CONFIG_NAMES = {
    "id2label": "model.labels has the names of the classes",
    "label2id": "model.labels has the names of the classes",
    "architectures": "config.head says which head the model has",
    "torch_dtype": "model.dtype is the type of the weights",
    "dtype": "model.dtype is the type of the weights",
    "use_cache": "zoo.generate decodes with a cache",
    "output_attentions": "use `with zoo.capture(model) as maps:`",
    "output_hidden_states": LAYERS,
    "vision_config": "config.image is the config of the image tower",
    "text_config": "config.text is the config of the text tower",
    "audio_config": "config.audio is the config of the audio tower",
}

# Attributes of transformers' configs that work, as they are exactly a field of ours.
CONFIG_ALIASES = {"hidden_size": "width", "num_hidden_layers": "depth", "num_attention_heads": "heads"}

# What peft looks up in a config, by the name of the family, if it is not given.
CONFIG_KEYS = {
    "model_type": "peft has default target_modules only for transformers' families: name the layers, e.g. "
    "LoraConfig(target_modules=['q', 'v']); the linear layers of a block are q, k, v and out, those of its MLP up and "
    "down (IA3Config also takes feedforward_modules=['down'])",
}


class ConfigDict(dict[str, Any]):
    """The fields of a config; other names that libraries look up raise with what to do."""

    def __missing__(self, key: str) -> Any:
        raise MissingKey(CONFIG_KEYS[key]) if key in CONFIG_KEYS else KeyError(key)


class MissingKey(KeyError):
    """A KeyError with a sentence, which KeyError itself prints in quotes."""

    def __str__(self) -> str:
        return str(self.args[0])


class Absent:
    """An inherited attribute that a class does not have: `name = Absent()` in its body."""

    def __get__(self, instance: object, owner: type) -> Any:
        raise AttributeError(f"{owner.__name__} does not have this attribute")
