"""BigBird against transformers, through files: the published random blocks, its evaluation without them, every head."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from peers import edit_json, error
from safetensors.torch import load_file
from table_swaps import check_swaps
from text_peers import answer, ragged, transformers_text

import zoo
from zoo.models.bigbird.random_blocks import random_blocks

HEADS = ("Model", "ForMaskedLM", "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering")
NAMES = [f"BigBird{head}" for head in HEADS]
OPTIONS = {
    "BigBirdForMaskedLM": dict(tie_word_embeddings=False, hidden_act="gelu", rescale_embeddings=True, use_bias=False),
    "BigBirdForTokenClassification": dict(attention_type="original_full", num_random_blocks=3),
    "BigBirdForSequenceClassification": dict(
        block_size=3, num_random_blocks=1, hidden_act="relu", max_position_embeddings=81
    ),
    "BigBirdModel": dict(block_size=5, num_random_blocks=1),
}
CASES = [(name, {}) for name in NAMES] + list(OPTIONS.items())
NO_DROPOUT = dict(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
SEP = 66
LENGTHS = (11, 36, 37, 61, 72, 80)  # up to 36, texts with blocks of 4 and two random ones see all of their tokens


def in_mode(theirs, training=False):
    """transformers' model, which after a short text stays with full attention, in the given mode."""
    body = getattr(theirs, "bert", theirs)
    body.set_attention_type(theirs.config.attention_type)
    return theirs.train(training)


def batch_for(name, rows, **options):
    batch = ragged(rows=rows, types=True, pad=0, **options)
    if name.endswith("Answering"):
        batch["input_ids"][:, 2] = SEP
        del batch["token_type_ids"]  # there they follow from the separator
    return batch


def scores(model, name, batch):
    y = answer(model, batch)
    return y[:, 3:] if name.endswith("Answering") else y  # those of the question are -1e6


@pytest.mark.parametrize("name, options", CASES)
def test_same_numbers_from_the_same_files(tmp_path, name, options):
    """Ours, with random blocks, is transformers' model in training; its evaluation is ours without them."""
    theirs = transformers_text(tmp_path, name, **NO_DROPOUT | options)
    for always in (True, False):
        way = dict(random_attention="always" if always else "training")
        ours = zoo.load(tmp_path, **way)
        assert not (ours.load_report.initialized or ours.load_report.resampled or ours.training)
        for length in LENGTHS:
            batch = batch_for(name, (length, length))
            expected = scores(in_mode(theirs, always), name, batch)
            assert error(scores(ours, name, batch), expected) <= 1e-5
    theirs = theirs.double()
    exact = (
        zoo.load(tmp_path, dtype=torch.float64),
        zoo.load(tmp_path, dtype=torch.float64, random_attention="training"),
    )
    batch = batch_for(name, (61, 61))
    for ours, training in zip(exact, (True, False), strict=True):
        assert error(scores(ours, name, batch), scores(in_mode(theirs, training), name, batch)) <= 1e-9


@pytest.mark.parametrize("always", [True, False])
@pytest.mark.parametrize("side", ["right", "left"])
def test_padding_changes_nothing(tmp_path, side, always):
    """Each row of a batch is what transformers computes for it alone."""
    theirs = transformers_text(tmp_path, "BigBirdModel", **NO_DROPOUT)
    ours = zoo.load(tmp_path, random_attention="always" if always else "training")
    rows = (80, 11, 61, 36, 41)
    batch = batch_for("", rows, side=side)
    for ours.drop_padding in (True, False):
        y = answer(ours, batch)
        for row, length in enumerate(rows):
            keep = batch["attention_mask"][row].bool()
            alone = {key: x[row : row + 1, keep] for key, x in batch.items()}
            assert error(y[row, keep], answer(in_mode(theirs, always), alone)[0]) <= 1e-5, length


@pytest.mark.parametrize("length", [1024, 3072, 4096, 352, 2080])
@pytest.mark.parametrize("block, count", [(16, 3), (64, 3), (32, 2)])
def test_random_blocks_are_the_published_ones(length, block, count):
    from transformers import BigBirdConfig
    from transformers.models.big_bird.modeling_big_bird import BigBirdBlockSparseAttention

    blocks, end = length // block, 2 * count + 5
    if blocks <= end:
        pytest.skip("texts of so few blocks see all of their tokens")
    config = BigBirdConfig(hidden_size=8, num_attention_heads=2, block_size=block, num_random_blocks=count)
    theirs = BigBirdBlockSparseAttention(config, seed=3).train()
    np.random.seed(3)
    if length in (1024, 3072, 4096):
        expected = [
            theirs._bigbird_block_rand_mask(4096, 4096, block, block, count, last_idx=1024)[: blocks - 2]
            for _ in range(2)
        ]
    else:
        plan = theirs._get_rand_attn_plan(length, block, count)
        expected = theirs._bigbird_block_rand_mask_with_head(length, length, block, block, 2, *plan)
    ours = random_blocks(blocks, 2, 3, block, count, 4096)
    assert np.array_equal(ours[:, 1:-1], np.stack(expected)) and ours.shape == (2, blocks, count)
    assert not ours[:, [0, -1]].any()


@pytest.mark.parametrize("name, options", CASES)
def test_round_trip_through_their_format(tmp_path, name, options):
    import transformers

    transformers_text(tmp_path / "first", name, **NO_DROPOUT | options)
    ours, batch = zoo.load(tmp_path / "first", random_attention="training"), batch_for(name, (61, 61))
    zoo.export(ours, tmp_path / "second")
    theirs, info = getattr(transformers, name).from_pretrained(tmp_path / "second", output_loading_info=True)
    assert not info["unexpected_keys"] and not info["mismatched_keys"]
    assert all("pooler" in key or key == "cls.predictions.bias" for key in info["missing_keys"])
    assert error(scores(ours, name, batch), scores(theirs.eval(), name, batch)) <= 1e-5
    assert zoo.verify(tmp_path / "second").ok
    again = zoo.load(tmp_path / "second")
    assert again.config == ours.config.replace(random_attention="always")
    saved = zoo.load(zoo.save(ours, tmp_path / "third"))
    assert saved.config == ours.config and torch.equal(answer(saved, batch), answer(ours, batch))


def test_swapping_any_two_lines_of_the_table_is_caught(tmp_path):
    name = "BigBirdForQuestionAnswering"
    theirs, batch = transformers_text(tmp_path, name), batch_for(name, (9, 9))
    check_swaps(tmp_path, lambda model: scores(model, name, batch), scores(theirs, name, batch), 14)


def losses(model, logits, dtype):
    """Of a loop of 20 steps in which the first token tells the class."""
    model = model.to(dtype).train()
    optimizer, history = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05), []
    for step in range(20):
        batch = ragged(rows=(61,) * 6, seed=step % 2, pad=0)
        loss = F.cross_entropy(logits(model(**batch)), batch["input_ids"][:, 0] % 3)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    return torch.tensor(history, dtype=torch.float64)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-4), (torch.float64, 1e-8)])
def test_training_losses_are_theirs(tmp_path, dtype, tolerance):
    theirs = transformers_text(tmp_path, "BigBirdForSequenceClassification", **NO_DROPOUT)
    ours = losses(zoo.load(tmp_path), lambda output: output, dtype)
    expected = losses(theirs, lambda output: output.logits, dtype)
    assert (ours / expected - 1).abs().max() <= tolerance and expected[-5:].mean() < expected[:5].mean()


# --- the files that people download -----------------------------------------------------------------------------------


def published(folder):
    """google/bigbird-roberta-base and -large: .bin of BigBirdForPreTraining, with position ids."""
    theirs = transformers_text(folder, "BigBirdForPreTraining", **NO_DROPOUT)
    tensors = {name: tensor.clone() for name, tensor in load_file(folder / "model.safetensors").items()}
    tensors["cls.predictions.decoder.weight"] = tensors["bert.embeddings.word_embeddings.weight"].clone()
    tensors["cls.predictions.decoder.bias"] = tensors["cls.predictions.bias"].clone()
    tensors["bert.embeddings.position_ids"] = torch.arange(80)[None]
    (folder / "model.safetensors").unlink()
    torch.save(tensors, folder / "pytorch_model.bin")
    edit_json(folder / "config.json", gradient_checkpointing=False, position_embedding_type="absolute")
    return theirs


def test_what_people_download(tmp_path):
    theirs, batch = published(tmp_path), batch_for("", (61, 61))
    ours = zoo.load(tmp_path)
    dropped = {"bert.embeddings.position_ids", "bert.pooler.bias", "bert.pooler.weight", "cls.seq_relationship.bias"}
    assert not ours.load_report.initialized and dropped <= set(ours.load_report.dropped)
    with torch.no_grad():
        expected = in_mode(theirs, True)(**batch)
    assert error(answer(ours, batch), expected.prediction_logits) <= 1e-5
    model = zoo.load(tmp_path, labels=["no", "perhaps", "yes"])
    assert model(**batch).shape == (2, 3) and all("head." in name for name in model.load_report.initialized)
    pooled = zoo.load(tmp_path, head="pool")
    with torch.no_grad():
        assert error(pooled(**batch), in_mode(theirs.bert, True)(**batch).pooler_output) <= 1e-5


def test_spiece_model_is_read_with_its_own_special_tokens(tmp_path):
    spm = pytest.importorskip("sentencepiece")
    import io

    from zoo.data.synthetic.sentences import make_sentences

    published(tmp_path)
    file, lines = io.BytesIO(), make_sentences(200, seed=0)[0]
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=file, model_type="bpe", vocab_size=99, minloglevel=3, pad_id=0,
        eos_id=1, bos_id=2, unk_id=3, control_symbols=["[CLS]", "[SEP]", "[MASK]"],
    )  # fmt: skip
    (tmp_path / "spiece.model").write_bytes(file.getvalue())
    theirs = spm.SentencePieceProcessor(model_proto=file.getvalue())
    cls, sep, mask = (theirs.piece_to_id(name) for name in ("[CLS]", "[SEP]", "[MASK]"))
    preprocess = zoo.load(tmp_path).preprocess
    for text in lines[:4]:
        assert preprocess.encode(text) == [cls, *theirs.encode(text), sep]
    batch = preprocess(lines[:3])
    assert set(batch) == {"input_ids", "attention_mask"}  # as transformers' tokenizer, without token types
    assert preprocess.encode("a [MASK]")[-2:] == [mask, sep] and preprocess.id("pad") == 0
    (tmp_path / "spiece.model").write_bytes(file.getvalue().replace(b"[MASK]", b"[MUSK]"))
    with pytest.raises(zoo.LoadError, match=r"spiece\.model: the SentencePiece model has no piece '\[MASK\]'"):
        zoo.load(tmp_path)


# --- attention --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["always", "training"])
@pytest.mark.parametrize("rows, heads", [(None, None), ([2, 0], [3, 1])])
@pytest.mark.parametrize("drop", [True, False])
def test_maps_give_the_output(tmp_path, way, rows, heads, drop):
    transformers_text(tmp_path, "BigBirdModel")
    model = zoo.load(tmp_path, random_attention=way)
    model.drop_padding = drop
    batch = batch_for("", (61, 11, 45), side="left")
    with zoo.capture(model, rows=rows, heads=heads) as maps, torch.no_grad():
        y, (x,) = model.encode(**batch, layers=[0])
    mixer, w = model.blocks[1].mixer, maps["blocks.1.mixer"]
    assert w.shape == (3 if rows is None else 2, 4 if heads is None else 2, 61, 61)
    with torch.no_grad():
        v = mixer.split(mixer.v(x))
        if heads is not None:
            assert torch.allclose(w.sum(-1)[0][:, batch["attention_mask"][2].bool()], torch.ones(()), atol=1e-5)
            return
        out = mixer.out((w @ v).transpose(1, 2).flatten(2))
        h = model.blocks[1].norm1(x + out)
        expected = model.blocks[1].norm2(h + model.blocks[1].mlp(h))
    keep = batch["attention_mask"].bool()
    assert torch.allclose(expected[keep], y[keep], atol=1e-5)


def test_what_a_block_sees(tmp_path):
    transformers_text(tmp_path, "BigBirdModel", num_hidden_layers=1)
    model, ids = zoo.load(tmp_path), ragged(rows=(61,))["input_ids"]
    with zoo.capture(model) as maps, torch.no_grad():
        model(input_ids=ids)
    seen = maps["blocks.0.mixer"][0] > 0
    links = random_blocks(16, 4, 0, 4, 2, 80)
    for head in range(4):
        for i in range(16):
            expected = {i - 1, i, i + 1, 0, 15, *links[head, i].tolist()} if 0 < i < 15 else set(range(16))
            blocks = seen[head, 4 * i].nonzero().flatten() // 4
            assert set(blocks.tolist()) == expected & set(range(16)), (head, i)


def test_full_attention_is_softmax(tmp_path):
    transformers_text(tmp_path, "BigBirdModel", attention_type="original_full")
    model = zoo.load(tmp_path)
    assert model.config.attention == "softmax"
    zoo.export(model, tmp_path / "again")
    assert json.loads((tmp_path / "again" / "config.json").read_text())["attention_type"] == "original_full"
    other = zoo.load(tmp_path, attention="performer")
    with pytest.raises(ValueError, match="attention='performer'"):
        zoo.export(other, tmp_path / "third", format="transformers")


@pytest.mark.parametrize("overrides, message", [
    (dict(block_size=0), "block_size=0, num_random_blocks=1: expected at least 1 and 0"),
    (dict(num_random_blocks=-1), "num_random_blocks=-1"),
    (dict(random_attention="never"), "random_attention='never'"),
])  # fmt: skip
def test_options_that_do_not_fit_are_named(overrides, message):
    with pytest.raises(ValueError, match=message):
        zoo.create_model("bigbird_nano", **overrides)


@pytest.mark.parametrize("change, message", [
    ({"attention_type": "sparse"}, "attention_type='sparse' is not supported, only 'block_sparse' or 'original_full'"),
    ({"is_decoder": True}, "is_decoder=True is not supported"),
    ({"architectures": ["BigBirdForCausalLM"]}, "BigBirdForCausalLM"),
])  # fmt: skip
def test_what_we_do_not_compute_is_refused_by_name(tmp_path, change, message):
    transformers_text(tmp_path, "BigBirdModel")
    edit_json(tmp_path / "config.json", **change)
    with pytest.raises(ValueError, match=message):
        zoo.load(tmp_path)


@torch.no_grad()
def test_no_random_blocks(tmp_path):
    transformers_text(tmp_path, "BigBirdModel", num_random_blocks=0)
    batch = batch_for("", (61, 33))
    y = [answer(zoo.load(tmp_path, random_attention=way), batch) for way in ("always", "training")]
    assert torch.equal(*y) and error(y[0], answer(zoo.load(tmp_path, attention="softmax"), batch)) > 1e-3


@torch.no_grad()
def test_a_question_has_low_scores_but_for_the_first_token():
    model = zoo.create_model("bigbird_nano", seed=0, head="qa", sep_token_id=9).eval()
    ids = torch.tensor([[3, 4, 9, 5, 6, 9], [3, 4, 5, 6, 7, 8]])
    low = model(input_ids=ids)[..., 0] < -1e5
    assert low.tolist() == [[False, True, True, False, False, False], [False] * 6]
    with pytest.raises(ValueError, match="omit document_ids"):
        model(input_ids=ids, document_ids=torch.zeros_like(ids))


@torch.no_grad()
def test_one_graph_for_rows_of_any_length():
    """A compiled graph does not know the lengths of rows: it has the random blocks of all."""
    torch._dynamo.reset()
    model = zoo.create_model("bigbird_nano", seed=0, block_size=2, num_random_blocks=1, head=None, depth=1).eval()
    batch = ragged(rows=(31, 12, 22), pad=0)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    keep = batch["attention_mask"].bool()
    assert torch.allclose(compiled(**batch)[keep], model(**batch)[keep], atol=1e-5)
