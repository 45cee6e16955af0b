"""Tiny decoders, every parameter random: of transformers in folders on disk, and of ours with prompts for them."""

from pathlib import Path

import torch
import torch.nn.functional as F
from peers import randomize
from torch import Tensor, nn

import zoo

SMALL = dict(vocab_size=61, max_length=64, width=32, depth=2, heads=4, mlp_dim=48)
IDS = {"pad_token_id": 1, "bos_token_id": 2, "eos_token_id": 3}
GPT2 = {"vocab_size": 99, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 40} | IDS
LLAMA = {
    "vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 48, "max_position_embeddings": 64,
} | IDS  # fmt: skip
FULL, LOCAL = ["full_attention"], ["sliding_attention"]
TINY = {"GPT2": GPT2, "Llama": LLAMA, "Mistral": LLAMA | {"sliding_window": 5}, "Qwen2": LLAMA}
TINY["Qwen3"] = LLAMA | {"head_dim": 12}
TINY["GraniteMoeHybrid"] = LLAMA | {
    "shared_intermediate_size": 48, "num_local_experts": 0, "layer_types": ["linear_attention", "full_attention"] * 2,
    "num_hidden_layers": 4, "mamba_n_heads": 4, "mamba_d_state": 8, "embedding_multiplier": 3.0,
    "residual_multiplier": 0.7, "attention_multiplier": 0.2, "logits_scaling": 2.5,
}  # fmt: skip
GEMMA = LLAMA | {"head_dim": 12, "num_hidden_layers": 4}
TINY["Gemma2"] = GEMMA | {"sliding_window": 4, "query_pre_attn_scalar": 10, "attn_logit_softcapping": 1.5}
TINY["Gemma3"] = GEMMA | {"sliding_window": 4, "query_pre_attn_scalar": 10, "layer_types": LOCAL + FULL + LOCAL + FULL}
TINY["Gemma"] = GEMMA
STATE_SPACE = {"vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4} | IDS
TINY["Mamba2"] = STATE_SPACE | {"num_heads": 8, "head_dim": 8, "n_groups": 2, "chunk_size": 8}
TINY["Mamba"] = STATE_SPACE
TINY["Rwkv"] = {"vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "context_length": 64} | IDS
NTK = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
NTK["original_max_position_embeddings"] = 32
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}

# name of a case: (transformers' class, its options)
CASES = {
    "gpt2": ("GPT2LMHeadModel", {}),
    "gpt2 untied, exact gelu": (
        "GPT2LMHeadModel", {"tie_word_embeddings": False, "activation_function": "gelu", "n_inner": 48}
    ),
    "gpt2 hidden states": ("GPT2Model", {}),
    "gpt2 classes": ("GPT2ForSequenceClassification", {}),
    "gpt2 tokens": ("GPT2ForTokenClassification", {}),
    "gpt2 answers": ("GPT2ForQuestionAnswering", {}),
    "llama": ("LlamaForCausalLM", {}),
    "llama tied, one key head": ("LlamaForCausalLM", {"tie_word_embeddings": True, "num_key_value_heads": 1}),
    "llama wide heads": ("LlamaForCausalLM", {"head_dim": 12, "rms_norm_eps": 1e-5}),
    "llama linear": ("LlamaForCausalLM", {"rope_parameters": {"rope_type": "linear", "factor": 3.0}}),
    "llama 3": ("LlamaForCausalLM", {"rope_parameters": NTK | {"rope_theta": 5e5}}),
    "llama yarn": ("LlamaForCausalLM", {"rope_parameters": YARN | {"rope_theta": 1e4}, "head_dim": 32}),
    "llama hidden states": ("LlamaModel", {}),
    "llama classes": ("LlamaForSequenceClassification", {}),
    "llama tokens": ("LlamaForTokenClassification", {}),
    "mistral": ("MistralForCausalLM", {}),
    "mistral without window": ("MistralForCausalLM", {"sliding_window": None}),
    "mistral classes": ("MistralForSequenceClassification", {}),
    "qwen2": ("Qwen2ForCausalLM", {}),
    "qwen2 window in some layers": (
        "Qwen2ForCausalLM", {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}
    ),
    "qwen2 tokens": ("Qwen2ForTokenClassification", {}),
    "qwen3": ("Qwen3ForCausalLM", {"tie_word_embeddings": True}),
    "qwen3 window": ("Qwen3ForCausalLM", {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 0}),
    "qwen3 hidden states": ("Qwen3Model", {}),
    "gemma": ("GemmaForCausalLM", {"num_key_value_heads": 1}),
    "gemma untied": ("GemmaForCausalLM", {"tie_word_embeddings": False, "rms_norm_eps": 1e-5}),
    "gemma hidden states": ("GemmaModel", {}),
    "gemma classes": ("GemmaForSequenceClassification", {}),
    "gemma tokens": ("GemmaForTokenClassification", {}),
    "gemma 2": ("Gemma2ForCausalLM", {"final_logit_softcapping": 5.0}),
    "gemma 2 without caps": ("Gemma2ForCausalLM", {"attn_logit_softcapping": None, "final_logit_softcapping": None}),
    "gemma 2 without windows": ("Gemma2ForCausalLM", {"layer_types": FULL * 4}),
    "gemma 2 classes": ("Gemma2ForSequenceClassification", {}),
    "gemma 3": ("Gemma3ForCausalLM", {"rope_parameters": {FULL[0]: {"rope_type": "linear", "factor": 3.0}}}),
    "gemma 3 local alone": ("Gemma3ForCausalLM", {"layer_types": LOCAL * 4, "final_logit_softcapping": 5.0}),
    "gemma 3 hidden states": ("Gemma3TextModel", {}),
    "gemma 3 classes": ("Gemma3TextForSequenceClassification", {}),
    "granite": ("GraniteMoeHybridForCausalLM", {"tie_word_embeddings": True}),
    "granite groups, biases": (
        "GraniteMoeHybridForCausalLM", {"mamba_n_groups": 2, "mamba_proj_bias": True, "mamba_conv_bias": False}
    ),
    "granite attention": (
        "GraniteMoeHybridForCausalLM", {"layer_types": ["full_attention"] * 4, "position_embedding_type": "rope"}
    ),
    "granite hidden states": ("GraniteMoeHybridModel", {}),
}  # fmt: skip


def decoder(folder: Path, name: str, seed: int = 0, **options) -> nn.Module:
    """A tiny model of transformers' class `name`, saved in `folder` as transformers does."""
    import transformers

    cls = getattr(transformers, name)
    tiny = next(tiny for start, tiny in TINY.items() if name.startswith(start))
    labels = 2 if name.endswith("Answering") else 3
    model = randomize(cls(cls.config_class(**tiny | {"num_labels": labels} | options)), seed)
    model.save_pretrained(folder)
    return model


def case(folder: Path, name: str, seed: int = 0) -> nn.Module:
    return decoder(folder, CASES[name][0], seed, **CASES[name][1])


def nano(name="gpt_nano", seed=0, **overrides) -> zoo.Model:
    model = zoo.create_model(name, seed=seed, **SMALL | overrides).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # fresh weights say nearly the same about every token
            if parameter.ndim > 1:
                parameter.mul_(4)
    return model


def prompt(rows=2, length=5, vocab=61, seed=1) -> Tensor:
    return torch.randint(4, vocab, (rows, length), generator=torch.Generator().manual_seed(seed))


def losses(model, dtype, lr=1e-3, steps=20) -> Tensor:
    """The losses of training steps on the same random tokens."""
    model = model.to(dtype).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.05)
    generator = torch.Generator().manual_seed(0)
    history = []
    for _ in range(steps):
        ids = torch.randint(99, (8, 16), generator=generator)
        output = model(ids)
        scores = output if isinstance(output, torch.Tensor) else output.logits
        loss = F.cross_entropy(scores[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    return torch.tensor(history, dtype=torch.float64)
