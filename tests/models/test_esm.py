"""ESM-2 and ESM-1b: the same files through us and through transformers, contacts, and the tokenizer of residues."""

from pathlib import Path

import pytest
import torch
from peers import edit_json, error, randomize
from table_swaps import check_swaps
from text_peers import answer
from torch import Tensor, nn

import zoo
from zoo.models.esm.contacts import average_product_corrected
from zoo.models.registry import build, family
from zoo.preprocessing.protein import ALPHABET, ProteinProcessor

TINY = {
    "vocab_size": 33, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64,
    "max_position_embeddings": 40, "pad_token_id": 1, "mask_token_id": 32, "position_embedding_type": "rotary",
    "token_dropout": True, "layer_norm_eps": 1e-5, "num_labels": 3, "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}  # fmt: skip
ABSOLUTE = {"position_embedding_type": "absolute", "emb_layer_norm_before": True}
CLASSES = ("EsmModel", "EsmForMaskedLM", "EsmForSequenceClassification", "EsmForTokenClassification")
PROTEINS = ("MKTAYIAKQRQISFVKSHFSRQLEE", "GAVLIPFMW", "MX<mask>ZUO-.BKK<mask>")


def esm_folder(folder: Path, name: str = "EsmForMaskedLM", **options) -> nn.Module:
    """A tiny model of transformers' class `name` with its tokenizer, in `folder`; attention maps can be read."""
    import transformers

    model = randomize(getattr(transformers, name)(transformers.EsmConfig(**TINY | options)))
    for buffer_name, buffer in model.named_buffers():
        if buffer_name.endswith("inv_freq"):  # published ones have passed through float16
            buffer.copy_(buffer.half().float() * 1.01)
    model.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(ALPHABET))
    transformers.EsmTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    model.set_attn_implementation("eager")
    return model


def batch() -> dict[str, Tensor]:
    return ProteinProcessor()(list(PROTEINS))


@pytest.mark.parametrize("options", [{}, ABSOLUTE], ids=["rotary", "absolute"])
@pytest.mark.parametrize("name", CLASSES)
def test_same_numbers_both_ways(tmp_path, name, options):
    """Padded rows with masks; our export, read by transformers again."""
    import transformers

    theirs, rows = esm_folder(tmp_path / "a", name, **options), batch()
    ours = zoo.load(tmp_path / "a")
    assert not ours.load_report.initialized and ours.modality == "protein"
    assert error(answer(ours, rows), answer(theirs, rows)) <= 1e-5
    zoo.export(ours, tmp_path / "b")
    again, info = getattr(transformers, name).from_pretrained(tmp_path / "b", output_loading_info=True)
    assert not info["unexpected_keys"] and not info["mismatched_keys"]
    assert all("pooler" in key for key in info["missing_keys"])
    assert error(answer(ours, rows), answer(again.eval(), rows)) <= 1e-5
    for one, other in zip(*(dict(model.named_parameters()).items() for model in (theirs, again)), strict=True):
        assert one[0] == other[0] and ("pooler" in one[0] or torch.equal(one[1], other[1])), one[0]
    if options:  # their rotary tables are float32
        double = zoo.load(tmp_path / "a", dtype=torch.float64)
        assert error(answer(double, rows), answer(theirs.double(), rows)) <= 1e-9


@pytest.mark.parametrize("options", [{}, dict(token_dropout=False)], ids=["", "no token dropout"])
def test_contacts_are_theirs_both_ways(tmp_path, options):
    import transformers

    theirs, rows = esm_folder(tmp_path / "a", **options), batch()
    ours = zoo.load(tmp_path / "a", head="contacts")
    expected = theirs.predict_contacts(rows["input_ids"], rows["attention_mask"])
    assert error(ours.predict_contacts(**rows), expected) <= 1e-5
    with torch.no_grad():
        assert error(ours(**rows).sigmoid(), expected) <= 1e-5
    zoo.export(ours, tmp_path / "b")
    again = transformers.EsmModel.from_pretrained(tmp_path / "b", attn_implementation="eager").eval()
    assert (
        error(ours.predict_contacts(**rows), again.predict_contacts(rows["input_ids"], rows["attention_mask"])) <= 1e-5
    )
    zoo.save(ours, tmp_path / "c")
    assert torch.equal(zoo.load(tmp_path / "c").predict_contacts(**rows), ours.predict_contacts(**rows))


def test_the_contact_head_stays_beside_other_heads(tmp_path, capsys):
    """Through our files, to head="contacts" and back; a model without it says so."""
    theirs, rows = esm_folder(tmp_path / "a"), batch()
    expected = theirs.predict_contacts(rows["input_ids"], rows["attention_mask"])
    loaded = zoo.load(tmp_path / "a")
    assert loaded.load_report.plain and loaded.config.contact_head
    assert not any(p.requires_grad for p in loaded.contact_head.parameters())
    zoo.save(loaded, tmp_path / "b")
    alone = zoo.load(tmp_path / "b", head="contacts")
    assert not alone.load_report.initialized and alone.contact_head is None and alone.head.proj.weight.requires_grad
    zoo.save(alone, tmp_path / "c")
    both = zoo.load(tmp_path / "c", head=None)
    assert both.load_report.plain
    for model in (loaded, zoo.load(tmp_path / "b"), alone, both, zoo.load(tmp_path / "a", head="pool")):
        assert error(model.predict_contacts(**rows), expected) <= 1e-5
    capsys.readouterr()
    without = zoo.load(tmp_path / "a", contact_head=False)
    assert {"contact_head.proj.weight", "contact_head.proj.bias"} <= set(without.load_report.dropped)
    assert "contact_head" in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"head='masked_lm' and no contact head.*head='contacts'"):
        without.predict_contacts(**rows)
    zoo.export(without, tmp_path / "d")
    assert not zoo.load(tmp_path / "d").config.contact_head
    with pytest.raises(ValueError, match=r"mixer='retention': contact_head=True"):
        zoo.create_model("esm2_t6_8m", contact_head=True, mixer="retention", width=32, depth=1, heads=4)


def contacts_model(**options) -> zoo.Model:
    small = dict(width=32, depth=2, heads=4, mlp_dim=48)
    return randomize(zoo.create_model("esm2_t6_8m", head="contacts", **small | options))


def test_contacts_of_a_padded_row_are_those_of_the_row_alone():
    model, rows = contacts_model(), batch()
    left = {"input_ids": rows["input_ids"].roll(3, 1), "attention_mask": rows["attention_mask"].roll(3, 1)}
    for given in (rows, left):
        if given is left:
            given = {name: x[1:] for name, x in given.items()}  # the first row is full
        together = model(**given).detach()
        for row in range(len(together)):
            keep = given["attention_mask"][row].bool()
            alone = model(input_ids=given["input_ids"][row : row + 1, keep]).detach()[0]
            size = len(alone)
            assert error(together[row, :size, :size], alone) <= 1e-5
            assert torch.equal(together[row, size:, size:], model.head.proj.bias.expand_as(together[row, size:, size:]))
    assert torch.allclose(together, together.mT, atol=1e-6)


@pytest.mark.parametrize("kind", ["softmax", "linear", "local"])
def test_contacts_train_with_every_kind_and_their_maps_can_be_captured(kind):
    model, rows = contacts_model(attention=kind), batch()
    with zoo.capture(model) as maps:
        logits = model(**rows)
    assert set(maps) == {"blocks.0.mixer", "blocks.1.mixer"}
    features = torch.stack(
        [average_product_corrected(w[0, :, 1:-1, 1:-1] + w[0, :, 1:-1, 1:-1].mT) for w in maps.values()]
    )
    by_hand = torch.einsum("lh,lhij->ij", model.head.proj.weight.view(2, 4), features) + model.head.proj.bias
    assert error(logits[0], by_hand) <= 1e-5
    logits.square().mean().backward()
    plain = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    assert {"head.proj.weight", "blocks.1.mixer.q.weight", "tokens.word.weight"} <= plain.keys()
    model.zero_grad()
    model.set_checkpointing(True)
    model.train()(**rows).square().mean().backward()
    assert all(error(p.grad, plain[name]) <= 1e-5 for name, p in model.named_parameters() if name in plain)


def test_what_contacts_need_is_named():
    with pytest.raises(ValueError, match=r"mixer='retention'.*reads the attention maps"):
        contacts_model(mixer="retention")
    with pytest.raises(ValueError, match="omit document_ids="):
        contacts_model()(input_ids=torch.zeros(1, 4).long(), document_ids=torch.zeros(1, 4).long())
    with pytest.raises(ValueError, match="does not use 'labels'"):
        contacts_model()(input_ids=torch.zeros(1, 4).long(), labels=torch.zeros(1))


def test_frequencies_are_those_of_the_file_and_stay_exact_in_half_precision(tmp_path):
    theirs = esm_folder(tmp_path)
    stored = theirs.esm.rotary_embeddings.inv_freq
    for model in (zoo.load(tmp_path, dtype=torch.bfloat16), zoo.load(tmp_path).to(torch.float16)):
        assert model.dtype != torch.float32 and torch.equal(model.rotary.inv_freq, stored)
    zoo.save(zoo.load(tmp_path, dtype=torch.bfloat16), tmp_path / "half")
    assert torch.equal(zoo.load(tmp_path / "half").rotary.inv_freq, stored)


def test_a_row_of_masks_and_packed_proteins():
    model = randomize(zoo.create_model("esm2_t6_8m", width=32, depth=2, heads=4, mlp_dim=48, head=None)).eval()
    assert model(input_ids=torch.full((1, 4), 32)).isfinite().all()
    first, second = (ProteinProcessor()(one)["input_ids"] for one in ("MK<mask>TAY", "GAVL"))
    packed = torch.cat([first, second], 1)
    documents = torch.tensor([[0] * first.shape[1] + [1] * second.shape[1]])
    with torch.no_grad():
        together = model(input_ids=packed, document_ids=documents)
        assert error(together, torch.cat([model(input_ids=first), model(input_ids=second)], 1)) <= 1e-5


def test_the_mean_is_over_residues():
    model = zoo.create_model("esm2_t6_8m", width=32, depth=1, heads=4, head="pool", pool="mean").eval()
    rows = batch()
    with torch.no_grad():
        hidden, pooled = model.encode(**rows), model(**rows)
    for row, count in enumerate(rows["attention_mask"].sum(1).tolist()):
        assert error(pooled[row], hidden[row, 1 : count - 1].mean(0)) <= 1e-5


@pytest.mark.parametrize("variant, million", [("8m", 7.5), ("35m", 33.5), ("150m", 148), ("650m", 651), ("3b", 2838)])
def test_variants_have_the_parameters_of_their_published_configs(variant, million):
    """Ours, on the meta device, and transformers' but for its contact head."""
    import transformers

    own = family("esm")
    name = next(name for name in own.variants if name.endswith(f"_{variant}"))
    ours = build(own, own.config(**own.variants[name]))
    count = sum(p.numel() for p in ours.parameters())
    c = ours.config
    with torch.device("meta"):
        theirs = transformers.EsmForMaskedLM(transformers.EsmConfig(**TINY | dict(
            hidden_size=c.width, num_hidden_layers=c.depth, num_attention_heads=c.heads,
            intermediate_size=4 * c.width)))  # fmt: skip
    assert count == sum(p.numel() for p in theirs.parameters()) - c.depth * c.heads - 1
    assert abs(count / 1e6 - million) < 0.01 * million


def test_swapping_any_two_lines_of_the_table_is_caught(tmp_path):
    theirs, rows = esm_folder(tmp_path), batch()
    check_swaps(tmp_path, lambda model: answer(model, rows), answer(theirs, rows), 12)


@pytest.mark.parametrize("change, message", [
    ({"position_embedding_type": "relative_key"}, "position_embedding_type='relative_key' is not supported"),
    ({"is_folding_model": True}, "is_folding_model=True is not supported"),
    ({"is_decoder": True}, "is_decoder=True is not supported"),
    ({"rope_parameters": {"rope_type": "yarn"}}, "rope_type='yarn' is not supported"),
])  # fmt: skip
def test_what_we_do_not_compute_is_refused_by_name(tmp_path, change, message):
    esm_folder(tmp_path)
    edit_json(tmp_path / "config.json", **change)
    with pytest.raises(zoo.LoadError, match=message):
        zoo.load(tmp_path)


# -- the tokenizer ----------------------------------------------------------------------------------------------------

SEQUENCES = (
    "MKTAYIAKQRQISFVKSHFSRQ", "MK<mask>AY<mask>", "MKJT", "MK12T", "MK T A", "MK1 2T", "M<null_1>K", "M-K.T", "MK*T",
    "  M K ", "M\nK\tT", "MKé<mask> <mask>T", "MK<mask>>", "BZUOX",
)  # fmt: skip


def test_ids_are_those_of_the_tokenizer_of_transformers(tmp_path):
    import transformers

    esm_folder(tmp_path / "a")
    theirs = transformers.EsmTokenizer(str(tmp_path / "a" / "vocab.txt"))
    ours = zoo.load(tmp_path / "a", head="pool").preprocess
    assert isinstance(ours, ProteinProcessor) and ours.special["cls"] == "<cls>" and ours.max_length == 38
    lenient = ProteinProcessor(unknown="unk", max_length=64)
    for text in SEQUENCES:
        assert lenient(text)["input_ids"][0].tolist() == theirs(text)["input_ids"], text
    assert lenient(("MK", "TA"))["input_ids"][0].tolist() == theirs("MK", "TA")["input_ids"]
    together, padded = lenient(list(SEQUENCES)), theirs(list(SEQUENCES), padding=True, return_tensors="pt")
    assert torch.equal(together["input_ids"], padded["input_ids"])
    assert torch.equal(together["attention_mask"], padded["attention_mask"])
    model = zoo.load(tmp_path / "a")
    assert zoo.verify(tmp_path / "a").ok
    zoo.export(model, tmp_path / "b")
    again = transformers.AutoTokenizer.from_pretrained(tmp_path / "b")
    assert (
        type(again).__name__ == "EsmTokenizer" and again(SEQUENCES[0])["input_ids"] == theirs(SEQUENCES[0])["input_ids"]
    )
    assert zoo.load(tmp_path / "b").preprocess == model.preprocess


def test_letters_are_defined_and_unknown_ones_named():
    strict, lenient = ProteinProcessor(), ProteinProcessor(unknown="X")
    assert strict("mktay*\n")["input_ids"].tolist() == strict("MKTAY")["input_ids"].tolist()
    assert lenient("MJ?T")["input_ids"].tolist() == strict("MXXT")["input_ids"].tolist()
    assert strict.decode(strict("MK<mask>T")["input_ids"][0], skip_special=False) == "<cls>MK<mask>T<eos>"
    for text, letter, place in (("MKJ", "J", 3), ("MK<mask>1", "1", 9), ("M*K", r"\*", 2), ("<sep>", "<", 1)):
        with pytest.raises(ValueError, match=f"text 0 has the unknown letter '{letter}' at place {place}"):
            strict(text)
    with pytest.raises(ValueError, match="text 1 is empty"):
        strict(["MK", ""])
    with pytest.raises(ValueError, match="unknown is 'drop'"):
        ProteinProcessor(unknown="drop")
    assert ProteinProcessor.from_dict(lenient.to_dict(), lenient.files()) == lenient
