"""A wav2vec 2.0 whose vocabulary was extended by <s> and </s> in added_tokens.json transcribes as transformers does."""

import json
import re
from pathlib import Path

import torch
import transformers

import zoo

SMALL = {
    "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64,
    "conv_dim": (16, 16, 16), "conv_kernel": (10, 8, 4), "conv_stride": (5, 4, 4), "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4, "feat_extract_norm": "layer", "do_stable_layer_norm": True,
}  # fmt: skip


def test_transcripts_are_those_of_transformers(tmp_path: Path) -> None:
    symbols = {symbol: i for i, symbol in enumerate([*"abcdefghijklmnopqrstuvwxyz'|", "[UNK]", "[PAD]"])}
    (tmp_path / "vocab.json").write_text(json.dumps(symbols))
    names = {"unk_token": "[UNK]", "pad_token": "[PAD]", "word_delimiter_token": "|"}
    tokenizer = transformers.Wav2Vec2CTCTokenizer(str(tmp_path / "vocab.json"), **names)
    extractor = transformers.Wav2Vec2FeatureExtractor(return_attention_mask=True)
    processor = transformers.Wav2Vec2Processor(feature_extractor=extractor, tokenizer=tokenizer)
    torch.manual_seed(0)
    config = transformers.Wav2Vec2Config(vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, **SMALL)
    theirs = transformers.Wav2Vec2ForCTC(config).eval()
    theirs.lm_head.weight.data *= 1000  # sure of each symbol: a beam finds what the greedy choice is
    theirs.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    added = json.loads((tmp_path / "model" / "added_tokens.json").read_text())
    assert sorted(added.values()) == [30, 31]

    wave = torch.randn(3000) * 0.1
    with torch.no_grad():
        ids = theirs(**processor(wave.numpy(), sampling_rate=16000, return_tensors="pt")).logits.argmax(-1)
    text = re.sub(r"\[UNK\]|</?s>", "", processor.batch_decode(ids)[0])
    ((transcript, _),) = zoo.predict(zoo.load(tmp_path / "model"), (wave, 16000), top_k=1)
    assert len(text) > 10 and transcript == text
