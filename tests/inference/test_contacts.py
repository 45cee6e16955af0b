"""`zoo.predict` and `zoo predict` of alignments and of proteins: the most probable contacts, and their maps."""

import math

import pytest
import torch

import zoo
from zoo.cli.main import main
from zoo.inference.contacts import Contact, contact_maps, most_probable
from zoo.inference.server_models import Predictions
from zoo.inference.server_requests import Inputs
from zoo.preprocessing.alignment import Alignment

ROWS = ["MKVAGEWLDR", "MKV-GEWLDR", "AKVAGEFLDK"]


def model():
    return zoo.create_model(
        "evoformer_nano", width=8, heads=2, pair_width=8, pair_heads=2, outer_width=4, depth=1
    ).eval()


def protein_model():
    return zoo.create_model("esm2_t6_8m", width=32, depth=2, heads=4, head="contacts").eval()


def test_contacts_are_named_by_letters_and_numbers():
    probabilities = torch.full((9, 9), 0.01)
    probabilities[0, 8], probabilities[1, 8], probabilities[0, 1] = 0.9, 0.8, 0.99
    found = most_probable(probabilities, "MKVAGEWXL", 2)
    assert [contact.contact for contact in found] == ["M1-L9", "K2-L9"]
    assert found[0] == Contact("M1-L9", pytest.approx(0.9), 1, 9)
    assert most_probable(probabilities[:5, :5], "MKVAG", 3) == []


def test_predict_reads_files_and_alignments(tmp_path):
    made = model()
    path = tmp_path / "family.a3m"
    path.write_text("".join(f">s{i}\n{row}\n" for i, row in enumerate(ROWS)))
    alignment, short = Alignment.of_rows(ROWS), Alignment.of_rows(["MKVAGEWL"])
    with torch.no_grad():
        scores = made(**made.preprocess(path))[0]
    found = zoo.predict(made, path, top_k=3)
    best = max((float(scores[i, j].sigmoid()), i + 1, j + 1) for i in range(10) for j in range(i + 6, 10))
    assert (found[0].first, found[0].second) == best[1:] and found[0].probability == pytest.approx(best[0], abs=1e-6)
    several = zoo.predict(made, [alignment, short, str(path)], top_k=3)
    assert [contact[0] for contact in several[0]] == [contact[0] for contact in several[2]] == [c[0] for c in found]
    assert len(several[1]) == 3
    (tmp_path / "bad.a3m").write_text(">a\nMKV\n>b\nMK\n")
    with pytest.raises(ValueError, match=r"bad.a3m: sequence 2 \(b\) has 2 columns"):
        zoo.predict(made, tmp_path / "bad.a3m")
    with pytest.warns(UserWarning):
        failed = zoo.predict(made, [alignment, str(tmp_path / "bad.a3m")], on_error="label")
    assert failed[1][0].contact.startswith("error: ") and math.isnan(failed[1][0].probability)


def test_proteins_of_a_fasta_file(tmp_path, capsys):
    """Each record alone gives the same contacts as among others of another length; a table and a plot of them."""
    made, fasta = protein_model(), tmp_path / "proteins.fasta"
    sequences = ["MKTAYIAKQRQISFVKSHF", "GAVLIPFMWG", "MKV", "MKTAYIA<mask>QRQ"]
    fasta.write_text("".join(f">P{i}\n{sequence.lower()}\n" for i, sequence in enumerate(sequences[:3])))
    found, maps = zoo.predict(made, fasta, top_k=4), contact_maps(made, sequences)
    assert [len(one) for one in found] == [4, 4, 0]
    for own, sequence, one in zip(found, sequences, maps):
        expected = made.predict_contacts(**made.preprocess(sequence))[0]
        assert "".join(one.residues) == sequence
        assert torch.allclose(one.probabilities, expected, atol=1e-6)
        for contact in own:
            i, j = contact.first - 1, contact.second - 1
            assert contact.contact == f"{sequence[i]}{i + 1}-{sequence[j]}{j + 1}"
            assert contact.probability == pytest.approx(float(expected[i, j]), abs=1e-6)
    assert maps[3].residues[7] == "<mask>" and zoo.predict(made, sequences[3], top_k=1)[0].second <= 11
    (body,) = Predictions(made)([Inputs(sequences[:1], ["inputs[0]"], "protein", 4)])
    assert body["predictions"] == [[contact._asdict() for contact in found[0]]]
    made.temperature = 2.0
    assert torch.allclose(
        contact_maps(made, fasta)[0].probabilities.logit(), maps[0].probabilities.logit() / 2, atol=1e-5
    )
    zoo.save(made, tmp_path / "model")
    assert main(["predict", str(tmp_path / "model"), str(fasta), "--top-k", "1"]) == 0
    assert found[0][0].contact in capsys.readouterr().out
    plot = str(tmp_path / "maps.png")
    assert main(["predict", str(tmp_path / "model"), str(fasta), "--out", plot]) == 0
    assert (tmp_path / "maps.png").read_bytes().startswith(b"\x89PNG") and "3 contact maps" in capsys.readouterr().out
    for words, message in (([], "exists: replace it with --overwrite"), (["--overwrite", "--top-k", "2"], "omit it")):
        assert main(["predict", str(tmp_path / "model"), str(fasta), "--out", plot, *words]) == 2
        assert message in capsys.readouterr().err
    with pytest.raises(ValueError, match="is a pair of proteins, and the model predicts the contacts of a single one"):
        zoo.predict(made, ("MKTAYIA", "GAVL"))
    with pytest.raises(ValueError, match="a tuple of 2 inputs"):
        contact_maps(made, ("MKTAYIA", "GAVL"))
    torch.nn.init.constant_(made.head.proj.weight, float("nan"))
    with pytest.raises(ValueError, match="not finite"):
        contact_maps(made, "MKTAYIA")
    with pytest.raises(ValueError, match="head='masked_lm': a contact map needs head='contacts'"):
        contact_maps(zoo.create_model("esm2_t6_8m", width=32, depth=1, heads=4), "MK")


def test_hidden_states_are_no_prediction():
    with pytest.raises(ValueError, match="a model of proteins or alignments with head='contacts'"):
        zoo.predict(zoo.create_model("evoformer_nano", head=None, depth=1), Alignment.of_rows(ROWS))
