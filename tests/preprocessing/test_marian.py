"""The tokenizer of Marian against transformers' MarianTokenizer, with SentencePiece models trained here."""

import json
import random
import sys

import pytest
import torch
from seq2seq_files import seq2seq_folder

import zoo
from zoo.data import ParallelDataModule, ParallelTextSettings, load_parallel_texts
from zoo.data.keyed_batches import Keys
from zoo.interpret.alignment import align_words
from zoo.preprocessing.marian import MarianProcessor, marian_backend

transformers = pytest.importorskip("transformers")
sentencepiece = pytest.importorskip("sentencepiece")

pytestmark = pytest.mark.filterwarnings("ignore:Recommended. pip install sacremoses")
ENGLISH = ["a small house by the sea", "the dog reads a long letter", "many ships sail, but few return!",
           "we see green trees", "he writes 27 letters"]  # fmt: skip
GERMAN = ["ein kleines Haus am Meer", "der Hund liest einen langen Brief", "viele Schiffe fahren, wenige kehren um!",
          "wir sehen grüne Bäume", "er schreibt 27 Briefe"]  # fmt: skip
TEXTS = [*ENGLISH, *GERMAN, "unknown: Ж漢字 and ü", "  two  spaces ", ">>deu<< a small house", ">>xxx<< dog",
         "a >>deu<< b", "an end </s> inside, <unk> and <pad>", "ﬁne ½", "🙂", "x"]  # fmt: skip


def train(texts: list[str], prefix: str, size: int) -> list[str]:
    """Train a model, PREFIX.spm; returns its pieces."""
    random.seed(0)
    words = " ".join(texts).split()
    lines = [" ".join(random.choices(words, k=6)) for _ in range(400)]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_prefix=prefix, vocab_size=size, minloglevel=2, bos_id=-1, pad_id=-1,
        unk_id=1, eos_id=0, hard_vocab_limit=False,
    )  # fmt: skip
    model = sentencepiece.SentencePieceProcessor(model_file=f"{prefix}.model")
    return [model.id_to_piece(i) for i in range(model.get_piece_size())]


@pytest.fixture(scope="module", params=["one vocabulary", "two vocabularies"])
def folder(request, tmp_path_factory):
    """A folder of transformers with a model and its tokenizer."""
    path = tmp_path_factory.mktemp("marian")
    pieces = [train(texts, str(path / name), 60) for name, texts in (("source", ENGLISH), ("target", GERMAN))]
    for name in ("source", "target"):
        (path / f"{name}.model").rename(path / f"{name}.spm")
        (path / f"{name}.vocab").unlink()
    separate = request.param == "two vocabularies"
    # some pieces of the source are not in the vocabulary, and one unknown text of two letters is
    targets = [] if separate else pieces[1]
    names = dict.fromkeys(["</s>", "<unk>", "<pad>", *pieces[0][5:], *targets, "漢字", ">>deu<<"])
    vocabs = {"vocab": names}
    if separate:
        vocabs["target_vocab"] = dict.fromkeys(["</s>", "<unk>", "<pad>", *pieces[1]])
    for name, tokens in vocabs.items():
        (path / f"{name}.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}), encoding="utf-8")
    files = {"target_vocab_file": str(path / "target_vocab.json"), "separate_vocabs": True} if separate else {}
    tokenizer = transformers.MarianTokenizer(
        str(path / "source.spm"), str(path / "target.spm"), str(path / "vocab.json"), **files, model_max_length=20
    )
    size = len(vocabs["target_vocab"]) if separate else len(names)
    last = {"share_encoder_decoder_embeddings": not separate, "decoder_vocab_size": size}
    pad = tokenizer.pad_token_id
    seq2seq_folder(
        path, "MarianMTModel", vocab_size=len(names), d_model=32, encoder_layers=1, decoder_layers=1,
        encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=48, decoder_ffn_dim=48, pad_token_id=pad,
        max_position_embeddings=40, decoder_start_token_id=pad, scale_embedding=True,
        **last,
    )  # fmt: skip
    tokenizer.save_pretrained(path)
    return path


def ids_of(tokenizer, text: str, **options) -> list[int]:
    return tokenizer(**({"text": text} | options))["input_ids"]


def test_ids_equal_those_of_transformers(folder):
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    ours = zoo.load(folder).preprocess
    assert isinstance(ours, MarianProcessor) and ours.max_length == 20
    for text in TEXTS:
        assert ours(text, truncate="cut")["input_ids"][0].tolist() == ids_of(theirs, text, truncation=True), text
        targets = theirs(text_target=text, truncation=True)["input_ids"]
        assert ours.for_targets()(text, truncate="cut")["input_ids"][0].tolist() == targets, text
    batch, expected = ours(TEXTS[:4]), theirs(TEXTS[:4], padding=True, return_tensors="pt")
    assert torch.equal(batch["input_ids"], expected["input_ids"])
    assert torch.equal(batch["attention_mask"], expected["attention_mask"])


def test_texts_of_ids_equal_those_of_transformers(folder):
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    ours = zoo.load(folder).preprocess
    for text in TEXTS:
        ids = ours.for_targets()(text, truncate="cut")["input_ids"][0].tolist()
        for skip in (True, False):
            assert ours.decode(ids, skip_special=skip) == theirs.decode(ids, skip_special_tokens=skip), text


def test_texts_in_and_texts_out(folder):
    model = zoo.load(folder)
    found = zoo.generate(model, ENGLISH[:2], max_new_tokens=6)
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    peer = transformers.MarianMTModel.from_pretrained(folder)
    pad = [[peer.config.pad_token_id]]
    ids = peer.generate(**theirs(ENGLISH[:2], padding=True, return_tensors="pt"), max_new_tokens=6, do_sample=False,
                        bad_words_ids=pad)  # fmt: skip
    assert found == theirs.batch_decode(ids, skip_special_tokens=True)
    assert isinstance(zoo.generate(model, ENGLISH[0], max_new_tokens=3), str)


def test_saved_exported_and_verified(folder, tmp_path):
    model = zoo.load(folder)
    assert zoo.verify(folder).ok
    zoo.save(model, tmp_path / "ours")
    again = zoo.load(tmp_path / "ours")
    assert again.preprocess == model.preprocess and zoo.verify(tmp_path / "ours").ok
    zoo.export(again, tmp_path / "back")
    for name in ("source.spm", "target.spm"):
        assert (tmp_path / "back" / name).read_bytes() == (folder / name).read_bytes()
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "back")
    assert type(theirs).__name__ == "MarianTokenizer"
    for text in TEXTS[:5]:
        assert ids_of(theirs, text) == model.preprocess(text)["input_ids"][0].tolist()
    assert zoo.verify(tmp_path / "back").ok


def test_damaged_and_missing_files(folder, tmp_path):
    for name in ("config.json", "model.safetensors", "source.spm", "target.spm", "vocab.json", "tokenizer_config.json",
                 "target_vocab.json"):  # fmt: skip
        if (folder / name).is_file():
            (tmp_path / name).write_bytes((folder / name).read_bytes())
    (tmp_path / "target.spm").write_bytes(b"\x0a\xff")
    with pytest.raises(zoo.LoadError, match=r"target\.spm: not a SentencePiece model"):
        zoo.load(tmp_path)
    (tmp_path / "target.spm").unlink()
    with pytest.raises(zoo.LoadError, match=r"has no target\.spm: the tokenizer of Marian has the files"):
        zoo.load(tmp_path)


def test_without_the_package_the_model_loads_and_texts_raise(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    from zoo.preprocessing import marian

    marian.sentencepiece_model.cache_clear()
    model = zoo.load(folder)
    with pytest.raises(ImportError, match="pip install sentencepiece"):
        model.preprocess("a dog")


def test_a_tokenizer_of_something_else_is_refused():
    with pytest.raises(zoo.LoadError, match="not a tokenizer of Marian"):
        marian_backend("{}", "source")


def test_targets_of_training_are_tokenized_as_targets(folder, tmp_path):
    files = {"train.en": ENGLISH, "train.de": GERMAN}
    for name, lines in files.items():
        (tmp_path / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    pairs = load_parallel_texts(ParallelTextSettings(name=f"{tmp_path}/train.en,{tmp_path}/train.de"), seed=0)
    data = ParallelDataModule(pairs, zoo.load(folder).preprocess, 2)
    theirs = transformers.MarianTokenizer.from_pretrained(folder)
    batch = data.train.__getitems__(Keys([0, 1], 0))
    for row in range(2):
        source, target = pairs.train.sources[row], pairs.train.targets[row]
        assert batch["input_ids"][row][batch["attention_mask"][row].bool()].tolist() == ids_of(theirs, source)
        labels = batch["labels"][row]
        assert labels[labels != -100].tolist() == ids_of(theirs, None, text_target=target)


def test_words_are_not_aligned(folder):
    with pytest.raises(ValueError, match="does not say which tokens belong to a word"):
        align_words(zoo.load(folder), ENGLISH[0], GERMAN[0])
