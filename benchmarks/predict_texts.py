"""`zoo.predict` on texts of 8 to 128 tokens against transformers' text-classification pipeline, batch size 32.

    python benchmarks/predict_texts.py [rows=10000] [depth=6] [rounds=3]

A BERT of MiniLM's size (384 wide, 6 layers, 12 heads) with random weights, as a folder that transformers wrote: model,
tokenizer, labels. Both get the same list of strings and return a label with its probability for each. Targets: >= 1.8x
as loaded, >= 2.1x after zoo.optimize. Lengths are uniform, so almost half of a batch of 32 texts is padding.
"""

import random
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import transformers
from _measure import options, paired
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

import zoo

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
SYLLABLES = [c + v for c in "bdfgklmnprstvz" for v in ("a", "e", "i", "o", "u", "an", "er", "il")]
WORDS = [first + second for first in SYLLABLES for second in SYLLABLES]  # 12,544, each a token


def save_peer(folder: Path, depth: int) -> None:
    """A classifier of transformers with a WordPiece tokenizer, in a folder."""
    vocab = {token: i for i, token in enumerate([*SPECIAL, *WORDS])}
    backend = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    backend.normalizer, backend.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), SPECIAL))
    transformers.BertTokenizerFast(tokenizer_object=backend, model_max_length=512, **names).save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(vocab), hidden_size=384, num_hidden_layers=depth, num_attention_heads=12, intermediate_size=1536,
        id2label={0: "negative", 1: "positive"}, initializer_range=0.2,
    )  # fmt: skip
    transformers.BertForSequenceClassification(config).save_pretrained(folder)


def texts_of(rows: int) -> list[str]:
    """Texts of 8 to 128 tokens, [CLS] and [SEP] included."""
    chosen = random.Random(0)
    return [" ".join(chosen.choices(WORDS, k=chosen.randint(6, 126))) for _ in range(rows)]


def difference(ours: list[Any], theirs: list[Any]) -> float:
    """The largest difference between the probabilities; raises if the labels differ."""
    for (one, _), other in zip(ours, theirs, strict=True):
        if one[0] != other["label"] and abs(one[1] - 0.5) > 1e-4:
            raise SystemExit(f"labels differ: {one} and {other}")
    return max(abs(one[0][1] - other["score"]) for one, other in zip(ours, theirs))


def main() -> None:
    o = options(dict(rows=40, depth=1, rounds=1), rows=10000, depth=6, rounds=3)
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    texts = texts_of(o.rows)
    with TemporaryDirectory() as folder:
        save_peer(Path(folder), o.depth)
        peer = transformers.pipeline("text-classification", folder, device="cpu")
        model = zoo.load(folder)
    fast = zoo.optimize(model)
    few = texts[:64]
    for name, own in (("as loaded", model), ("optimized", fast)):
        found = difference(zoo.predict(own, few, top_k=2), peer(few, batch_size=32))
        print(f"{name}: maximum difference to transformers {found:.1e}")
    calls = {
        "transformers pipeline": lambda: peer(texts, batch_size=32),
        "zoo as loaded": lambda: zoo.predict(model, texts, top_k=1),
        "zoo optimized": lambda: zoo.predict(fast, texts, top_k=1),
    }
    paired(calls, rounds=o.rounds, warmup=0, items=o.rows, title="texts of 8 to 128 tokens, a BERT of MiniLM's size")


if __name__ == "__main__":
    main()
