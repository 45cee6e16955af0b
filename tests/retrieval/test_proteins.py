"""Proteins as inputs: FASTA files in zoo.predict, zoo.embed, zoo.search, the command line, pages and the server."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import zoo
from zoo.cli.main import main
from zoo.inference.server_requests import InputReader, Limits
from zoo.preprocessing.modality import item_modality, of_model
from zoo.retrieval.embed import EmbedError

SMALL = dict(width=32, heads=4, depth=2, mlp_dim=48)
TEXT = ">P1 first\nMKTAYIAK\nQRQ\n>P#2\ngavlip*\n"
SEQUENCES = ["MKTAYIAKQRQ", "GAVLIP"]


def esm(**options) -> zoo.Model:
    return zoo.create_model("esm2_t6_8m", seed=0, **SMALL | options).eval()


@pytest.fixture
def fasta(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.fasta").write_text(TEXT)
    return tmp_path / "in" / "a.fasta"


def test_the_family_decides_what_its_input_ids_are(fasta):
    assert [record.name for record in of_model(esm())] == ["protein"]
    bert = zoo.create_model("bert_tiny", width=32, heads=2, depth=1)
    assert [record.name for record in of_model(bert)] == ["text"]
    assert item_modality(fasta) == item_modality("b.fa.gz") == "protein" and item_modality("MKT") == "text"


def test_predictions_for_sequences_and_for_the_records_of_a_file(fasta):
    model = esm(head="classify", num_classes=3)
    expected = zoo.predict(model, SEQUENCES)
    assert len(expected[0]) == 3
    for given in (fasta, str(fasta)):
        for found, row in zip(zoo.predict(model, given), expected, strict=True):
            assert dict(found) == pytest.approx(dict(row), abs=1e-5)
    ids = model.preprocess(fasta)["input_ids"]
    assert torch.equal(ids, model.preprocess(SEQUENCES)["input_ids"])
    with pytest.raises(ValueError, match="protein 1 has the unknown letter 'J' at place 2"):
        zoo.predict(model, ["MK", "MJ"])
    masked = esm()
    assert len(zoo.predict(masked, "MK<mask>AY", top_k=2)) == 2
    with pytest.raises(ValueError, match="expected one mask"):
        zoo.predict(masked, "MKAY")
    entities = zoo.predict(esm(head="token", num_classes=2), "mktay")
    assert "".join(one.text for one in entities) == "mktay"
    with pytest.raises(ValueError, match="unknown letter '1' at place 3"):
        zoo.predict(esm(head="token", num_classes=2), "MK1")


@pytest.mark.parametrize("unknown", ["X", "unk"])
def test_unknown_letters_of_a_file_are_read_as_those_of_a_sequence(tmp_path, unknown):
    file = tmp_path / "a.fasta"
    file.write_text(">a\nmk1*TJ*\n")
    model = esm(head="classify", num_classes=3)
    with pytest.raises(ValueError, match=r"a\.fasta, record 'a' \(line 1\) has the unknown letter '1' at place 3"):
        zoo.predict(model, file)
    model.preprocess = replace(model.preprocess, unknown=unknown)
    expected = model.preprocess("MK1*TJ")["input_ids"]
    for given in (file, str(file), [file]):
        assert torch.equal(model.preprocess(given)["input_ids"], expected)
    assert dict(zoo.predict(model, file)[0]) == pytest.approx(dict(zoo.predict(model, "MK1*TJ")), abs=1e-5)


def test_a_file_in_a_list_that_is_not_there_is_named():
    with pytest.raises(ValueError, match=r"text 1 cannot be read: .*nothere\.fasta"):
        esm().preprocess(["MK", "nothere.fasta"])


def test_an_embedding_for_each_record(fasta, tmp_path):
    model = esm(head="pool", pool="mean")
    found = zoo.embed(model, fasta, tmp_path / "a.safetensors", progress=False)
    assert [item.name for item in found.items] == [f"{fasta}#P1", f"{fasta}#P#2"]
    assert found.path(1) == fasta and found.items[0].kind == "protein"
    with torch.no_grad():
        alone = torch.cat([model(**model.preprocess(one)) for one in SEQUENCES])
    torch.testing.assert_close(found.vectors, torch.nn.functional.normalize(alone, dim=-1), atol=1e-5, rtol=0)
    of_folder = zoo.embed(model, fasta.parent, tmp_path / "b.safetensors", progress=False)
    assert [item.name for item in of_folder.items] == ["a.fasta#P1", "a.fasta#P#2"] and of_folder.path(0) == fasta
    listed = zoo.embed(model, ["MKTAY", fasta], tmp_path / "c.parquet", progress=False)
    assert next(item.name for item in listed.items) == "MKTAY" and len(listed) == 3 and listed.path(0) is None
    hits = zoo.search("mktayiakqrq", tmp_path / "a.safetensors", model=model, k=1)
    assert hits[0].name == f"{fasta}#P1" and hits[0].score == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("text, message", [
    (">P1\nMK1\n", "record 'P1' .* unknown letter '1'"), (">P1\nMK\n>P1\nMKK\n", "two records called 'P1'"),
    ("", "has no records"),
])  # fmt: skip
def test_a_broken_file_is_named_or_left_out(fasta, tmp_path, text, message):
    (fasta.parent / "b.fasta").write_text(text)
    model = esm(head="pool")
    with pytest.raises(EmbedError, match=message):
        zoo.embed(model, fasta.parent, tmp_path / "a.safetensors", progress=False)
    found = zoo.embed(model, fasta.parent, tmp_path / "a.safetensors", progress=False, on_error="skip")
    assert len(found) == 2 and "b.fasta" in found.broken[0]


def test_the_command_line_predicts_each_record(fasta, tmp_path, capsys):
    zoo.save(esm(head="classify", num_classes=3), tmp_path / "model")
    assert main(["predict", str(tmp_path / "model"), str(fasta), "--out", str(tmp_path / "a.csv")]) == 0
    lines = (tmp_path / "a.csv").read_text().splitlines()
    assert lines[0].startswith("file,name,") and [line.split(",")[1] for line in lines[1:]] == ["P1", "P#2"]
    main(["predict", str(tmp_path / "model"), str(fasta)])
    assert "P#2" in capsys.readouterr().out.replace("\n", "")


def test_a_page_shows_residues_and_the_server_takes_sequences(fasta):
    page = zoo.explore(esm(), "mkt<mask>Y")
    assert ("mkt" in page.html and "&lt;mask&gt;" in page.html) or "<mask>" in page.html
    reader = InputReader(("protein",), Limits())
    body = reader.read(json.dumps({"inputs": SEQUENCES}).encode(), "application/json", {})
    assert body.items == SEQUENCES and body.modality == "protein"
    assert reader.read(b"MKTAY", "text/plain", {}).items == ["MKTAY"]
