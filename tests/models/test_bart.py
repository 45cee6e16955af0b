"""BART and mBART against transformers, through files on disk, every parameter random."""

import re

import pytest
import torch
import torch.nn.functional as F
from peers import edit_json, error
from seq2seq_files import check_training, export_and_compare, ragged, scores_of, seq2seq_folder
from torch import Tensor

import zoo
from zoo.models.registry import build, family

TINY = dict(
    vocab_size=61, d_model=32, encoder_layers=2, decoder_layers=3, encoder_attention_heads=4,
    decoder_attention_heads=8, encoder_ffn_dim=48, decoder_ffn_dim=40, max_position_embeddings=40, pad_token_id=1,
    bos_token_id=0, eos_token_id=2, decoder_start_token_id=2, forced_eos_token_id=2,
)  # fmt: skip
CASES = {
    "bart": ("BartForConditionalGeneration", {}),
    "bart, scaled, relu": ("BartForConditionalGeneration", dict(scale_embedding=True, activation_function="relu")),
    "bart hidden states": ("BartModel", {}),
    "mbart": ("MBartForConditionalGeneration", dict(scale_embedding=True, activation_function="relu")),
    "mbart plain": ("MBartForConditionalGeneration", {}),
    "mbart hidden states": ("MBartModel", {}),
}
BOUNDS = {torch.float32: 1e-5, torch.float64: 1e-9}


def folder_of(path, name: str, **options):
    cls, own = CASES[name]
    return seq2seq_folder(path, cls, **TINY | own | options)


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize("name", CASES)
def test_scores_equal_those_of_transformers_and_export_back(name, dtype, tmp_path):
    theirs = folder_of(tmp_path / "theirs", name).to(dtype)
    ours = zoo.load(tmp_path / "theirs", dtype=dtype)
    batch = ragged(50)
    assert error(scores_of(ours, batch), scores_of(theirs, batch)) <= BOUNDS[dtype]
    assert not ours.load_report.initialized
    export_and_compare(ours, theirs, tmp_path / "back", batch)


@pytest.mark.parametrize("dtype, bound", [(torch.float32, 1e-4), (torch.float64, 1e-8)], ids=["float32", "float64"])
@pytest.mark.parametrize("name", ["bart", "mbart"])
def test_twenty_steps_of_training_equal_those_of_transformers(name, dtype, bound, tmp_path):
    theirs = folder_of(tmp_path, name, dropout=0.0).to(dtype)
    check_training(zoo.load(tmp_path, dtype=dtype), theirs, start=2, bound=bound)


def test_saved_and_verified(tmp_path):
    folder_of(tmp_path / "theirs", "mbart")
    assert zoo.verify(tmp_path / "theirs").ok
    ours = zoo.load(tmp_path / "theirs")
    zoo.save(ours, tmp_path / "ours")
    batch = ragged(50)
    assert torch.equal(scores_of(zoo.load(tmp_path / "ours"), batch), scores_of(ours, batch))
    assert zoo.verify(tmp_path / "ours").ok


# --- Published files --------------------------------------------------------------------------------------------------

SHARED = ("model.shared.weight", "model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight")
# repository: (class, tensors that its file has beyond those of the layers)
PUBLISHED = {
    "facebook/bart-base": ("BartModel", tuple(name.removeprefix("model.") for name in SHARED)),
    "facebook/bart-large-cnn": ("BartForConditionalGeneration", (
        *SHARED, "final_logits_bias", "model.encoder.version", "model.decoder.version"
    )),
    "facebook/mbart-large-50": ("MBartForConditionalGeneration", (*SHARED, "final_logits_bias", "lm_head.weight")),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_files_with_the_names_of_published_ones(name, tmp_path):
    cls, names = PUBLISHED[name]
    theirs = seq2seq_folder(tmp_path, cls, **TINY)
    (tmp_path / "model.safetensors").unlink()
    tensors = dict(theirs.state_dict())
    kept = {key: tensors.get(key, torch.tensor([3.0])) for key in names}
    kept |= {key: value for key, value in tensors.items() if re.search(r"\.(layers|layer_?norm.*|embed_pos.*)\.", key)}
    assert not tensors.keys() - kept.keys() - {"lm_head.weight", "final_logits_bias"}
    torch.save({key: value.clone() for key, value in kept.items()}, tmp_path / "pytorch_model.bin")
    ours = zoo.load(tmp_path)
    batch = ragged(60)
    assert error(scores_of(ours, batch), scores_of(theirs, batch)) <= 1e-5


@pytest.mark.parametrize("variant", ["bart_base", "bart_large", "bart_large_cnn", "mbart_large_cc25", "mbart_large_50"])
def test_published_numbers_of_parameters(variant):
    transformers = pytest.importorskip("transformers")
    large = dict(vocab_size=50265) if "mbart" not in variant else dict(vocab_size=250027)
    sizes = {
        "bart_base": dict(vocab_size=50265, d_model=768, encoder_layers=6, decoder_layers=6,
                          encoder_attention_heads=12, decoder_attention_heads=12, encoder_ffn_dim=3072,
                          decoder_ffn_dim=3072),
        "bart_large_cnn": dict(vocab_size=50264),
        "mbart_large_50": dict(vocab_size=250054),
    }  # fmt: skip
    name = "MBart" if variant.startswith("mbart") else "Bart"
    with torch.device("meta"):
        config = getattr(transformers, f"{name}Config")(**sizes.get(variant, large))
        theirs = getattr(transformers, f"{name}ForConditionalGeneration")(config)
    own = family("bart")
    ours = build(own, own.config(**own.variants[variant]))
    count = sum(p.numel() for p in ours.parameters())
    assert count == sum(p.numel() for p in theirs.parameters())
    if variant == "bart_base":
        assert count == 139_420_416


def test_an_untied_model_is_refused(tmp_path):
    folder_of(tmp_path, "bart")
    edit_json(tmp_path / "config.json", tie_word_embeddings=False)
    with pytest.raises(zoo.LoadError, match="tie_word_embeddings=False is not supported"):
        zoo.load(tmp_path)


# --- Classes ----------------------------------------------------------------------------------------------------------


def texts(vocab: int = 50) -> dict[str, Tensor]:
    """Three rows that end with an end token; the second is a pair, whose parts both do; padding on the right."""
    batch = ragged(vocab)
    ids, keep = batch["input_ids"], batch["attention_mask"]
    ids[:, 3], ids[0, 10], ids[1, 5], ids[2, 8] = 2, 2, 2, 2
    return {"input_ids": torch.where(keep == 1, ids, 1), "attention_mask": keep}


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
def test_classes_equal_those_of_transformers_and_export_back(dtype, tmp_path):
    names = {0: "contradiction", 1: "neutral", 2: "entailment"}  # facebook/bart-large-mnli
    theirs = seq2seq_folder(tmp_path / "theirs", "BartForSequenceClassification", **TINY, id2label=names).to(dtype)
    ours = zoo.load(tmp_path / "theirs", dtype=dtype)
    batch = texts()
    assert error(scores_of(ours, batch), scores_of(theirs, batch)) <= BOUNDS[dtype]
    assert ours.labels == list(names.values()) and not ours.load_report.initialized
    export_and_compare(ours, theirs, tmp_path / "back", batch)
    assert zoo.verify(tmp_path / "theirs").ok
    zoo.save(ours, tmp_path / "ours")
    assert zoo.verify(tmp_path / "ours").ok


def test_classes_do_not_depend_on_padding():
    model = zoo.create_model("bart_nano", head="classify", num_classes=4).double().eval()
    batch = texts()
    with torch.no_grad():
        whole = model(**batch)
        padding = (batch["attention_mask"] == 0).sum(1).tolist()
        left = {name: torch.stack([row.roll(n) for row, n in zip(value, padding)]) for name, value in batch.items()}
        alone = [model(ids[keep == 1][None]) for ids, keep in zip(*batch.values())]
        assert error(model(**left), whole) <= 1e-12
        assert error(torch.cat(alone), whole) <= 1e-12
        assert error(model(batch["input_ids"], lengths=batch["attention_mask"].sum(1)), whole) <= 1e-12
        compiled = torch.compile(model, backend="eager", fullgraph=True)
        assert error(compiled(**batch), whole) <= 1e-12


def test_a_new_head_is_trained_on_all_of_the_model():
    model = zoo.create_model("bart_nano")
    model.reset_head(3)
    batch = texts()
    scores = model(**batch)
    assert scores.shape == (3, 3)
    F.cross_entropy(scores, torch.tensor([0, 1, 2])).backward()
    assert all(p.grad is not None for p in model.parameters())


def test_what_a_classifier_refuses(tmp_path):
    model = zoo.create_model("bart_nano", head="classify", num_classes=4).eval()
    with pytest.raises(ValueError, match="row 1 of input_ids has no end token 2"):
        model(torch.tensor([[5, 2], [5, 6]]))
    with pytest.raises(ValueError, match="does not use 'decoder_input_ids'"):
        model(torch.tensor([[5, 2]]), decoder_input_ids=torch.tensor([[2, 5]]))
    with pytest.raises(ValueError, match="needs eos_token_id and decoder_start_token_id"):
        zoo.create_model("bart_nano", head="classify", eos_token_id=None)
    with pytest.raises(ValueError, match="pool='mean': BART"):
        zoo.create_model("bart_nano", pool="mean")
    with pytest.raises(ValueError, match="head='token'"):
        zoo.create_model("bart_nano", head="token")
    with pytest.raises(ValueError, match="head='lm'"):
        zoo.generate(model, torch.tensor([[5, 2]]))


# --- Languages --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mbart-large-50", "mbart-large-cc25", "mbart-large-en-ro"])
@torch.no_grad()
def test_the_target_language_is_the_first_token(name, tmp_path):
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.MBartTokenizer(src_lang="de_DE")
    tokenizer.save_pretrained(tmp_path)
    theirs = seq2seq_folder(tmp_path, "MBartForConditionalGeneration", **TINY)
    start_id = {"mbart-large-50": 2, "mbart-large-cc25": None}.get(name, tokenizer.convert_tokens_to_ids("ar_AR"))
    theirs.config.decoder_start_token_id = theirs.generation_config.decoder_start_token_id = start_id
    theirs.save_pretrained(tmp_path)
    ours, batch = zoo.load(tmp_path), ragged(30)
    del batch["decoder_input_ids"]
    code = tokenizer.convert_tokens_to_ids("ro_RO")
    start = {"forced_bos_token_id": code} if name == "mbart-large-50" else {"decoder_start_token_id": code}
    for options in ({}, {"num_beams": 3}):
        expected = theirs.generate(**batch, max_length=12, do_sample=False, **start, **options)
        new = 12 - (2 if name == "mbart-large-50" else 1)
        assert torch.equal(zoo.generate(ours, **batch, max_new_tokens=new, tgt_lang="ro_RO", **options), expected)
    assert ours.preprocess("▁")["input_ids"][0].tolist()[-2:] == [2, tokenizer.convert_tokens_to_ids("de_DE")]
    with pytest.raises(ValueError, match=r"has no such language \(it has ar_AR, cs_CZ"):
        zoo.generate(ours, **batch, tgt_lang="xx_XX")


def test_a_forced_first_token_and_no_tokenizer():
    model = zoo.create_model("bart_nano", forced_bos_token_id=0)
    with pytest.raises(ValueError, match="the model has no tokenizer"):
        zoo.generate(model, torch.tensor([[5, 2]]), tgt_lang="ro_RO")
    with pytest.raises(TypeError, match="has no option 'language'"):
        zoo.generate(model, torch.tensor([[5, 2]]), language="ro_RO")
