"""Longformer against transformers, through files: every head, global tokens, lengths that no window divides."""

import json

import pytest
import torch
import torch.nn.functional as F
from peers import edit_json, error
from safetensors.torch import load_file
from table_swaps import check_swaps
from text_peers import answer, ragged, save_text_tokenizer, transformers_text

import zoo

HEADS = ("Model", "ForMaskedLM", "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering")
NAMES = [f"Longformer{head}" for head in HEADS]
OPTIONS = {
    "LongformerForMaskedLM": dict(tie_word_embeddings=False, hidden_act="gelu_new", attention_window=6, pad_token_id=3),
    "LongformerModel": dict(type_vocab_size=2, attention_window=[16, 4], layer_norm_eps=1e-12),
}
SEP = 2


@pytest.fixture
def exact_softmax(monkeypatch):
    """transformers computes the softmax in float32 whatever the dtype of the model; here in the dtype of the scores."""
    softmax = F.softmax
    monkeypatch.setattr(F, "softmax", lambda scores, dim, dtype=None: softmax(scores, dim=dim))


def batch_for(name, rows=(31, 5, 18), chosen=None, **options):
    """chosen: which share of the tokens is global; None: the default of the head."""
    batch = ragged(rows=rows, **options)
    if name.endswith("Answering"):
        batch["input_ids"][:, [2, 3, 4]] = SEP  # transformers wants three
    if chosen is not None:
        draw = torch.rand(batch["input_ids"].shape, generator=torch.Generator().manual_seed(3))
        batch["global_attention_mask"] = (draw < chosen).long()
    return batch


@pytest.mark.parametrize("name, options", [(name, {}) for name in NAMES] + list(OPTIONS.items()))
def test_same_numbers_from_the_same_files(tmp_path, exact_softmax, name, options):
    theirs = transformers_text(tmp_path, name, **options)
    ours, exact = zoo.load(tmp_path), zoo.load(tmp_path, dtype=torch.float64)
    assert not (ours.load_report.initialized or ours.load_report.resampled)
    batches = [batch_for(name, chosen=chosen, pad=options.get("pad_token_id", 1)) for chosen in (None, 0.2, 0.0, 1.0)]
    if options.get("type_vocab_size") == 2:
        batches[1]["token_type_ids"] = (batches[1]["input_ids"] % 2).long()
    for batch in batches:
        expected = answer(theirs, batch)
        assert error(answer(ours, batch), expected) <= 1e-5
        ours.drop_padding = False
        assert error(answer(ours, batch), expected) <= 1e-5
        ours.drop_padding = True
    theirs = theirs.double()
    for batch in batches:
        assert error(answer(exact, batch), answer(theirs, batch)) <= 1e-9


@pytest.mark.parametrize("name, options", [(name, {}) for name in NAMES] + list(OPTIONS.items()))
def test_round_trip_through_their_format(tmp_path, name, options):
    import transformers

    transformers_text(tmp_path / "first", name, **options)
    ours, batch = zoo.load(tmp_path / "first"), batch_for(name, chosen=0.2, pad=options.get("pad_token_id", 1))
    zoo.export(ours, tmp_path / "second")
    theirs, info = getattr(transformers, name).from_pretrained(tmp_path / "second", output_loading_info=True)
    assert not info["unexpected_keys"] and not info["mismatched_keys"]
    assert all("pooler" in key or key == "lm_head.bias" for key in info["missing_keys"])
    assert error(answer(ours, batch), answer(theirs.eval(), batch)) <= 1e-5
    assert zoo.verify(tmp_path / "second").ok
    again = zoo.load(tmp_path / "second")
    assert again.config == ours.config and torch.equal(answer(again, batch), answer(ours, batch))
    assert isinstance(json.loads((tmp_path / "second" / "config.json").read_text())["attention_window"], list)


def test_swapping_any_two_lines_of_the_table_is_caught(tmp_path):
    theirs, batch = transformers_text(tmp_path, "LongformerForMaskedLM"), batch_for("", rows=(9, 4), chosen=0.3)
    check_swaps(tmp_path, lambda model: answer(model, batch), answer(theirs, batch), 18)


def losses(model, logits, dtype):
    """Of a loop of 20 steps in which the first token tells the class."""
    model = model.to(dtype).train()
    optimizer, history = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05), []
    for step in range(20):
        batch = ragged(rows=(19, 4, 17, 2, 9, 5), seed=step % 2)
        loss = F.cross_entropy(logits(model(**batch)), batch["input_ids"][:, 0] % 3)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    return torch.tensor(history, dtype=torch.float64)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-4), (torch.float64, 1e-8)])
def test_training_losses_are_theirs(tmp_path, exact_softmax, dtype, tolerance):
    options = dict(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    theirs = transformers_text(tmp_path, "LongformerForSequenceClassification", **options)
    ours = losses(zoo.load(tmp_path), lambda output: output, dtype)
    expected = losses(theirs, lambda output: output.logits, dtype)
    assert (ours / expected - 1).abs().max() <= tolerance and expected[-5:].mean() < expected[:5].mean()


# --- the files that people download -----------------------------------------------------------------------------------


def published(folder, architectures):
    """allenai/longformer-base-4096 and -large-4096: .bin, position ids, a pooler, with the masked-LM head."""
    theirs = transformers_text(folder, "LongformerForMaskedLM")
    tensors = {name: tensor.clone() for name, tensor in load_file(folder / "model.safetensors").items()}
    tensors["lm_head.decoder.weight"] = tensors["longformer.embeddings.word_embeddings.weight"].clone()
    tensors["longformer.embeddings.position_ids"] = torch.arange(40)[None]
    tensors |= {"longformer.pooler.dense.weight": torch.randn(32, 32), "longformer.pooler.dense.bias": torch.randn(32)}
    (folder / "model.safetensors").unlink()
    torch.save(tensors, folder / "pytorch_model.bin")
    extra = {"attention_mode": "longformer", "gradient_checkpointing": False, "ignore_attention_mask": False}
    edit_json(folder / "config.json", architectures=architectures or ..., **extra)
    return theirs


@pytest.mark.parametrize("architectures", [None, ["LongformerForMaskedLM"]])
def test_what_people_download(tmp_path, architectures):
    theirs, batch = published(tmp_path, architectures), batch_for("", chosen=0.2)
    ours = zoo.load(tmp_path)
    assert not ours.load_report.initialized and "longformer.embeddings.position_ids" in ours.load_report.dropped
    theirs = theirs if architectures else theirs.longformer
    assert error(answer(ours, batch), answer(theirs, batch)) <= 1e-5
    model = zoo.load(tmp_path, labels=["no", "perhaps", "yes"])
    assert model(**ragged()).shape == (3, 3)
    assert all(name.startswith("head.") for name in model.load_report.initialized)


def test_vocab_json_and_merges_are_those_of_roberta(tmp_path):
    import transformers

    published(tmp_path, None)
    save_text_tokenizer(tmp_path / "bpe", "roberta")
    model = json.loads((tmp_path / "bpe" / "tokenizer.json").read_text())["model"]
    (tmp_path / "vocab.json").write_text(json.dumps(model["vocab"]))
    merges = [" ".join(pair) if isinstance(pair, list) else pair for pair in model["merges"]]
    (tmp_path / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    ours, theirs = zoo.load(tmp_path).preprocess, transformers.AutoTokenizer.from_pretrained(tmp_path)
    for text in ("the soup", "and far"):
        assert ours.encode(text) == theirs(text)["input_ids"]
    assert set(ours(["a dog", "soup"])) == set(theirs(["a dog", "soup"])) == {"input_ids", "attention_mask"}


# --- attention --------------------------------------------------------------------------------------------------------


def test_another_kind_drops_the_global_projections_and_says_so(tmp_path):
    transformers_text(tmp_path, "LongformerForMaskedLM")
    model = zoo.load(tmp_path, attention="softmax")
    dropped = [name for name in model.load_report.dropped if "_global" in name]
    assert len(dropped) == 2 * 3 * 2 and not model.load_report.initialized
    batch = batch_for("", chosen=0.2)
    with pytest.raises(
        ValueError, match=r"no layer has global tokens.*attention='softmax'.*omit global_attention_mask"
    ):
        model(**batch)
    del batch["global_attention_mask"]
    with pytest.raises(ValueError, match="attention='softmax'"):
        zoo.export(model, tmp_path / "theirs", format="transformers")
    wide = zoo.load(tmp_path, attention_window=80)  # sees all
    assert error(answer(wide, batch), answer(model, batch)) <= 1e-6


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("rows", [None, [2, 0]])
@pytest.mark.parametrize("drop", [True, False])
def test_maps_are_whole_and_give_the_output(tmp_path, side, rows, drop):
    transformers_text(tmp_path, "LongformerModel")
    model = zoo.load(tmp_path)
    model.drop_padding = drop
    batch, seen = batch_for("", rows=(13, 9, 4), chosen=0.3, side=side), {}
    mixer = model.blocks[1].mixer
    handle = mixer.register_forward_hook(lambda module, inputs, output: seen.update(y=output))
    with zoo.capture(model, rows=rows) as maps, torch.no_grad():
        y, (x,) = model.encode(**batch, layers=[0])
    handle.remove()
    keep = batch["attention_mask"].bool()
    chosen = batch["global_attention_mask"].bool() & keep
    w = maps["blocks.1.mixer"]
    with torch.no_grad():
        v, own = mixer.split(mixer.v(x)), mixer.split(mixer.v_global(x))
        picked = range(3) if rows is None else rows
        assert w.shape == (len(picked), 4, 13, 13)
        for number, row in enumerate(picked):
            real = keep[row]
            assert torch.allclose(w[number].sum(-1)[:, real], torch.ones(()), atol=1e-5)
            assert not w[number][:, :, ~real].any() and not w[number][:, ~real].any()
            mixed = torch.where(chosen[row][:, None], w[number] @ own[row], w[number] @ v[row])
            out = mixer.out(mixed.transpose(0, 1).flatten(1))
            h = model.blocks[1].norm1(x[row] + out)
            expected = model.blocks[1].norm2(h + model.blocks[1].mlp(h))
            assert torch.allclose(expected[real], y[row][real], atol=1e-5)


@pytest.mark.parametrize("side", ["right", "left"])
def test_padding_changes_nothing_under_global_tokens(tmp_path, side):
    transformers_text(tmp_path, "LongformerModel")
    model, batch = zoo.load(tmp_path), batch_for("", rows=(13, 9, 4), chosen=0.3, side=side)
    for model.drop_padding in (True, False):
        y = answer(model, batch)
        for row, keep in enumerate(batch["attention_mask"].bool()):
            alone = {key: x[row : row + 1, keep] for key, x in batch.items()}
            assert torch.allclose(y[row, keep], answer(model, alone)[0], atol=1e-5)


def test_queries_of_global_tokens_are_computed_for_these_alone(tmp_path):
    transformers_text(tmp_path, "LongformerForSequenceClassification")
    model, counts = zoo.load(tmp_path), []
    model.blocks[0].mixer.q_global.register_forward_hook(lambda module, inputs, output: counts.append(output.shape[:2]))
    model(**ragged(rows=(20, 20)))
    assert counts == [(2, 1)]


def test_packed_documents_have_global_tokens_of_their_own(tmp_path):
    transformers_text(tmp_path, "LongformerModel")
    model, batch = zoo.load(tmp_path), batch_for("", rows=(7, 5), chosen=0.4)
    ids, chosen = batch["input_ids"], batch["global_attention_mask"]
    packed = torch.cat([ids[0, :7], ids[1, :5]])[None]
    documents = torch.tensor([[0] * 7 + [1] * 5])
    with torch.no_grad():
        alone = model(**batch)
        y = model(input_ids=packed, document_ids=documents,
                  global_attention_mask=torch.cat([chosen[0, :7], chosen[1, :5]])[None])  # fmt: skip
    assert torch.allclose(y[0, :7], alone[0, :7], atol=1e-5) and torch.allclose(y[0, 7:], alone[1, :5], atol=1e-5)


def test_a_question_is_global_and_where_there_is_none_the_first_token(tmp_path):
    transformers_text(tmp_path, "LongformerForQuestionAnswering")
    model, batch = zoo.load(tmp_path), ragged(rows=(12, 9), side="left")
    batch["input_ids"][0, 4] = SEP
    chosen = torch.zeros_like(batch["input_ids"])
    chosen[0, :4], chosen[1, 3] = 1, 1
    with torch.no_grad():
        assert torch.equal(model(**batch), model(**batch, global_attention_mask=chosen))


@pytest.mark.parametrize("overrides, message", [
    (dict(attention_window=5), "attention_window=5: expected even numbers"),
    (dict(attention_window=0), "attention_window=0"),
    (dict(attention_window=(4, 8, 4)), "attention_window has 3 numbers and depth=2"),
    (dict(pad_token_id=None), "pad_token_id=None"),
])  # fmt: skip
def test_options_that_do_not_fit_are_named(overrides, message):
    with pytest.raises(ValueError, match=message):
        zoo.create_model("longformer_nano", **overrides)


@pytest.mark.parametrize("mask, message", [
    (torch.full((2, 8), 2), "global_attention_mask contains 2"),
    (torch.ones(2, 8), r"global_attention_mask is \(2, 8\) of torch.float32"),
    (torch.ones(2, 7, dtype=torch.long), r"global_attention_mask is \(2, 7\).*expected \(2, 8\)"),
])  # fmt: skip
def test_global_masks_that_do_not_fit_are_named(mask, message):
    model = zoo.create_model("longformer_nano", seed=0)
    with pytest.raises(ValueError, match=message):
        model(input_ids=torch.ones(2, 8, dtype=torch.long), global_attention_mask=mask)


@pytest.mark.parametrize("change, message", [
    ({"onnx_export": True}, "onnx_export=True is not supported"),
    ({"attention_mode": "tvm"}, "attention_mode='tvm' is not supported"),
    ({"attention_window": [4, 8, 8]}, "attention_window has 3 numbers"),
    ({"architectures": ["LongformerForMultipleChoice"]}, "LongformerForMultipleChoice"),
])  # fmt: skip
def test_what_we_do_not_compute_is_refused_by_name(tmp_path, change, message):
    transformers_text(tmp_path, "LongformerModel")
    edit_json(tmp_path / "config.json", **change)
    with pytest.raises(ValueError, match=message):
        zoo.load(tmp_path)


@torch.no_grad()
def test_one_token_and_a_text_of_padding_alone():
    model = zoo.create_model("longformer_nano", seed=0, head="classify").eval()
    assert model(input_ids=torch.tensor([[5]])).shape == (1, 2)
    batch = {"input_ids": torch.tensor([[5, 6], [1, 1]]), "attention_mask": torch.tensor([[1, 1], [0, 0]])}
    assert model(**batch).isfinite().all()
