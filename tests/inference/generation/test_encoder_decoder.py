"""Generation with encoder-decoder models: tokens equal to those of transformers, texts, drafts, errors."""

from dataclasses import replace

import pytest
import torch
from peers import randomize
from torch import Tensor

import zoo
from zoo.models.encoder_decoder import EncoderDecoder
from zoo.preprocessing.tokenizer_training import train

TINY = dict(
    vocab_size=60, d_model=32, encoder_layers=2, decoder_layers=3, encoder_attention_heads=4, decoder_attention_heads=2,
    encoder_ffn_dim=48, decoder_ffn_dim=40, max_position_embeddings=40,
)  # fmt: skip
PEERS = {
    "bart": ("BartForConditionalGeneration", {}),
    "bart forced": ("BartForConditionalGeneration", {"forced_bos_token_id": 0, "forced_eos_token_id": 2}),
    "mbart": ("MBartForConditionalGeneration", {"decoder_start_token_id": 2, "scale_embedding": True}),
}
OPTIONS = {
    "greedy": {},
    "beams": {"num_beams": 3},
    "length penalty": {"num_beams": 3, "length_penalty": 2.0},
    "early stopping": {"num_beams": 4, "early_stopping": True, "num_return_sequences": 2},
    "n-grams": {"num_beams": 2, "no_repeat_ngram_size": 2},
    "repetition penalty": {"repetition_penalty": 1.3},
    "new tokens": {"min_new_tokens": 5},
}


def sources() -> tuple[Tensor, Tensor]:
    ids = torch.randint(3, 60, (3, 11), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[0, 9:] = 0
    mask[1, 7:] = 0
    return ids, mask


@pytest.mark.parametrize("peer", PEERS)
@torch.no_grad()
def test_tokens_equal_those_of_transformers(peer, tmp_path):
    transformers = pytest.importorskip("transformers")
    name, options = PEERS[peer]
    cls = getattr(transformers, name)
    for seed in range(2):
        theirs = randomize(cls(cls.config_class(**TINY | options)), seed)
        theirs.save_pretrained(tmp_path / str(seed))
        ours = zoo.load(tmp_path / str(seed)).eval()
        ids, mask = sources()
        for how, choice in OPTIONS.items():
            call = dict(input_ids=ids, attention_mask=mask, max_new_tokens=12, **choice)
            expected = theirs.generate(**call, do_sample=False)
            assert torch.equal(zoo.generate(ours, **call), expected), how


def nano(seed: int = 0) -> EncoderDecoder:
    model = zoo.create_model("bart_nano", seed=seed, vocab_size=60).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4)
    assert isinstance(model, EncoderDecoder)
    return model


def test_a_padded_batch_equals_each_text_alone():
    model, (ids, mask) = nano(), sources()
    together = zoo.generate(model, ids, mask, max_new_tokens=10, eos_token_id=None)
    for row in range(3):
        alone = zoo.generate(model, ids[row : row + 1, : mask[row].sum()], max_new_tokens=10, eos_token_id=None)
        assert torch.equal(alone[0], together[row])


def test_a_draft_changes_no_token():
    model, draft, (ids, mask) = nano(0), nano(1), sources()
    assert torch.equal(
        zoo.generate(model, ids, mask, max_new_tokens=12, draft=draft),
        zoo.generate(model, ids, mask, max_new_tokens=12),
    )
    with pytest.raises(ValueError, match="both must have an encoder"):
        zoo.generate(model, ids, mask, draft=zoo.create_model("gpt_nano", vocab_size=60))


@pytest.mark.parametrize("name, fields, reason", [
    ("bart_nano", dict(forced_eos_token_id=2), "forced_eos_token_id of the model's config"),
    ("bart_nano", dict(forced_bos_token_id=0), "forced_bos_token_id of the model's config"),
    ("marian_nano", {}, "SuppressTokens of the model"),
])  # fmt: skip
def test_a_draft_beside_rules_of_the_model_is_refused_by_name(name, fields, reason):
    model = zoo.create_model(name, **fields)
    with pytest.raises(ValueError, match=f"draft= does not work with {reason}: omit"):
        zoo.generate(model, torch.tensor([[5, 6]]), draft=model)


def test_samples_and_scores():
    model, (ids, mask) = nano(), sources()
    output = zoo.generate(
        model, ids, mask, max_new_tokens=6, temperature=1.0, num_return_sequences=4, seed=0, output_scores=True,
        eos_token_id=None,
    )  # fmt: skip
    assert output.sequences.shape == (12, 7) and len({tuple(row) for row in output.sequences[:4].tolist()}) > 1
    scores = model(input_ids=ids.repeat_interleave(4, 0), attention_mask=mask.repeat_interleave(4, 0),
                   decoder_input_ids=output.sequences[:, :-1]).log_softmax(-1)  # fmt: skip
    torch.testing.assert_close(
        output.log_probs, scores.gather(2, output.sequences[:, 1:, None])[..., 0], rtol=1e-4, atol=1e-4
    )


def word_tokenizer():
    tokenizers = pytest.importorskip("tokenizers")
    words = ["<s>", "<pad>", "</s>", *(f"w{i}" for i in range(3, 60))]
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="w3"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.add_special_tokens(words[:3])
    made.post_processor = tokenizers.processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 2)])
    return made


def test_texts_in_texts_out():
    model, tokenizer = nano(), word_tokenizer()
    texts = ["w5 w9 w12", "w30 w8"]
    made = zoo.generate(model, texts, tokenizer=tokenizer, max_new_tokens=5)
    ids = torch.tensor([[5, 9, 12, 2], [30, 8, 2, 1]])
    tokens = zoo.generate(model, ids, (ids != 1).long(), max_new_tokens=5)
    assert made == [tokenizer.decode(row) for row in tokens.tolist()] and "</s>" not in made[0]
    assert zoo.generate(model, texts[1], tokenizer=tokenizer, max_new_tokens=5) == made[1]


def test_what_is_refused():
    model, (ids, mask) = nano(), sources()
    cases = [
        (TypeError, "no option 'languge'", dict(input_ids=ids, languge="en")),
        (TypeError, "no option 'num_beam'; did you mean 'num_beams'", dict(input_ids=ids, num_beam=2)),
        (ValueError, "'input_ids' is missing", {}),
        (ValueError, "a conversation is for chat models", dict(input_ids=[{"role": "user", "content": "w5"}])),
        (ValueError, "a conversation is for chat models", dict(input_ids=[[{"role": "user", "content": "w5"}]])),
        (ValueError, "only padding", dict(input_ids=ids, attention_mask=mask * 0)),
        (ValueError, "out of range", dict(input_ids=ids + 60)),
        (ValueError, "at most 60, the size of the vocabulary", dict(input_ids=ids, num_beams=61)),
        (ValueError, "max_length=128", dict(input_ids=ids, max_new_tokens=200)),
        (ValueError, "max_length=128", dict(input_ids=ids.repeat(1, 20))),
    ]
    for error, message, call in cases:
        with pytest.raises(error, match=message):
            zoo.generate(model, **call)
    with pytest.raises(ValueError, match="no decoder_start_token_id"):
        zoo.generate(zoo.create_model("bart_nano", decoder_start_token_id=None), ids)
    with pytest.raises(TypeError, match="no option 'max_new_token'; did you mean 'max_new_tokens'"):
        zoo.generate(zoo.create_model("gpt_nano"), ids, max_new_token=5)
    with pytest.raises(TypeError, match="is an option of models with an encoder"):
        zoo.generate(zoo.create_model("gpt_nano"), ids, decoder_input_ids=ids)


def test_texts_that_do_not_fit_are_named():
    model = zoo.create_model("bart_nano", seed=0)
    model.preprocess = replace(train("wordpiece", ["a b c d e"], 90, max_length=128), types=False)
    with pytest.raises(ValueError, match=r"text 1 has 302 tokens, expected at most max_length=128: truncate it"):
        zoo.generate(model, ["a b", "c " * 300])
    with pytest.raises(ValueError, match="text 2 is empty"):
        zoo.generate(model, ["a b", "c", ""])
    cut = model.preprocess(["a b", "c " * 300], truncate="cut")
    assert len(zoo.generate(model, **cut, max_new_tokens=2)) == 2
    small = zoo.create_model("bart_nano", seed=0, vocab_size=6)
    small.preprocess = model.preprocess
    with pytest.raises(ValueError, match="out of range: expected 0 to 5; use the tokenizer of this model"):
        zoo.generate(small, "a b")
