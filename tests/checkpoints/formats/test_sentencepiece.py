"""SentencePiece models, read without sentencepiece: the same ids as it gives, in folders that hold nothing else."""

import io

import pytest
import torch

import zoo
from zoo.checkpoints.formats.sentencepiece import Pieces, tokenizer
from zoo.data.synthetic.sentences import make_sentences
from zoo.utils.errors import LoadError

LINES = [text.capitalize() for text in make_sentences(400, seed=0)[0]]
ODD = ["  two  spaces  and tail ", "naïve café 漢字 ﬁne ①", "tab\there", "", "x", "a\nb", "🙂 emoji"]
BYTES = dict(byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False)


def learned(kind="bpe", size=110, **options):
    """(the file's bytes, sentencepiece's own reading of it)."""
    spm = pytest.importorskip("sentencepiece", reason="it is what these are compared with")
    file = io.BytesIO()
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter(LINES), model_writer=file, model_type=kind, vocab_size=size, minloglevel=3, **options
    )
    return file.getvalue(), spm.SentencePieceProcessor(model_proto=file.getvalue())


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
@pytest.mark.parametrize("options", [
    {}, BYTES | {"size": 340}, {"add_dummy_prefix": False}, {"user_defined_symbols": ["@@"]}
], ids=["plain", "bytes", "bare", "own"])  # fmt: skip
def test_equals_sentencepiece(kind, options):
    data, theirs = learned(kind, **options)
    ours = tokenizer(data, bos=False)
    for text in [*LINES[:4], *ODD]:
        assert ours.encode(text).ids == theirs.encode(text), text
    for text in LINES[:4]:
        assert ours.decode(ours.encode(text).ids) == theirs.decode(theirs.encode(text))
    assert ours.get_vocab_size() == theirs.get_piece_size()


def test_what_stands_around_a_text():
    data, _ = learned()
    tokens = tokenizer(data, eos=True).encode("the dog", "a fox").tokens
    assert tokens[0] == "<s>" and tokens[-1] == "</s>" and tokens.count("<s>") == 2
    xlm = tokenizer(data, fairseq=True)
    assert [xlm.id_to_token(i) for i in range(4)] == ["<s>", "<pad>", "</s>", "<unk>"]
    assert xlm.token_to_id("<mask>") == xlm.get_vocab_size() - 1 == 111
    pair = xlm.encode("the dog", "a fox").tokens
    assert pair[0] == "<s>" and pair.count("</s>") == 3 and pair.count("<s>") == 1


def test_a_folder_that_holds_no_other_tokenizer(tmp_path):
    transformers = pytest.importorskip("transformers")
    data, theirs = learned(**BYTES, size=340)
    torch.manual_seed(0)
    config = transformers.LlamaConfig(vocab_size=340, hidden_size=32, intermediate_size=64, num_hidden_layers=1,
                                      num_attention_heads=2, max_position_embeddings=64)  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(data)
    model = zoo.load(tmp_path)
    assert model.preprocess.encode("the lazy dog") == [theirs.bos_id(), *theirs.encode("the lazy dog")]
    zoo.save(model, tmp_path / "ours")
    assert zoo.load(tmp_path / "ours").preprocess == model.preprocess
    (tmp_path / "tokenizer.model").write_bytes(data[:300])
    with pytest.raises(LoadError, match=r"tokenizer\.model: not a SentencePiece model.*save_pretrained"):
        zoo.load(tmp_path)


@pytest.mark.parametrize("data", [b"", b"IQ== 0\nIg== 1\n", b"\x0a\xff", bytes(40)])
def test_what_is_no_such_model(data):
    with pytest.raises(LoadError, match="not a SentencePiece model"):
        Pieces.parse(data)
