"""`zoo generate` with models that make images of a text: the sheet, its options, and what does not fit."""

from pathlib import Path

import pytest
import torch
from PIL import Image

import zoo
from zoo.cli.main import main
from zoo.preprocessing.multimodal import MultimodalProcessor
from zoo.preprocessing.tokenizer_training import train

TEXT = "a red circle"
SIDE, GAP = 128, 4  # pixels of an image in the sheet, and between two


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """dalle/, maskgit/, ranker/ and words/, a language model; of images of 8 x 16 pixels, 2 x 4 tokens."""
    path: Path = tmp_path_factory.mktemp("models")
    words = train("wordpiece", [TEXT, "a blue square above it"] * 9, vocab_size=50, max_length=12)
    tokenizer = zoo.create_model("dvae_tiny", image_size=(8, 16), widths=(8, 8), depth=1, vocab_size=20, seed=0)
    tokenizer.preprocess = tokenizer.default_preprocess()
    for name in ("dalle", "maskgit"):
        model = zoo.create_model(
            f"{name}_nano", width=16, depth=1, heads=2, text_vocab_size=words.vocab_size, text_length=12,
            image_vocab_size=20, image_grid=(2, 4), text_dropout=0.1 * (name == "dalle"), seed=0,
        )  # fmt: skip
        model.preprocess = words
        zoo.save(model.set_image_tokenizer(tokenizer), path / name)
    small = {"width": 16, "depth": 1, "heads": 2, "mlp_dim": 16}
    ranker = zoo.contrast(
        image={"name": "vit_cifar_tiny", "image_size": 8, "patch_size": 4, **small},
        text={"name": "bert_tiny", "vocab_size": words.vocab_size, "max_length": 12, **small}, width=8, seed=0,
    )  # fmt: skip
    ranker.preprocess = MultimodalProcessor(image=ranker.tower("image").default_preprocess(), text=words)
    zoo.save(ranker, path / "ranker")
    language = zoo.create_model("gpt_nano", vocab_size=words.vocab_size, seed=0)
    language.preprocess = words
    zoo.save(language, path / "words")
    Image.new("RGB", (16, 8), (9, 200, 30)).save(path / "green.png")
    return path


def tiles(file: Path, count: int, columns: int) -> torch.Tensor:
    """The images of a sheet as they were before they were enlarged, uint8 [count, 3, 8, 16]."""
    pixels = torch.tensor(list(Image.open(file).convert("RGB").tobytes()), dtype=torch.uint8)
    width, height = Image.open(file).size
    assert (width, height) == (columns * (2 * SIDE + GAP) - GAP, -(-count // columns) * (SIDE + GAP) - GAP)
    pixels = pixels.view(height, width, 3).movedim(-1, 0)
    corners = [((SIDE + GAP) * (i // columns), (2 * SIDE + GAP) * (i % columns)) for i in range(count)]
    return torch.stack([pixels[:, y : y + SIDE : 16, x : x + 2 * SIDE : 16] for y, x in corners])


@pytest.mark.parametrize("name", ["dalle", "maskgit"])
def test_the_sheet_has_the_images_of_the_function(
    name: str, folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, own = tmp_path / "new" / "sheet.png", {"dalle": ["guidance_scale=2", "top_k=9"], "maskgit": ["steps=3"]}[name]
    words = [str(folders / name), TEXT, "num_images=5", "temperature=0.9", "seed=3", *own]
    assert main(["generate", *words, "--out", str(out), "--rerank", str(folders / "ranker")]) == 0
    assert "sheet.png: 5 images of 16 x 8 pixels, the best first, row by row" in capsys.readouterr().out
    model = zoo.load(folders / name)
    options = {word.partition("=")[0]: int(word.partition("=")[2]) for word in own}
    made = zoo.generate_images(
        model, TEXT, num_images=5, temperature=0.9, seed=3, rerank=zoo.load(folders / "ranker"), **options
    )
    assert made.pixel_values is not None
    assert torch.equal(tiles(out, 5, 3), made.pixel_values[0])
    assert Image.open(out).info["Description"] == TEXT


def test_completion_and_files_that_exist(folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                         capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    words = ["generate", str(folders / "dalle"), TEXT, "--image", str(folders / "green.png"), "keep=1", "seed=0"]
    assert main(words) == 0
    made = zoo.generate_images(zoo.load(folders / "dalle"), TEXT, images=folders / "green.png", keep=1, seed=0)
    assert made.pixel_values is not None and torch.equal(tiles(Path("images.png"), 1, 1), made.pixel_values[0])
    before = Path("images.png").read_bytes()
    assert main([*words[:-1], "seed=1"]) == 2
    assert "--out images.png exists: replace it with --overwrite" in capsys.readouterr().err
    assert Path("images.png").read_bytes() == before
    assert main([*words[:-1], "seed=1", "--overwrite"]) == 0
    assert Path("images.png").read_bytes() != before and [p.name for p in tmp_path.iterdir()] == ["images.png"]


@pytest.mark.parametrize(
    ("model", "words", "says"),
    [
        ("dalle", ["steps=3"], "Dalle has no option 'steps' for images"),
        ("maskgit", ["num_image=3"], "MaskGIT has no option 'num_image' for images; did you mean 'num_images'?"),
        ("maskgit", ["guidance_scale=2"], "trained without dropped texts"),
        ("dalle", ["rerank=ranker"], "rerank= is given by --rerank FOLDER"),
        ("dalle", ["--rerank", "dalle"], "expected a contrastive model of images and texts, given a Dalle"),
        ("dalle", ["--image", "green.png"], "--image FILE and keep= belong together"),
        ("dalle", ["keep=2"], "--image FILE and keep= belong together"),
        ("dalle", ["--image", "green.png", "--image", "green.png", "keep=1"], "2 times --image: a Dalle makes images"),
        ("dalle", ["--audio", "a.wav"], "--audio: a Dalle makes images"),
        ("dalle", ["--out", "sheet.jpg"], "--out sheet.jpg: expected the name of a .png file"),
        ("dalle", ["--image", "green.png", "--out", "green.png", "--overwrite", "keep=1"], "green.png is an input"),
        ("words", ["--out", "sheet.png"], "--out is for models that make images (dalle, maskgit), and words is a GPT2"),
        ("words", ["--rerank", "ranker"], "--rerank is for models that make images"),
        ("words", ["--overwrite"], "--overwrite is for models that make images"),
    ],
)
def test_what_does_not_fit(model: str, words: list[str], says: str, folders: Path, monkeypatch: pytest.MonkeyPatch,
                           capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    monkeypatch.chdir(folders)
    before = {path.name for path in folders.iterdir()}
    assert main(["generate", model, TEXT, *words]) == 2
    assert says in capsys.readouterr().err
    assert {path.name for path in folders.iterdir()} == before


def test_a_model_of_images_needs_a_text(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", str(folders / "dalle"), "--image", str(folders / "green.png"), "keep=1"]) == 2
    assert "the text of the images is missing" in capsys.readouterr().err
