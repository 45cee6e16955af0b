"""Tiny text models of transformers, every parameter random, in folders on disk, and ragged batches for them."""

import json
from pathlib import Path

import torch
from peers import randomize
from torch import Tensor, nn

SHAPE = {
    "vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
    "max_position_embeddings": 40,
}  # fmt: skip
DISTIL = {
    "vocab_size": 99, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64, "max_position_embeddings": 40,
}  # fmt: skip
MODERN = {"num_hidden_layers": 4, "local_attention": 6, "pad_token_id": 0, "cls_token_id": 1, "sep_token_id": 2}
MODERN |= {"bos_token_id": 1, "eos_token_id": 2}
SENTENCES = [("a warm and lovely evening", "good"), ("the soup was cold", "bad"), ("what a friendly place", "good"),
             ("noisy and far too dark", "bad"), ("nothing special at all", "fair")] * 12  # fmt: skip
DECODER = {"vocab_size": 99, "num_attention_heads": 4, "hidden_size": 32, "num_hidden_layers": 2}
GPT2 = {"vocab_size": 99, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 40}
TINY = {
    "Bert": SHAPE,
    "Roberta": SHAPE | {"pad_token_id": 1, "type_vocab_size": 1, "layer_norm_eps": 1e-5},
    "XLMRoberta": SHAPE | {"pad_token_id": 1, "type_vocab_size": 1, "layer_norm_eps": 1e-5},
    "DistilBert": DISTIL,
    "ModernBert": SHAPE | MODERN,
    "Longformer": SHAPE | {"pad_token_id": 1, "type_vocab_size": 1, "layer_norm_eps": 1e-5, "attention_window": [4, 8]},
    "BigBird": SHAPE | {"max_position_embeddings": 80, "block_size": 4, "num_random_blocks": 2},
}


def transformers_text(folder: Path, name: str, seed: int = 0, **options) -> nn.Module:
    """A tiny model of transformers' class `name`, saved in `folder` as transformers does."""
    import transformers

    cls = getattr(transformers, name)
    tiny = next(tiny for start, tiny in TINY.items() if name.startswith(start))
    model = randomize(
        cls(cls.config_class(**tiny | {"num_labels": 2 if name.endswith("Answering") else 3} | options)), seed
    )
    model.save_pretrained(folder)
    return model


def save_text_tokenizer(folder: Path, kind: str) -> None:
    """A tokenizer of at most 99 tokens: WordPiece with special tokens around a text, or BPE without."""
    import transformers
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

    texts = [text for text, _ in SENTENCES]
    if kind == "wordpiece":
        special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        backend.normalizer, backend.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
        backend.train_from_iterator(texts, trainers.WordPieceTrainer(vocab_size=99, special_tokens=special))
        backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
        names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), special))
    elif kind == "roberta":
        special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
        backend = Tokenizer(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.Whitespace()
        backend.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=99, special_tokens=special))
        backend.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
        names = dict(zip(("bos_token", "pad_token", "eos_token", "unk_token", "mask_token"), special))
        names |= {"cls_token": "<s>", "sep_token": "</s>"}
    else:
        backend = Tokenizer(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.Whitespace()
        backend.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=99, special_tokens=["<|endoftext|>"]))
        names = {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"}
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=40, **names)
    tokenizer.save_pretrained(folder)


def text_folder(name: str, folder: Path) -> None:
    """A folder of transformers' class `name`, or of sentence-transformers, with random weights and a tokenizer."""
    import transformers

    if name.startswith("GPT2"):
        getattr(transformers, name)(transformers.GPT2Config(**GPT2)).save_pretrained(folder)
        save_text_tokenizer(folder, "bpe")
    elif name.startswith("Llama"):
        config = transformers.LlamaConfig(**DECODER, intermediate_size=64, max_position_embeddings=40)
        getattr(transformers, name)(config).save_pretrained(folder)
        save_text_tokenizer(folder, "bpe")
    else:
        transformers_text(folder, "BertModel" if name == "sentence-transformers" else name)
        save_text_tokenizer(folder, "roberta" if "Roberta" in name else "wordpiece")
    if name == "sentence-transformers":
        (folder / "1_Pooling").mkdir()
        kinds = (("", "Transformer"), ("1_Pooling", "Pooling"))
        modules = [{"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
                   for i, (path, kind) in enumerate(kinds)]  # fmt: skip
        (folder / "modules.json").write_text(json.dumps(modules))
        (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_mean_tokens": True}))


def ragged(rows=(11, 4, 7), vocab=99, seed=1, side="right", pad=1, types=False) -> dict[str, Tensor]:
    """A batch of rows of these lengths, padded to the longest, without the special ids below 5."""
    draw = torch.Generator().manual_seed(seed)
    longest = max(rows)
    ids = torch.randint(5, vocab, (len(rows), longest), generator=draw)
    place = torch.arange(longest)
    lengths = torch.tensor(rows)[:, None]
    keep = place < lengths if side == "right" else place >= longest - lengths
    batch = {"input_ids": ids.where(keep, torch.tensor(pad)), "attention_mask": keep.long()}
    if types:
        batch["token_type_ids"] = torch.randint(0, 2, ids.shape, generator=draw)
    return batch


def answer(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Logits (start and end side by side), else the last hidden states; zeros at padding."""
    with torch.no_grad():
        output = model(**batch)
    if not isinstance(output, Tensor):
        if "start_logits" in output:
            output = torch.stack([output["start_logits"], output["end_logits"]], -1)
        else:
            output = output["logits"] if "logits" in output else output["last_hidden_state"]
    keep = batch.get("attention_mask")
    return output if output.ndim < 3 or keep is None else output * keep[..., None]
