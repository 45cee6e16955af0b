"""Labels and names of files are shown as they are: on a terminal, in model cards, pages and figures."""

import io
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

import zoo
from zoo.checkpoints.model_card import Training, model_card
from zoo.cli.main import main
from zoo.retrieval.html_page import Card, write_page
from zoo.utils.console import announce, make_console, make_table
from zoo.utils.escape import fenced, figure_text, markdown, printable

ESCAPES = "\x1b[2J\x1b]0;owned\x07red\x9b31m\rfine\u202etxt\u2028line\nnext"
MARKUP = (
    "<script>alert(1)</script> [click](http://x.y) ![i](z) **bold** | cell | `code` & &lt; [bold]rich[/x] :cat: $a$ "
    "~~no~~"
)
LABELS = [ESCAPES, MARKUP, "日本\u3000語 👩\u200d🔬 é_è a_b"]


def no_control(text: str) -> bool:
    return not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\u2028\ud800-\udfff]", text)


def classifier(labels: list[str]) -> zoo.Model:
    model = zoo.create_model("vit_cifar_tiny", depth=1, width=16, heads=2, num_classes=len(labels)).eval()
    model.labels = labels
    return model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return zoo.save(classifier(LABELS), tmp_path / "model")


# --- Terminal -------------------------------------------------------------------------------------------------------


def test_labels_and_files_of_predict(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # a long path would fold the labels in the table
    image = "\x1b[31mcat[bold] :dog:.png"
    Image.new("RGB", (32, 32)).save(image)
    assert main(["predict", str(folder), image]) == 0
    out = capsys.readouterr().out
    shown = re.sub(r"\s+", "", out)
    assert no_control(out)
    for text in (r"\x1b[2J\x1b]0;owned\x07", "[click](http://x.y)", ":cat:", "[bold]:dog:.png", "日本", "👩\u200d🔬"):
        assert text in shown, text
    assert main(["info", str(folder)]) == 0
    assert no_control(capsys.readouterr().out)


def test_names_of_files_that_are_not_unicode(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = os.fsdecode(os.fsencode(tmp_path) + b"/\xff\x1b.png")
    Image.new("RGB", (32, 32)).save(image)
    assert main(["predict", str(folder), image]) == 0
    assert r"\udcff\x1b.png" in re.sub(r"\s+", "", capsys.readouterr().out)


@pytest.mark.parametrize("words", [["predict", "{folder}", "\x1b[2Jnone.png"], ["verify", "\x1b[2Jnone"],
                                   ["search", "a", "--corpus", "\x1b[2Jnone", "--model", "{folder}"]])  # fmt: skip
def test_errors_name_files(words: list[str], folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([word.format(folder=folder) for word in words]) == 2
    err = capsys.readouterr().err
    assert no_control(err) and r"\x1b[2Jnone" in err


def test_reports_of_loading_and_verifying(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(values | {"labels": ["\x1b[2J", *LABELS[1:]]}))
    assert main(["verify", str(folder)]) == 1
    out = capsys.readouterr().out
    assert "labels is" in out and no_control(out)
    (folder / "\x1b[2Jnotes").write_text("")
    zoo.save(zoo.load(folder), folder.with_name("again"))
    err = capsys.readouterr().err
    assert r"\x1b[2Jnotes" in err and no_control(err)


@pytest.mark.parametrize("text", LABELS, ids=["escapes", "markup", "letters"])
def test_consoles_print_text_as_it_is(text: str) -> None:
    for markup in (False, True):
        file = io.StringIO()
        out = make_console(file=file, markup=markup, width=400)
        table = make_table("a", "b")
        if not markup:
            out.print(text)
            table.add_row(text, text)
            out.print(table)
            assert ":cat:" not in text or ":cat:" in file.getvalue()
        else:
            out.print(text.replace("[", r"\["))
        assert no_control(file.getvalue())


def test_notices(capsys: pytest.CaptureFixture[str]) -> None:
    announce("\x1b]0;owned\x07 [/x] data")
    assert r"\x1b]0;owned\x07 [/x] data" in capsys.readouterr().err


def test_letters_stay_letters() -> None:
    text = "naïve 日本\u3000語 👩\u200d🔬 עברית"
    assert printable(text) == text and printable("a\tb\nc", keep="\n\t") == "a\tb\nc"
    assert printable("a\tb\nc") == r"a\tb\nc" and printable("\x1b\x9b\udcff\u202e") == r"\x1b\x9b\udcff\u202e"


# --- Model cards ----------------------------------------------------------------------------------------------------


def rendered(text: str) -> str:
    """HTML of a card, as the hub makes it."""
    from markdown_it import MarkdownIt

    return MarkdownIt("gfm-like", {"linkify": False}).render(text.split("---\n", 2)[2])


def card(**changes: Any) -> str:
    values: dict[str, Any] = {
        "command": "python recipes/x.py data='\n```\n# owned'", "data": MARKUP, "real": True, "source": ESCAPES,
        "metrics": {"test_accuracy": 0.5}, "facts": {"started from": f"{MARKUP}\n# owned"},
    }  # fmt: skip
    return model_card(classifier(LABELS), 'a"b\n---\n# owned', training=Training(**values | changes))


def test_cards_show_names_as_they_are() -> None:
    text = card()
    front = yaml.safe_load(text.split("---\n")[1])
    assert front == {
        "library_name": "attention-zoo", "pipeline_tag": "image-classification", "tags": ["attention-zoo", "vit"],
    }  # fmt: skip
    assert no_control(text)
    html = rendered(text)
    for tag in ("<script", "<a ", "<img", "<del>", "<h1>owned"):
        assert tag not in html, tag
    assert html.count("<h1>") == 1 and html.count("<strong>") == 1 and html.count("<pre>") == 2
    plain = MARKUP.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    assert html.count(plain) == 3, "the data, the source weights and the label"
    assert all(len(row.split("</td>")) == 3 for row in html.split("</tr>") if "<td" in row)
    code = re.findall(r"<pre><code[^>]*>(.*?)</code>", html, re.DOTALL)[1]
    compile(code.replace("&quot;", '"'), "card", "exec")


def test_simple_names_are_not_changed() -> None:
    for text in (
        "reviews.csv",
        "train_set",
        "org/name-v2.1",
        "C:/data",
        "a & b".replace("&", "and"),
        "50 % (x)",
        "[1, 2]",
    ):
        assert markdown(text) == text
    assert fenced(["a```b", "c"], "bash") == ["````bash", "a```b", "c", "````"]


# --- Pages and figures ----------------------------------------------------------------------------------------------


def test_pages_show_names_as_they_are(tmp_path: Path) -> None:
    image = tmp_path / '"><img src=x onerror=alert(1)>\x1b.png'
    Image.new("RGB", (8, 8)).save(image)
    cards = [Card(image, 0.5, MARKUP), Card(LABELS[2], 0.4, ESCAPES), Card(tmp_path / "<b>gone.png")]
    page = write_page(tmp_path / "page.html", [(MARKUP, cards), (image, cards)], title=MARKUP, note=ESCAPES).read_text()
    assert no_control(page) and "<script" not in page and "<img src=x" not in page and "<b>gone" not in page
    assert LABELS[2] in page


@pytest.mark.parametrize("text", ["$a$", r"$\undefined$", "$$", r"\$5", "a $ b", "\x1b[2J", *LABELS], ids=repr)
def test_figures_show_names_as_they_are(text: str) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.cbook import is_math_text
    from matplotlib.figure import Figure

    figure = Figure()
    label = figure.suptitle(figure_text(text))
    FigureCanvasAgg(figure).draw()
    assert not is_math_text(label.get_text()) and no_control(label.get_text())


def test_the_confusion_matrix_of_such_labels() -> None:
    from types import SimpleNamespace

    import torch
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    from zoo.training.plots import confusion

    task = SimpleNamespace(confusion=torch.eye(2), class_names=[r"$\undefined$", "b"], model=None)
    figure: Any = confusion(None, task, None)  # type: ignore[arg-type]
    FigureCanvasAgg(figure).draw()
    assert figure.axes[0].get_xticklabels()[0].get_text() == r"\$\undefined\$"
