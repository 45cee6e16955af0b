"""Families of proteins from folders, their contact maps, and batches of them."""

import numpy as np
import pytest
import torch

from zoo.data.alignment_config import ContactMapSettings
from zoo.data.alignments.datamodule import AlignmentDataModule
from zoo.data.alignments.load import load_families, read_contact_map
from zoo.data.keyed_batches import Keys
from zoo.data.synthetic.alignments import make_families
from zoo.preprocessing.alignment import Alignment, letters_of, write_a3m
from zoo.preprocessing.alignment_processor import AlignmentProcessor
from zoo.utils.errors import DataError

FAMILIES = make_families(6, seed=0, depth=16, lengths=(24, 30))


@pytest.fixture
def folder(tmp_path):
    """Six families with maps of all kinds."""
    for i, family in enumerate(FAMILIES):
        write_a3m(tmp_path / f"family{i}.a3m", Alignment.of_rows(letters_of(family.msa)))
        contacts = family.contacts.numpy()
        if i % 3 == 0:
            np.save(tmp_path / f"family{i}.npy", contacts)
        elif i % 3 == 1:
            np.savez(tmp_path / f"family{i}.npz", contacts=contacts.astype(np.float32), distances=contacts)
        else:
            lines = [f"{a + 1} {b + 1} 0.5" for a, b in np.argwhere(np.triu(contacts)).tolist()]
            (tmp_path / f"family{i}.txt").write_text("\n".join(["# contacts", *lines, ""]))
    return tmp_path


def test_folder_of_families(folder):
    found = load_families(ContactMapSettings(name=str(folder)), seed=0)
    assert found.real and len(found.train) == 5 and len(found.test) == 1 and "held-out" in found.test_name
    for part in (found.train, found.test):
        for name, msa, contacts in zip(part.names, part.msas, part.contacts):
            family = FAMILIES[int(name[-1])]
            assert torch.equal(msa, family.msa) and torch.equal(contacts.bool(), family.contacts)
    for split, numbers in {"train": (0, 1, 2), "val": (3,), "test": (4, 5)}.items():
        (folder / split).mkdir()
        for path in (path for i in numbers for path in list(folder.glob(f"family{i}.*"))):
            path.rename(folder / split / path.name)
    (folder / "train").rename(folder / "more")
    with pytest.raises(DataError, match="has no alignments"):  # those of `test` alone are not trained on
        load_families(ContactMapSettings(name=str(folder)))
    for path in (folder / "more").iterdir():
        path.rename(folder / path.name)
    beside = load_families(ContactMapSettings(name=str(folder)))
    assert (len(beside.train), len(beside.validation), len(beside.test)) == (3, 1, 2) and not beside.test_name
    (folder / "train").mkdir()
    for path in folder.glob("family*"):
        path.rename(folder / "train" / path.name)
    found = load_families(ContactMapSettings(name=str(folder), max_train_samples=2))
    assert (len(found.train), len(found.validation), len(found.test)) == (2, 1, 2) and not found.test_name
    assert found.test.alignment(0).rows == letters_of(found.test.msas[0])


def test_unknown_pairs_are_kept(tmp_path):
    values = np.zeros((3, 3), dtype=np.float32)
    values[0, 2] = values[2, 0] = 1
    values[0, 1] = values[1, 0] = np.nan
    np.save(tmp_path / "a.npy", values)
    assert read_contact_map(tmp_path / "a.npy", 3).tolist() == [[0, -1, 1], [-1, 0, 0], [1, 0, 0]]


@pytest.mark.parametrize(
    "values, message",
    [
        (np.zeros((3, 4)), r"contact map is \[3, 4\], but the query has 4 residues: expected \[4, 4\]"),
        (np.full((4, 4), 7.5), "has the value 7.5: .*save distances < 8"),
        (np.triu(np.ones((4, 4))), "not symmetric: residues 1 and 2"),
        ("1 2\n1 5\n", "line 2: '1 5': expected two numbers of residues from 1 to 4"),
        ("0 2\n", "line 1"),
        ("1 2\n\udcff 3\n", "is not a text file in UTF-8"),
        (b"not numpy", "is not a file of numpy"),
        (np.full((4, 4), "A"), "has <U1 values: expected numbers"),
        ({"a": np.zeros((4, 4)), "b": np.zeros((4, 4))}, "has the arrays a, b: expected one, 'contacts'"),
    ],
)
def test_broken_maps(tmp_path, values, message):
    path = tmp_path / ("a.txt" if isinstance(values, str) else "a.npz" if isinstance(values, dict) else "a.npy")
    if isinstance(values, str | bytes):
        path.write_bytes(values if isinstance(values, bytes) else values.encode(errors="surrogateescape"))
    elif isinstance(values, dict):
        np.savez(path, **values)
    else:
        np.save(path, values)
    with pytest.raises(DataError, match=message) as error:
        read_contact_map(path, 4)
    assert path.name in str(error.value)


@pytest.mark.parametrize("compressed", [False, True])
def test_damaged_archives_are_named(tmp_path, compressed):
    """One byte of the file at a time; those of times change nothing."""
    values = np.random.default_rng(0).random((6, 6)) < 0.5
    (np.savez_compressed if compressed else np.savez)(tmp_path / "a.npz", contacts=values | values.T)
    raw, errors = (tmp_path / "a.npz").read_bytes(), 0
    places = range(0, len(raw), 5)
    for place in places:
        (tmp_path / "a.npz").write_bytes(raw[:place] + bytes([raw[place] ^ 0x5A]) + raw[place + 1 :])
        try:
            read_contact_map(tmp_path / "a.npz", 6)
        except DataError as error:
            errors += "a.npz" in str(error)
    assert errors > 0.5 * len(places)
    (tmp_path / "a.npz").write_bytes(raw[:-40])
    with pytest.raises(DataError, match="is not a file of numpy"):
        read_contact_map(tmp_path / "a.npz", 6)


def test_broken_families_are_named_or_skipped(folder):
    (folder / "family1.npz").unlink()
    (folder / "family2.a3m").write_text(">q\nMKV\n>b\nMK\n")
    with pytest.raises(DataError, match=r"family1.a3m has no contact map: expected family1.npy or .*on_error=skip"):
        load_families(ContactMapSettings(name=str(folder)))
    found = load_families(ContactMapSettings(name=str(folder), on_error="skip"))
    assert len(found.train) + len(found.test) == 4 and len(found.skipped) == 2
    with pytest.raises(DataError, match="expected synthetic, or a folder"):
        load_families(ContactMapSettings(name="nowhere"))
    (folder / "empty").mkdir()
    with pytest.raises(DataError, match=r"has no alignments: expected files that end with .a3m"):
        load_families(ContactMapSettings(name=str(folder / "empty")))
    with pytest.raises(ValueError, match="long_range=5: expected at least min_separation=6"):
        ContactMapSettings(long_range=5)


def test_batches_have_other_sequences_in_each_epoch(folder):
    splits = load_families(ContactMapSettings(name=str(folder)))
    data = AlignmentDataModule(splits, AlignmentProcessor(max_sequences=8), 3, seed=1)
    batch = data.train.__getitems__(Keys([0, 2, 4], 0))
    longest = max(splits.train.msas[i].shape[1] for i in (0, 2, 4))
    assert batch["msa"].shape == (3, 8, longest) and batch["contacts"].shape == (3, longest, longest)
    for row, i in enumerate((0, 2, 4)):
        size = splits.train.msas[i].shape[1]
        assert torch.equal(batch["contacts"][row, :size, :size], splits.train.contacts[i])
        assert (batch["contacts"][row, size:] == -1).all() and (batch["contacts"][row, :, size:] == -1).all()
        assert torch.equal(batch["msa"][row, 0, :size], splits.train.msas[i][0])
    same, other = (data.train.__getitems__(Keys([0, 2, 4], epoch))["msa"] for epoch in (0, 1))
    assert torch.equal(same, batch["msa"]) and not torch.equal(other, same)
    first, second = (data.test.__getitems__(Keys([0], epoch))["msa"] for epoch in (0, 1))
    assert torch.equal(first, second)
