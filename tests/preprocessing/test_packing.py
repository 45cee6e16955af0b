"""Padded, packed and alone are the same: outputs and gradients, every text family, every kind of attention."""

import pytest
import torch
from peers import error, randomize
from text_peers import ragged

import zoo
from zoo.models.registry import families
from zoo.nn.registry import BUILT_IN
from zoo.preprocessing.tokenizer_training import train

# Of each text family that takes packed rows, its first variant.
FAMILIES = [next(iter(f.variants)) for f in families() if "document_ids" in f.model.inputs]
OWN: dict[str, dict] = {"granite4_h_350m": dict(kv_heads=1, mixer=["mamba2", "attention", "mamba2"])}
KINDS = BUILT_IN
ROWS = (11, 4, 7, 4, 1)


def tiny(name, **options):
    small = dict(
        width=32, depth=3, heads=2, mlp_dim=48, vocab_size=99, max_length=32, dropout=0.0, attention_dropout=0.0
    )
    return randomize(zoo.create_model(name, seed=0, **small | OWN.get(name, {}) | options))


def documents(side="right"):
    batch = ragged(ROWS, side=side)
    return [ids[keep.bool()] for ids, keep in zip(batch["input_ids"], batch["attention_mask"])], batch


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("head", [None, "classify", "token"])
def test_packed_is_padded_is_alone(name, head):
    model = tiny(name, head=head)
    rows, padded = documents()
    packed = zoo.pack(rows, 16)
    assert packed["input_ids"].shape == (2, 16)
    with torch.no_grad():
        alone = [model(input_ids=ids[None])[0] for ids in rows]
        both, together = model(**padded), model(**packed)
    if head == "classify":
        assert error(together, torch.stack(alone)) <= 1e-5 and error(both, torch.stack(alone)) <= 1e-5
    else:
        assert error(together[packed["document_ids"] >= 0], torch.cat(alone)) <= 1e-5
        assert error(both[padded["attention_mask"].bool()], torch.cat(alone)) <= 1e-5


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["bert_tiny", "modernbert_tiny"])
def test_every_kind_of_attention(name, kind):
    model = tiny(name, head="classify", attention=kind)
    rows, padded = documents("left")
    with torch.no_grad():
        alone = torch.cat([model(input_ids=ids[None]) for ids in rows])
        assert error(model(**padded), alone) <= 1e-5 and error(model(**zoo.pack(rows, 16)), alone) <= 1e-5


@pytest.mark.parametrize("name", FAMILIES)
def test_gradients_too(name):
    model = tiny(name, head="classify", num_classes=3).double()
    rows, padded = documents()
    labels = torch.arange(len(rows)) % 3

    def gradients(answer):
        model.zero_grad()
        torch.nn.functional.cross_entropy(answer(), labels).backward()
        return {key: p.grad.clone() for key, p in model.named_parameters() if p.grad is not None}

    alone = gradients(lambda: torch.cat([model(input_ids=ids[None]) for ids in rows]))
    for other in (lambda: model(**padded), lambda: model(**zoo.pack(rows, 16))):
        found = gradients(other)
        assert found.keys() == alone.keys() and max(error(found[key], alone[key]) for key in alone) <= 1e-9


def test_layers_come_back_in_their_places():
    model = tiny("bert_tiny", head=None)
    rows, _ = documents()
    packed = zoo.pack(rows, 16)
    with torch.no_grad():
        y, (first,) = model.encode(**packed, layers=[0])
        alone, (one,) = model.encode(input_ids=rows[1][None], layers=[0])
    place = (packed["document_ids"][0] == 1).nonzero()[:, 0]
    assert error(y[0, place], alone[0]) <= 1e-5 and error(first[0, place], one[0]) <= 1e-5
    assert not y[packed["document_ids"] < 0].any()


def test_texts_and_pairs():
    texts = ["a small dog", ("the dog", "a fox"), "one"]
    words = train("wordpiece", ["a small dog and the fox", "one dog"] * 3, 60)
    model = tiny("bert_tiny", head="classify")
    packed = zoo.pack(texts, 24, preprocess=words)
    assert list(packed) == ["input_ids", "document_ids", "token_type_ids"] and packed["token_type_ids"].any()
    with torch.no_grad():
        alone = torch.cat([model(**words(text)) for text in texts])
        assert error(model(**packed), alone) <= 1e-5


def test_what_cannot_be_packed():
    with pytest.raises(ValueError, match="document 1 has 9 tokens, more than length=8"):
        zoo.pack([[1, 2], list(range(9))], 8)
    with pytest.raises(ValueError, match="document 0 is a text: pass preprocess="):
        zoo.pack(["a dog"])
    with pytest.raises(ValueError, match=r"document 1 is of shape \(0,\)"):
        zoo.pack([[1], []])
    for given in ("a dog", []):
        with pytest.raises(ValueError, match="expected a list of documents"):
            zoo.pack(given)
    model, packed = tiny("bert_tiny"), zoo.pack([[5, 6], [7]], 4)
    with pytest.raises(ValueError, match="document_ids mark padding with -1: omit attention_mask="):
        model(**packed, attention_mask=torch.ones(1, 4, dtype=torch.long))


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ids, said", [
    ([[5, 6], [7, 99]], r"token id 99 at row 1, position 1 is out of range: expected 0 to 98"),
    ([[5, -1], [7, 9]], r"token id -1 at row 0, position 1"),
    ([[0.5, 1.0]], r"an integer dtype, got \(1, 2\) of torch.float32"),
    ([5, 6], r"expected token ids \[B, N\] of integers, got \(2,\)"),
    ([[True, False]], "of torch.bool"),
])  # fmt: skip
@pytest.mark.parametrize("name", ["bert_tiny", "llama_nano"])
def test_ids_that_the_model_does_not_know(name, ids, said):
    with pytest.raises(ValueError, match=said):
        tiny(name)(input_ids=torch.tensor(ids))


@pytest.mark.parametrize("mask, said", [
    (torch.ones(1, 3), r"attention_mask is \(1, 3\), expected \(2, 3\)"),
    (torch.ones(2, 1, 1, 3), r"expected \(2, 3\)"),
    (torch.zeros(2, 3), "attention_mask is torch.float32; expected integers or bools"),
])  # fmt: skip
def test_masks_of_another_kind(mask, said):
    with pytest.raises(ValueError, match=said):
        tiny("bert_tiny")(input_ids=torch.full((2, 3), 5), attention_mask=mask)


def test_documents_fill_a_row_to_its_end():
    packed = zoo.pack([[5] * 3, [6] * 5, [7] * 8, [8]], 8, pad_id=0)
    assert packed["document_ids"].tolist() == [[0] * 3 + [1] * 5, [0] * 8, [0] + [-1] * 7]
    assert packed["input_ids"].tolist() == [[5] * 3 + [6] * 5, [7] * 8, [8] + [0] * 7]


def test_types_and_lengths():
    model, ids = tiny("bert_tiny"), torch.full((2, 3), 5)
    with pytest.raises(ValueError, match="token_type_id 2 at row 0, position 0 is out of range: expected 0 to 1"):
        model(input_ids=ids, token_type_ids=torch.full((2, 3), 2))
    with pytest.raises(ValueError, match=r"token_type_id 1 at row 0.*expected 0 to 0"):
        tiny("roberta_small")(input_ids=ids, token_type_ids=torch.ones_like(ids))
    with pytest.raises(ValueError, match=r"does not use 'token_type_ids'"):
        tiny("distilbert_small")(input_ids=ids, token_type_ids=torch.ones_like(ids))
    for name in ("bert_tiny", "roberta_small"):
        assert tiny(name)(input_ids=torch.full((1, 32), 5)).shape == (1, 32, 99)
        with pytest.raises(ValueError, match=r"33 tokens, but the model has max_length=32 positions.*'cut'"):
            tiny(name)(input_ids=torch.full((1, 33), 5))
