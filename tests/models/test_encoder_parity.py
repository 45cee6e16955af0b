"""The same files through us and through transformers: BERT, RoBERTa, XLM-R, DistilBERT, ModernBERT with every head."""

import pytest
import torch
import torch.nn.functional as F
from peers import edit_json, error
from table_swaps import check_swaps
from text_peers import answer, ragged, transformers_text

import zoo

HEADS = ("Model", "ForMaskedLM", "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering")
MODELS = ("Bert", "Roberta", "XLMRoberta", "DistilBert", "ModernBert")
NAMES = [name + head for name in MODELS for head in HEADS]
OPTIONS = {
    "BertForMaskedLM": dict(hidden_act="gelu_new", tie_word_embeddings=False, layer_norm_eps=1e-5, type_vocab_size=3),
    "RobertaForMaskedLM": dict(tie_word_embeddings=False, hidden_act="relu", pad_token_id=3),
    "DistilBertForMaskedLM": dict(tie_word_embeddings=False, activation="relu", sinusoidal_pos_embds=True),
    "ModernBertForSequenceClassification": dict(classifier_pooling="mean", classifier_activation="silu", norm_eps=1e-6),
    "ModernBertForMaskedLM": dict(tie_word_embeddings=False, global_attn_every_n_layers=2, hidden_activation="silu"),
}


def batch_for(name, **options):
    return ragged(types=name.startswith("Bert"), **options)


@pytest.mark.parametrize("name, options", [(name, {}) for name in NAMES] + list(OPTIONS.items()))
def test_same_numbers_from_the_same_files(tmp_path, name, options):
    theirs, batch = transformers_text(tmp_path, name, **options), batch_for(name)
    ours = zoo.load(tmp_path)
    assert error(answer(ours, batch), answer(theirs, batch)) <= 1e-5
    assert not (ours.load_report.initialized or ours.load_report.resampled or ours.training)
    if "Modern" not in name:  # its rotary tables are float32
        ours = zoo.load(tmp_path, dtype=torch.float64)
        assert error(answer(ours, batch), answer(theirs.double(), batch)) <= 1e-9


@pytest.mark.parametrize("name, options", [(name, {}) for name in NAMES] + list(OPTIONS.items()))
def test_round_trip_through_their_format(tmp_path, name, options):
    """Ours, exported: their loader runs on the folder and gives our numbers, and so do we."""
    transformers_text(tmp_path / "first", name, **options)
    ours, batch = zoo.load(tmp_path / "first"), batch_for(name)
    zoo.export(ours, tmp_path / "second")
    import transformers

    theirs, info = getattr(transformers, name).from_pretrained(tmp_path / "second", output_loading_info=True)
    assert not info["unexpected_keys"] and not info["mismatched_keys"]
    unused = ("pooler", "cls.predictions.bias", "lm_head.bias")  # of bare models and, the last two, of untied ones
    assert all(any(name in key for name in unused) for key in info["missing_keys"])
    assert error(answer(ours, batch), answer(theirs.eval(), batch)) <= 1e-5
    assert zoo.verify(tmp_path / "second").ok
    again = zoo.load(tmp_path / "second")
    assert again.config == ours.config and torch.equal(answer(again, batch), answer(ours, batch))


def test_pretraining_files_give_the_masked_language_model(tmp_path):
    theirs, batch = transformers_text(tmp_path, "BertForPreTraining"), ragged(types=True)
    ours = zoo.load(tmp_path)
    with torch.no_grad():
        expected = theirs(**batch).prediction_logits * batch["attention_mask"][..., None]
    assert error(answer(ours, batch), expected) <= 1e-5
    assert {"cls.seq_relationship.weight", "bert.pooler.dense.weight"} <= set(ours.load_report.dropped)


@pytest.mark.parametrize(
    "name, prefix", [("BertModel", ""), ("BertForSequenceClassification", "bert."), ("RobertaModel", "")]
)
def test_the_pooler_is_a_head(tmp_path, name, prefix):
    theirs, batch = transformers_text(tmp_path, name), ragged(types=name.startswith("Bert"))
    ours = zoo.load(tmp_path, head="pool")
    body = getattr(theirs, "bert", theirs)
    with torch.no_grad():
        assert error(ours(**batch), body(**batch).pooler_output) <= 1e-5
    zoo.export(ours, tmp_path / "again")
    again = type(body).from_pretrained(tmp_path / "again").eval()
    with torch.no_grad():
        assert error(ours(**batch), again(**batch).pooler_output) <= 1e-5


@pytest.mark.parametrize("name, eps", [
    ("BertForMaskedLM", 1e-12), ("RobertaForMaskedLM", 1e-5), ("DistilBertForMaskedLM", 1e-12),
    ("ModernBertForMaskedLM", 1e-5),
])  # fmt: skip
def test_eps_shows_where_activations_are_small(tmp_path, name, eps):
    theirs = transformers_text(tmp_path, name)
    with torch.no_grad():
        for key, parameter in theirs.named_parameters():
            if "embeddings" in key and "orm" not in key:
                parameter.mul_(1e-3)
    theirs.save_pretrained(tmp_path)
    ours, batch = zoo.load(tmp_path), batch_for(name)
    assert ours.config.norm_eps == eps
    assert error(answer(ours, batch), answer(theirs, batch)) <= 1e-5
    assert error(answer(zoo.load(tmp_path, norm_eps=1e-6), batch), answer(theirs, batch)) > 1e-4


@pytest.mark.parametrize("name", ["BertForMaskedLM", "RobertaForSequenceClassification", "DistilBertForMaskedLM",
                                  "ModernBertForMaskedLM"])  # fmt: skip
def test_swapping_any_two_lines_of_a_table_is_caught(tmp_path, name):
    theirs, batch = transformers_text(tmp_path, name), batch_for(name, rows=(7, 4))
    check_swaps(tmp_path, lambda model: answer(model, batch), answer(theirs, batch), 10)


def losses(model, logits, dtype, steps=20):
    """Of a loop of 20 steps in which the first token tells the class."""
    model = model.to(dtype).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05)
    history = []
    for step in range(steps):
        batch = ragged(rows=(9, 4, 7, 2, 9, 5), seed=step % 2)
        labels = batch["input_ids"][:, 0] % 3
        loss = F.cross_entropy(logits(model(**batch)), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    return torch.tensor(history, dtype=torch.float64)


NO_DROPOUT = {
    "Bert": dict(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0),
    "Roberta": dict(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0),
    "DistilBert": dict(dropout=0.0, attention_dropout=0.0, seq_classif_dropout=0.0),
    "ModernBert": {},
}


@pytest.mark.parametrize("name, dtype, tolerance", [
    ("Bert", torch.float32, 1e-4), ("Bert", torch.float64, 1e-8), ("Roberta", torch.float64, 1e-8),
    ("DistilBert", torch.float64, 1e-8), ("ModernBert", torch.float32, 1e-4),
])  # fmt: skip
def test_training_losses_are_theirs(tmp_path, name, dtype, tolerance):
    theirs = transformers_text(tmp_path, f"{name}ForSequenceClassification", **NO_DROPOUT[name])
    ours = losses(zoo.load(tmp_path), lambda output: output, dtype)
    expected = losses(theirs, lambda output: output.logits, dtype)
    assert (ours / expected - 1).abs().max() <= tolerance and expected[-5:].mean() < expected[:5].mean()


@pytest.mark.parametrize("change, message", [
    ({"model_type": "albert"}, "'albert' is not supported"),
    ({"model_type": "robertas"}, "did you mean 'roberta'"),
    ({"architectures": ["BertForNextSentencePrediction"]}, "BertForNextSentencePrediction' .* is not supported"),
    ({"position_embedding_type": "relative_key"}, "position_embedding_type='relative_key' is not supported"),
    ({"is_decoder": True}, "is_decoder=True is not supported"),
    ({"hidden_act": "mish"}, "act='mish'"),
])  # fmt: skip
def test_what_we_do_not_compute_is_refused_by_name(tmp_path, change, message):
    transformers_text(tmp_path, "BertModel")
    edit_json(tmp_path / "config.json", **change)
    with pytest.raises(ValueError, match=message):
        zoo.load(tmp_path)


@pytest.mark.parametrize("change, message", [
    ({"layer_types": ["sliding_attention"] * 4}, "only full attention in every n-th layer"),
    ({"attention_bias": True}, "attention_bias=True is not supported"),
    ({"rope_parameters": {"full_attention": {"rope_type": "yarn"}}}, "rope_type='yarn' is not supported"),
])  # fmt: skip
def test_modernbert_refuses_what_it_does_not_compute(tmp_path, change, message):
    transformers_text(tmp_path, "ModernBertModel")
    edit_json(tmp_path / "config.json", **change)
    with pytest.raises(zoo.LoadError, match=message):
        zoo.load(tmp_path)


def test_modernbert_as_its_first_files_say_it(tmp_path):
    theirs, batch = transformers_text(tmp_path, "ModernBertModel"), ragged()
    edit_json(tmp_path / "config.json", layer_types=..., rope_parameters=..., global_attn_every_n_layers=3,
              global_rope_theta=160000.0, local_rope_theta=10000.0)  # fmt: skip
    assert error(answer(zoo.load(tmp_path), batch), answer(theirs, batch)) <= 1e-5
