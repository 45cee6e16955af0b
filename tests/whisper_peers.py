"""Tiny Whisper models of transformers in folders on disk, every parameter random, and tokenizers for them."""

import json
from pathlib import Path
from typing import Any

from peers import randomize

from zoo.preprocessing.tokenizer_training import byte_bpe

TEXTS = ["The quick brown fox jumps over the lazy dog.", " Guten Morgen, wie geht's?", "el perro, déjà vu 東京 42"] * 4
CODES = ("en", "zh", "de", "es")
FRAMES, BINS = 100, 80  # 1 s


def vocabulary(size: int = 300) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """A byte-level vocabulary trained here, and its merges."""
    from tokenizers import pre_tokenizers, trainers

    tokenizer = byte_bpe({}, [])
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(
        TEXTS, trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    )
    model = json.loads(tokenizer.to_str())["model"]
    return model["vocab"], [tuple(pair) for pair in model["merges"]]


def special_tokens(timestamps: int = 21) -> tuple[list[str], list[str]]:
    """(the special tokens of Whisper in their order, its timestamps)."""
    languages = [f"<|{code}|>" for code in CODES]
    after = ("translate", "transcribe", "startoflm", "startofprev", "nospeech", "notimestamps")
    special = ["<|endoftext|>", "<|startoftranscript|>", *languages, *(f"<|{name}|>" for name in after)]
    return special, [f"<|{i * 0.02:.2f}|>" for i in range(timestamps)]


def tokenizer(folder: Path, **options: Any) -> Any:
    """transformers' WhisperTokenizer with these tokens, saved in the folder."""
    from tokenizers import AddedToken
    from transformers import WhisperTokenizer

    vocab, merges = vocabulary()
    special, timestamps = special_tokens()
    # <|endoftext|> takes the first id after the vocabulary, as in the published files.
    made = WhisperTokenizer(vocab=vocab | {special[0]: len(vocab)}, merges=merges)
    made.add_tokens([AddedToken(token, special=True, normalized=False) for token in special[1:]], special_tokens=True)
    made.add_tokens([AddedToken(token, normalized=False) for token in timestamps])
    made.set_prefix_tokens(**options)
    made.init_kwargs |= options
    made.save_pretrained(folder)
    return made


def ids_of(made: Any) -> dict[str, Any]:
    """The settings of generation_config.json that a tokenizer decides."""
    ids = made.convert_tokens_to_ids
    return {
        "decoder_start_token_id": ids("<|startoftranscript|>"), "eos_token_id": ids("<|endoftext|>"),
        "bos_token_id": ids("<|endoftext|>"), "pad_token_id": ids("<|endoftext|>"),
        "lang_to_id": {f"<|{code}|>": ids(f"<|{code}|>") for code in CODES},
        "task_to_id": {task: ids(f"<|{task}|>") for task in ("translate", "transcribe")},
        "no_timestamps_token_id": ids("<|notimestamps|>"), "is_multilingual": True,
        "max_initial_timestamp_index": 6, "prev_sot_token_id": ids("<|startofprev|>"),
        "suppress_tokens": [1, 2, 7, ids("<|startoftranscript|>"), ids("<|translate|>"), ids("<|transcribe|>")],
        "begin_suppress_tokens": [220, ids("<|endoftext|>")], "return_timestamps": False,
    }  # fmt: skip


def transformers_whisper(
    folder: Path, name: str = "WhisperForConditionalGeneration", seed: int = 0, **options: Any
) -> Any:
    """A tiny model of transformers, with processor and generation config, saved in the folder."""
    import transformers

    made = tokenizer(folder)
    settings = ids_of(made)
    sizes = dict(
        vocab_size=len(made), num_mel_bins=BINS, d_model=32, encoder_layers=2, decoder_layers=2,
        encoder_attention_heads=4, decoder_attention_heads=2, encoder_ffn_dim=48, decoder_ffn_dim=64,
        max_source_positions=FRAMES // 2, max_target_positions=48,
        **{key: settings[key] for key in ("decoder_start_token_id", "eos_token_id", "bos_token_id", "pad_token_id")},
    )  # fmt: skip
    cls = getattr(transformers, name)
    model = randomize(cls(cls.config_class(**sizes | options)), seed)
    if model.can_generate():
        model.generation_config = transformers.GenerationConfig(**settings)
    model.save_pretrained(folder)
    transformers.WhisperFeatureExtractor(BINS, chunk_length=FRAMES // 100).save_pretrained(folder)
    return model.eval()
