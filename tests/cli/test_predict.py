"""`zoo predict` on tables, folders, text files and standard input: what it prints, writes, resumes and refuses."""

import csv
import dataclasses
import gzip
import io
import json
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import soundfile
from PIL import Image
from text_peers import save_text_tokenizer, text_folder, transformers_text

import zoo
from zoo.cli.main import main
from zoo.cli.predict_run import PredictionJournal
from zoo.data.sources.tables import read_table
from zoo.inference.predictor import Predictor
from zoo.preprocessing.image import ImageProcessor

LABELS = ["bad", "fair", "good"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """texts/: a classifier of texts; number/: a regression; images/: a classifier of images."""
    folder = tmp_path_factory.mktemp("saved")
    text_folder("BertForSequenceClassification", folder / "bert")
    model = zoo.load(folder / "bert")
    model.labels = LABELS
    zoo.save(model, folder / "texts")
    model.reset_head(1)
    model.config = model.config.replace(problem_type="regression")
    model.labels = ["price"]
    zoo.save(model, folder / "number")
    images = zoo.create_model("vit_cifar_tiny", seed=0, depth=1, num_classes=3)
    images.preprocess, images.labels = ImageProcessor(size=(32, 32)), LABELS
    zoo.save(images, folder / "images")
    return folder


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with reviews.csv, pairs.jsonl and photos/."""
    monkeypatch.chdir(tmp_path)
    texts = [f"the soup was cold {'and warm ' * (i % 7)}{'noisy ' * (i % 3)}" for i in range(90)]
    with open("reviews.csv", "w", newline="") as file:
        csv.writer(file).writerows([("review", "stars"), *((text, i % 5) for i, text in enumerate(texts))])
    pairs = [{"premise": text, "hypothesis": "cold", "id": i} for i, text in enumerate(texts[:5])]
    Path("pairs.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    (tmp_path / "photos" / "more").mkdir(parents=True)
    for i, name in enumerate(("b.png", "a.png", "more/c.png")):
        pixels = np.random.default_rng(i).integers(0, 256, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / name)
    return tmp_path


def predict(*words: object) -> int:
    return main(["predict", *map(str, words)])


def failing(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """Run a command line that is refused; returns its one line."""
    capsys.readouterr()
    assert predict(*words) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.splitlines()[-1].startswith("error: ")
    return err.splitlines()[-1]


def given(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    """What standard input holds."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))


def printed(capsys: pytest.CaptureFixture[str], *words: object) -> list[dict]:
    """The objects of --json."""
    capsys.readouterr()
    assert predict(*words, "--json") == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


# --- tables -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_a_table_with_all_its_columns_and_the_predictions(saved, suffix, capsys):
    out = Path(f"answers{suffix}")
    assert predict(saved / "texts", "reviews.csv", "--text-column", "review", "--out", out) == 0
    printed = capsys.readouterr()
    assert "column 'review' of reviews.csv" in printed.err and f"{out}: 90 rows" in printed.out
    before, after = read_table(Path("reviews.csv")).columns, read_table(out).columns
    assert list(after) == ["review", "stars", "label", "probability"]
    assert after["review"] == before["review"] and after["stars"] == before["stars"]
    expected = zoo.predict(zoo.load(saved / "texts"), before["review"], top_k=1)
    assert after["label"] == [best[0] for (best,) in expected]
    assert [float(p) for p in after["probability"]] == pytest.approx([best[1] for (best,) in expected], abs=1e-6)
    assert not Path(f".{out.name}.unfinished").exists()


def test_several_labels_are_columns_or_a_list(saved, capsys):
    assert predict(saved / "texts", "reviews.csv", "--top-k", 9, "--out", "a.csv") == 0
    assert list(read_table(Path("a.csv")).columns)[2:] == [
        "label_1", "probability_1", "label_2", "probability_2", "label_3", "probability_3",
    ]  # fmt: skip
    first, *_ = printed(capsys, saved / "texts", "reviews.csv", "--top-k", 2)
    table = read_table(Path("a.csv")).columns
    assert list(first) == ["review", "stars", "predictions"]
    assert [p["label"] for p in first["predictions"]] == [table["label_1"][0], table["label_2"][0]]


def test_pairs_and_a_regression(saved, capsys):
    words = ("pairs.jsonl", "--column", "premise, hypothesis")
    found = printed(capsys, saved / "number", *words)
    model = zoo.load(saved / "number")
    expected = zoo.predict(model, [(row["premise"], row["hypothesis"]) for row in found])
    assert list(found[0]) == ["premise", "hypothesis", "id", "number"]
    assert [row["number"] for row in found] == pytest.approx([value for ((_, value),) in expected], abs=1e-6)
    (one,) = printed(capsys, saved / "texts", "--pair", "the soup", "cold")
    assert (one["text"], one["text_pair"]) == ("the soup", "cold")
    assert "hypothesis, id" in failing(capsys, saved / "texts", "pairs.jsonl")
    assert "two for pairs" in failing(capsys, saved / "texts", "pairs.jsonl", "--text-column", "premise,hypothesis,id")


def test_columns_of_the_same_name_stay(saved, capsys):
    Path("t.csv").write_text("text,label\nthe soup,mine\n")
    assert predict(saved / "texts", "t.csv", "--out", "a.csv") == 0
    assert "predicted_label" in capsys.readouterr().err
    table = read_table(Path("a.csv")).columns
    assert table["label"] == ["mine"] and table["predicted_label"][0] in LABELS and "predicted_probability" in table
    Path("t.csv").write_text("text,label,predicted_label\nthe soup,mine,mine\n")
    assert "predicted_label: rename" in failing(capsys, saved / "texts", "t.csv", "--out", "b.csv")


def test_tables_of_another_format(saved, capsys):
    Path("t.csv").write_bytes("die Suppe;kalt\nsch\xf6n;warm\n".encode("cp1252"))
    predict(saved / "texts", "t.csv", "--text-column", "column_1")
    notice = capsys.readouterr().err
    assert "e.g. --encoding cp1252" in notice and "set --sep" in notice and "encoding=" not in notice
    words = ("t.csv", "--no-header", "--sep", "semicolon", "--encoding", "cp1252", "--text-column", "column_1")
    assert [row["column_1"] for row in printed(capsys, saved / "texts", *words)] == ["die Suppe", "sch\xf6n"]
    Path("t.csv.gz").write_bytes(gzip.compress(b"text,id\nthe soup,1\n"))
    assert [row["id"] for row in printed(capsys, saved / "texts", "t.csv.gz")] == ["1"]
    Path("t.xlsx").write_bytes(b"PK")
    assert "is a spreadsheet" in failing(capsys, saved / "texts", "t.xlsx")


def test_the_column_of_the_run(saved, capsys):
    run = Path("run")
    zoo.save(zoo.load(saved / "texts"), run / "model")
    (run / "config.yaml").write_text("data:\n  text: review\n")
    Path("t.csv").write_text("text,review\nthe soup,cold\n")
    for folder in (run, run / "model"):
        predict(folder, "t.csv")
        assert "column 'review'" in capsys.readouterr().err
    predict(run, "t.csv", "--text-column", "text")
    assert "column 'text'" in capsys.readouterr().err
    Path("t.csv").write_text("text,other\nthe soup,cold\n")
    predict(run, "t.csv")
    assert "column 'text'" in capsys.readouterr().err


def test_pairs_and_single_texts_as_the_run_had_them(saved, capsys):
    run = Path("run")
    zoo.save(zoo.load(saved / "texts"), run / "model")
    (run / "config.yaml").write_text("data:\n  text: premise,hypothesis\n")
    said = "trained on pairs of texts (text=premise,hypothesis), given"
    assert f"{said} the column 'review': name the two columns with --text-column" in failing(
        capsys, run, "reviews.csv", "--text-column", "review"
    )
    assert f"{said} 'the soup': give --pair TEXT TEXT" in failing(capsys, run, "the soup")
    assert predict(run, "pairs.jsonl") == 0 and predict(run, "--pair", "the soup", "cold") == 0
    (run / "config.yaml").write_text("data:\n  text: review\n")
    said = "trained on single texts (text=review), given"
    assert f"{said} the columns 'premise' and 'hypothesis': name the column with --text-column" in failing(
        capsys, run, "pairs.jsonl", "--text-column", "premise,hypothesis"
    )
    assert f"{said} --pair: give texts without it" in failing(capsys, run, "--pair", "the soup", "cold")


def test_several_labels_of_one_input(tmp_path, saved, capsys):
    """Files get every label of at least 50 %, unless --top-k is given."""
    model = zoo.load(saved / "texts")
    model.config = model.config.replace(problem_type="multi_label_classification")
    zoo.save(model, tmp_path / "tags")
    texts = Path("reviews.csv").read_text().splitlines()[1:6]
    expected = [
        [pair for pair in pairs if pair[1] >= 0.5] for pairs in zoo.predict(model, [t.rsplit(",", 1)[0] for t in texts])
    ]
    assert 0 < sum(map(len, expected)) < 15
    Path("few.csv").write_text("\n".join(["review,stars", *texts]))
    found = printed(capsys, tmp_path / "tags", "few.csv", "--text-column", "review")
    assert [[one["label"] for one in row["labels"]] for row in found] == [[name for name, _ in row] for row in expected]
    assert predict(tmp_path / "tags", "few.csv", "--text-column", "review", "--out", "out.csv") == 0
    assert list(map(json.loads, read_table(Path("out.csv")).columns["labels"])) == [row["labels"] for row in found]
    assert "label" in printed(capsys, tmp_path / "tags", "few.csv", "--text-column", "review", "--top-k", 1)[0]


def test_images_of_a_table_by_path_and_as_bytes(saved, place, capsys):
    (place / "photos" / "t.csv").write_text("file_name,id\na.png,1\nmore/c.png,2\ngone.png,3\n")
    assert "line 4: photos/gone.png does not exist" in failing(capsys, saved / "images", "photos/t.csv")
    found = printed(capsys, saved / "images", "photos/t.csv", "--on-error", "skip")
    expected = zoo.predict(zoo.load(saved / "images"), ["photos/a.png", "photos/more/c.png"], top_k=1)
    assert [row["label"] for row in found] == [label for ((label, _),) in expected] and found[1]["id"] == "2"
    content = [(place / "photos" / name).read_bytes() for name in ("a.png", "more/c.png")]
    pyarrow.parquet.write_table(pyarrow.table({"picture": content, "id": [1, 2]}), "t.parquet")
    words = (saved / "images", "t.parquet", "--image-column", "picture")
    assert predict(*words, "--out", "a.jsonl") == 0 and predict(*words, "--out", "a.parquet") == 0
    assert "left out, since .jsonl holds no bytes: picture" in capsys.readouterr().err
    for file in ("a.jsonl", "a.parquet"):
        assert read_table(Path(file)).columns["label"] == [row["label"] for row in found]
    assert read_table(Path("a.parquet")).columns["picture"] == content
    assert "picture" not in read_table(Path("a.jsonl")).columns


# --- files and folders --------------------------------------------------------------------------------------------


def test_a_folder_in_the_order_of_its_names(saved, place, capsys):
    (place / "photos" / "notes.txt").write_text("x")
    found = printed(capsys, saved / "images", "photos")
    assert [row["file"] for row in found] == ["photos/a.png", "photos/b.png", "photos/more/c.png"]
    expected = zoo.predict(zoo.load(saved / "images"), [row["file"] for row in found], top_k=1)
    assert [row["label"] for row in found] == [label for ((label, _),) in expected]
    predict(saved / "images", "photos")
    out, err = capsys.readouterr()
    assert "left out, no images: 1 file (.txt)" in err and out.count("%") == 9


def test_one_broken_file_among_good_ones(saved, place, capsys):
    (place / "photos" / "bad.png").write_text("no image")
    said = failing(capsys, saved / "images", "photos")
    assert "photos/bad.png is not a readable image file" in said and "--on-error skip" in said
    assert predict(saved / "images", "photos", "--on-error", "skip", "--out", "a.csv") == 0
    assert "1 of 4 inputs are skipped: photos/bad.png" in capsys.readouterr().err
    assert len(read_table(Path("a.csv"))) == 3
    assert predict(saved / "images", "photos", "--on-error", "label", "--out", "b.csv") == 0
    assert "1 of 4 inputs are labeled with their error" in capsys.readouterr().err
    table = read_table(Path("b.csv")).columns
    assert list(table) == ["file", "label", "probability", "error"]
    assert [bool(error) for error in table["error"]] == [False, False, True, False] == [not p for p in table["label"]]
    assert "none of 1 inputs can be predicted" in failing(
        capsys, saved / "images", "photos/bad.png", "--on-error", "skip"
    )


def test_audio_files_of_a_folder_and_of_a_table(saved, place, capsys):
    model = zoo.create_model("ast_tiny", num_classes=2, depth=1, seed=0)
    model.labels = ["high", "low"]
    zoo.save(model, "audio")
    (place / "clips").mkdir()
    for i, seconds in enumerate((1, 5)):  # the second takes several windows
        wave = 0.1 * np.random.default_rng(i).standard_normal(16000 * seconds)
        soundfile.write(place / "clips" / f"{i}.wav", wave, 16000)
    (place / "clips" / "bad.wav").write_text("no audio")
    found = printed(capsys, "audio", "clips", "--on-error", "label")
    expected = zoo.predict(model, [f"clips/{i}.wav" for i in range(2)])
    assert [(row["label"], row["probability"]) for row in found[:2]] == [best for best, *_ in expected]
    assert "clips/bad.wav is not a readable audio file" in found[2]["error"] and found[2]["label"] is None
    (place / "clips" / "t.csv").write_text("file_name\n1.wav\nbad.wav\n")
    assert "line 3: clips/bad.wav is not a readable" in failing(capsys, "audio", "clips/t.csv")
    (row,) = printed(capsys, "audio", "clips/t.csv", "--on-error", "skip")
    assert row["probability"] == found[1]["probability"]
    with pytest.raises(ValueError, match="clips is a folder, and not an audio file"):
        zoo.predict(model, "clips")


def test_text_files(saved, place, capsys):
    (place / "texts").mkdir()
    for name, text in (("b.txt", "the soup\n"), ("a.txt", "cold"), ("empty.txt", " ")):
        (place / "texts" / name).write_text(text)
    found = printed(capsys, saved / "texts", "texts", "--on-error", "skip")
    expected = zoo.predict(zoo.load(saved / "texts"), ["cold", "the soup"], top_k=1)
    assert [(row["file"], row["label"]) for row in found] == [
        (f"texts/{name}.txt", best[0]) for name, (best,) in zip("ab", expected, strict=True)
    ]
    assert "texts/empty.txt is empty" in failing(capsys, saved / "texts", "texts")
    Path("lines.txt").write_text("one\ntwo\n")
    assert len(printed(capsys, saved / "texts", "lines.txt")) == 1
    predict(saved / "texts", "lines.txt")
    assert "lines.txt is one text of 2 lines" in capsys.readouterr().err


# --- standard input -----------------------------------------------------------------------------------------------


def test_lines_of_standard_input(saved, monkeypatch, capsys):
    given(monkeypatch, b"\xef\xbb\xbfthe soup\r\nreviews.csv\n")
    found = printed(capsys, saved / "texts", "-")
    assert [row["text"] for row in found] == ["the soup", "reviews.csv"]  # a line is a text, whatever it names
    given(monkeypatch, b"photos/a.png\nphotos/b.png")
    assert [row["file"] for row in printed(capsys, saved / "images", "-")] == ["photos/a.png", "photos/b.png"]
    given(monkeypatch, b"photos/a.png\n\n")
    assert "standard input, line 2: no file name" in failing(capsys, saved / "images", "-")
    given(monkeypatch, b"the soup\n\n\xff\n")
    assert "standard input, line 2 is empty" in failing(capsys, saved / "texts", "-", "--json")
    given(monkeypatch, b"the soup\n\xff\n")
    assert "line 2: byte 0xff is not valid UTF-8" in failing(capsys, saved / "texts", "-", "--json")
    given(monkeypatch, b"")
    assert "the input is empty" in failing(capsys, saved / "texts", "-", "--json")


def test_json_lines_of_standard_input(saved, monkeypatch, capsys):
    lines = b'{"id": 1, "review": "the soup"}\n\n{"review": "cold", "label": "mine"}\n'
    given(monkeypatch, lines.replace(b', "label": "mine"', b""))
    found = printed(capsys, saved / "texts", "-", "--text-column", "review")
    assert [list(row) for row in found] == [
        ["id", "review", "label", "probability"],
        ["review", "label", "probability"],
    ]
    given(monkeypatch, b'{"review": "a", "id": 1}\n{"review": "b", "more": 2}\n')
    assert predict(saved / "texts", "-", "--text-column", "review", "--out", "b.csv") == 0
    table = read_table(Path("b.csv")).columns
    assert list(table) == ["review", "id", "more", "label", "probability"] and table["more"] == ["", "2"]
    for number, (content, said) in enumerate(
        (
            (lines, "the input has the key 'label'"),
            (b"the soup\n", "standard input, line 1: invalid JSON"),
            (b"[1]\n", "line 1: expected a JSON object, given list"),
            (b'{"text": "a"}\n', "did you mean 'text'"),
            (b'{"review": 3}\n', "line 1 has a int instead of a text in 'review'"),
            (b'{"review": "a"}\n{"revew": "a"}\n', "line 2 has no text in 'review'"),
        )
    ):
        given(monkeypatch, content)
        column = "txt" if b'{"text"' in content else "review"
        assert said in failing(capsys, saved / "texts", "-", "--text-column", column, "--out", f"{number}.jsonl")
        assert Path(f".{number}.jsonl.unfinished").exists() == (number == 0)  # of which a window was computed


def test_a_stream_is_printed_as_it_comes(saved, monkeypatch, capsys):
    class Lines:
        taken = 0

        def __iter__(self):
            for _ in range(3):
                self.taken += 1
                yield b"the soup\n"
                assert len(capsys.readouterr().out.splitlines()) == 1  # before the next line is read

    lines = Lines()
    monkeypatch.setattr(sys, "stdin", type("Stdin", (), {"buffer": lines}))
    assert predict(saved / "texts", "-", "--json", "--batch-size", 1) == 0 and lines.taken == 3


# --- resuming -----------------------------------------------------------------------------------------------------


def interrupted_after(windows: int, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Interrupt the next run after so many windows; returns a list that grows by the first row of each window."""
    seen: list[int] = []
    window = Predictor.window

    def counted(self, items, first=0, names=None):
        if len(seen) == windows:
            raise KeyboardInterrupt
        seen.append(first)
        return window(self, items, first, names)

    monkeypatch.setattr(Predictor, "window", counted)
    return seen


def test_an_interrupted_run_resumes_to_the_same_bytes(saved, monkeypatch, capsys):
    rows = Path("reviews.csv").read_text().splitlines()
    rows[3], rows[70] = f"{'soup ' * 60},1", " ,2"  # what is said about them is said after a resume, too
    Path("reviews.csv").write_text("\n".join(rows))
    words = (saved / "texts", "reviews.csv", "--batch-size", 2, "--truncation", "--on-error", "skip", "--top-k", 2)
    assert predict(*words, "--out", "whole.parquet") == 0
    said = capsys.readouterr().err
    assert "1 of 90 texts are truncated" in said and "first is reviews.csv, line 4" in said
    assert "1 of 90 inputs are skipped: reviews.csv, line 71" in said
    with monkeypatch.context() as patch:
        interrupted_after(2, patch)
        assert predict(*words, "--out", "a.parquet") == 130
    assert "interrupted after 64 inputs: the same command resumes there" in capsys.readouterr().err
    assert not Path("a.parquet").exists()
    with Path(".a.parquet.unfinished/journal.jsonl").open("a") as file:
        file.write('{"window": 2, "dig')  # cut off by a kill
    with monkeypatch.context() as patch:
        seen = interrupted_after(9, patch)
        assert predict(*words, "--out", "a.parquet") == 0
    assert seen == [64] and capsys.readouterr().err == said
    assert Path("a.parquet").read_bytes() == Path("whole.parquet").read_bytes()
    assert not Path(".a.parquet.unfinished").exists()


def test_an_interruption_between_two_windows_says_how_to_resume(saved, monkeypatch, capsys):
    keep, kept = PredictionJournal.keep, []

    def interrupted(self, *args):
        keep(self, *args)
        kept.append(args)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(PredictionJournal, "keep", interrupted)
        assert predict(saved / "texts", "reviews.csv", "--batch-size", 2, "--out", "a.csv") == 130
    assert len(kept) == 1 and "interrupted after 32 inputs: the same command resumes there" in capsys.readouterr().err


def test_work_of_a_version_with_fewer_options_resumes(saved, monkeypatch, capsys):
    words = [saved / "texts", "reviews.csv", "--batch-size", 2, "--out", "a.csv"]
    with monkeypatch.context() as patch:
        interrupted_after(2, patch)
        assert predict(*words) == 130
    journal = Path(".a.csv.unfinished/journal.jsonl")
    plan, *windows = journal.read_text().splitlines()
    plan = {name: value for name, value in json.loads(plan).items() if name != "--handle-impossible-answer"}
    journal.write_text("\n".join([json.dumps(plan), *windows, ""]))
    with monkeypatch.context() as patch:
        seen = interrupted_after(9, patch)
        assert predict(*words) == 0
    assert seen == [64]


def test_a_run_with_another_command_does_not_resume(saved, monkeypatch, capsys):
    words = [saved / "texts", "reviews.csv", "--batch-size", 2, "--out", "a.csv"]
    with monkeypatch.context() as patch:
        interrupted_after(2, patch)
        assert predict(*words) == 130
    assert "another value of --top-k: give the same command" in failing(capsys, *words, "--top-k", 2)
    assert "another value of model, labels" in failing(capsys, saved / "number", *words[1:])
    before = Path("reviews.csv").read_text()
    Path("reviews.csv").write_text(before.replace("cold", "warm", 40))
    assert "the inputs from reviews.csv, line 2 have changed" in failing(capsys, *words)
    Path("reviews.csv").write_text("\n".join([*before.splitlines()[:-1], "the other soup,3"]))
    with monkeypatch.context() as patch:
        assert predict(*words) == 0 and interrupted_after(9, patch) == []  # a row that had not been its turn
    assert "a.csv exists: replace it with --overwrite" in failing(capsys, *words)
    Path("reviews.csv").write_text(before)
    assert predict(*words, "--overwrite") == 0
    assert read_table(Path("a.csv")).columns["review"] == read_table(Path("reviews.csv")).columns["review"]


def test_the_ways_out_of_an_error_resume(saved, monkeypatch, capsys):
    rows = Path("reviews.csv").read_text().splitlines()
    rows[40], rows[70] = f"{'soup ' * 60},1", " ,2"
    Path("reviews.csv").write_text("\n".join(rows))
    words = [saved / "texts", "reviews.csv", "--batch-size", 2, "--out", "a.csv"]
    assert "--truncation" in failing(capsys, *words)
    with monkeypatch.context() as patch:
        seen = interrupted_after(9, patch)
        assert "--on-error label" in failing(capsys, *words, "--truncation") and seen == [32, 64]
    words += ["--truncation", "--on-error", "label"]
    with monkeypatch.context() as patch:
        interrupted_after(0, patch)
        assert predict(*words) == 130  # the journal now has these options
    assert "another value of --on-error" in failing(capsys, *words[:-2])
    with monkeypatch.context() as patch:
        seen = interrupted_after(9, patch)
        assert predict(*words) == 0 and seen == [64]
    assert predict(*words[:4], "--out", "b.csv", *words[6:]) == 0
    assert Path("a.csv").read_bytes() == Path("b.csv").read_bytes()


def test_overwrite_starts_again_what_has_changed(saved, monkeypatch, capsys):
    words = [saved / "texts", "reviews.csv", "--batch-size", 2, "--out", "a.csv", "--overwrite"]
    with monkeypatch.context() as patch:
        interrupted_after(2, patch)
        assert predict(*words) == 130
    with monkeypatch.context() as patch:
        seen = interrupted_after(9, patch)
        assert predict(*words) == 0 and seen == [64]  # the same command resumes, with --overwrite too
    with monkeypatch.context() as patch:
        interrupted_after(1, patch)
        assert predict(*words) == 130
    assert predict(*words, "--top-k", 2) == 0
    assert "label_2" in read_table(Path("a.csv")).columns


# --- refusals -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["texts", "reviews.csv", "--text-column", "revew"],
            "no column 'revew'; did you mean 'review'? (it has review, st",
        ),
        (
            ["texts", "stars.csv"],
            "stars.csv has the columns stars, color: name the text column, e.g. --text-column color",
        ),
        (["texts", "revews.csv"], "there is no file revews.csv; did you mean 'reviews.csv'?"),
        (["texts", "photos/a.png"], "photos/a.png is a file, and the model predicts from texts"),
        (["texts", "photos"], "photos is a folder without texts in it"),
        (["texts", "."], "it has the table"),
        (["texts", "reviews.csv", "the soup"], "is predicted alone"),
        (["texts", "-", "-"], "is predicted alone"),
        (["texts", "reviews.csv", "pairs.jsonl"], "tables of different columns one by one"),
        (["texts", "the soup", "--text-column", "review"], "--text-column is for tables (.csv"),
        (["texts", "the soup", "--no-header"], "--header is for tables"),
        (["texts", "stars.jsonl", "--sep", "tab"], "--header and --sep are for CSV"),
        (["texts", "reviews.csv", "--image-column", "review"], "the model takes texts, use --text-column"),
        (["texts", "reviews.csv", "--out", "reviews.csv", "--overwrite"], "--out reviews.csv is an input"),
        (["texts", "reviews.csv", "--out", "photos.csv"], "photos.csv is a folder"),
        (["texts", "reviews.csv", "--out", "a.cvs"], "did you mean '.csv'?"),
        (["texts", "reviews.csv", "--out", "a.csv", "--json"], "--out and --json: choose one"),
        (["texts", "reviews.csv", "--overwrite"], "--overwrite is for --out FILE"),
        (["texts", "reviews.csv", "--encoding", "cp9999"], "--encoding cp9999: expected 'auto' or an encoding"),
        (["texts", "reviews.csv", "--encoding", "rot13"], "--encoding rot13: expected 'auto' or an encoding"),
        (["texts", "reviews.csv", "--batch-size", "0"], "--batch-size 0: expected at least 1"),
        (["texts", "soup " * 60, "--no-truncation"], "has 62 tokens, expected at most max_length=40"),
        (["texts", "soup " * 60], "--truncation"),
        (["images", "photos", "--truncation"], "truncation=True is for texts"),
        (["images", "photos", "--text-column", "a"], "use --image-column"),
        (["images", "gone.png"], "there is no image file gone.png"),
        (["number", "the soup", "--top-k", "2"], "--top-k is for labels, and the model predicts numbers: omit it"),
        (["gone", "reviews.csv", "--out", "a.xlsx"], "--out a.xlsx: expected a file that ends with .csv"),
        (["texts", "a text", "--out", "a.png"], ".png is for contact maps, and the model has head='classify'"),
    ],
)
def test_refusals(saved, capsys, words, said):
    Path("stars.csv").write_text("stars,color\n3,red\n")
    Path("stars.jsonl").write_text("{}\n")
    Path("photos.csv").mkdir()
    assert said in failing(capsys, saved / words[0], *words[1:])


def test_a_model_that_was_saved_to_truncate(saved, capsys):
    model = zoo.load(saved / "texts")
    model.preprocess = dataclasses.replace(model.preprocess, truncate="warn")
    zoo.save(model, "warns")
    assert predict("warns", "soup " * 60) == 0
    assert "1 of 1 texts are truncated to max_length=40 tokens" in capsys.readouterr().err
    assert "62 tokens" in failing(capsys, "warns", "soup " * 60, "--no-truncation")


def test_entities(tmp_path, capsys):
    """All of a text, in one column that holds a list; with --on-error label the error beside it."""
    transformers_text(tmp_path / "model", "BertForTokenClassification", num_labels=3)
    save_text_tokenizer(tmp_path / "model", "wordpiece")
    model = zoo.load(tmp_path / "model")
    model.labels = ["O", "B-X", "I-X"]
    zoo.save(model, tmp_path / "ours")
    (tmp_path / "t.csv").write_text("text,n\nthe soup was cold,1\n,2\n")
    words = ["predict", str(tmp_path / "ours"), str(tmp_path / "t.csv"), "--on-error", "label"]
    assert main([*words, "--out", str(tmp_path / "o.jsonl")]) == 0
    good, bad = map(json.loads, (tmp_path / "o.jsonl").read_text().splitlines())
    expected = [entity._asdict() for entity in zoo.predict(model, "the soup was cold")]
    assert good == {"text": "the soup was cold", "n": "1", "entities": expected, "error": None} and expected
    assert bad["entities"] is None and "line 3" in bad["error"]
    capsys.readouterr()
    assert main(["predict", str(tmp_path / "ours"), "the soup was cold", "--aggregation-strategy", "simple"]) == 0
    assert expected[0]["text"].split()[0] in capsys.readouterr().out
    assert main(["predict", str(tmp_path / "ours"), "the soup", "--top-k", "2"]) == 2
    assert "finds all entities of a text" in capsys.readouterr().err


def test_answers(tmp_path):
    transformers_text(tmp_path / "model", "BertForQuestionAnswering")
    save_text_tokenizer(tmp_path / "model", "wordpiece")
    (tmp_path / "q.csv").write_text("question,context\nthe soup,the soup was cold\n")
    words = ["predict", str(tmp_path / "model"), str(tmp_path / "q.csv"), "--text-column", "question,context"]
    assert main([*words, "--out", str(tmp_path / "o.csv")]) == 0
    ((answer, probability, start, end),) = zoo.predict(
        zoo.load(tmp_path / "model"), ("the soup", "the soup was cold"), 1
    )
    row = next(csv.DictReader((tmp_path / "o.csv").open()))
    assert row["answer"] == answer and (row["start"], row["end"]) == (str(start), str(end))
    assert float(row["probability"]) == pytest.approx(probability, abs=1e-6)
