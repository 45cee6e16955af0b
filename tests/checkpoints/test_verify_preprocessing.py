"""`zoo.verify` compares label names, token ids, pixels and audio features with the library that a folder is from."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import open_clip
import pytest
import transformers
from audio_peers import transformers_audio
from clip_peers import OPEN_CLIP, SIGLIP_TEXT, open_clip_pair, transformers_pair
from peers import edit_json, timm_folder, transformers_folder
from text_peers import save_text_tokenizer, text_folder
from tokenizers import Tokenizer

import zoo

NAMES = [f"name {i}" for i in range(7)]


def labeled(folder: Path, name: str, **options: Any) -> None:
    transformers_folder(folder, name, id2label=dict(enumerate(NAMES)), num_labels=7, **options)


def vit(folder: Path, processor: str = "ViTImageProcessor", **options: Any) -> None:
    labeled(folder, "ViTForImageClassification")
    getattr(transformers, processor)(**{"size": {"height": 32, "width": 32}} | options).save_pretrained(folder)


def timm(folder: Path) -> None:
    timm_folder(folder, "vit_small_patch16_224")
    edit_json(folder / "config.json", label_names=NAMES)


def spectrogram(folder: Path) -> None:
    transformers_audio(folder, "ASTForAudioClassification", id2label=dict(enumerate(NAMES)))
    transformers.ASTFeatureExtractor(num_mel_bins=16, max_length=24, mean=-3.0, std=2.0).save_pretrained(folder)


def ctc(folder: Path) -> None:
    transformers_audio(folder, "Wav2Vec2ForCTC")
    symbols = ["<pad>", "<s>", "</s>", "<unk>", "|", *"abcdef"]
    (folder / "vocab.json").write_text(json.dumps({symbol: i for i, symbol in enumerate(symbols)}))
    transformers.Wav2Vec2CTCTokenizer(str(folder / "vocab.json")).save_pretrained(folder)
    transformers.Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(folder)


def clip(folder: Path) -> None:
    """CLIP of open_clip, with the tokenizer of that package."""
    open_clip_pair(folder, text_cfg=OPEN_CLIP["text_cfg"] | {"vocab_size": 49408})


def siglip(folder: Path) -> None:
    """SigLIP of open_clip, whose padding the model sees."""
    text = OPEN_CLIP["text_cfg"] | SIGLIP_TEXT | {"hf_tokenizer_name": "local"}
    open_clip_pair(folder, text_cfg=text, custom_text=True, init_logit_bias=-10)
    save_text_tokenizer(folder, "roberta")


def transformers_clip(folder: Path) -> None:
    transformers_pair(folder, "CLIPModel")
    save_text_tokenizer(folder, "roberta")
    transformers.CLIPImageProcessor(size={"shortest_edge": 36}, crop_size=32).save_pretrained(folder)


def text(name: str) -> Callable[[Path], None]:
    return lambda folder: text_folder(name, folder)


FOLDERS: dict[str, Callable[[Path], None]] = {
    "classifier of texts": text("BertForSequenceClassification"),
    "RoBERTa": text("RobertaForSequenceClassification"),
    "GPT-2": text("GPT2LMHeadModel"),
    "LLaMA": text("LlamaForCausalLM"),
    "sentence-transformers": text("sentence-transformers"),
    "ViT": vit,
    "ViT, cropped": lambda folder: vit(folder, "BitImageProcessor", size={"shortest_edge": 37}, crop_size=32),
    "ViT, resized by PIL": lambda folder: vit(folder, "ViTImageProcessorPil", resample=3),
    "ViT, not resized": lambda folder: vit(folder, do_resize=False),
    "timm": timm,
    "AST": spectrogram,
    "wav2vec 2.0": ctc,
    "CLIP of open_clip": clip,
    "SigLIP of open_clip": siglip,
    "CLIP of transformers": transformers_clip,
}


@pytest.mark.parametrize("name", FOLDERS)
def test_right_folders(name: str, tmp_path: Path) -> None:
    FOLDERS[name](tmp_path)
    found = zoo.verify(tmp_path)
    assert found.ok and not found.changes and not found.notes, str(found)


def other_tokenizer(processor: Any, change: Callable[[dict[str, Any]], Any]) -> Any:
    """A text processor with an edited tokenizer.json."""
    values = json.loads(processor.tokenizer)
    change(values)
    return replace(processor, tokenizer=Tokenizer.from_str(json.dumps(values)).to_str())


def swapped(processor: Any) -> Any:
    """Two entries of the vocabulary change places."""

    def change(values: dict[str, Any]) -> None:
        vocab = values["model"]["vocab"]
        vocab["a"], vocab["n"] = vocab["n"], vocab["a"]

    return other_tokenizer(processor, change)


def image(**options: Any) -> Callable[[Any], Any]:
    return lambda processor: replace(processor, **options)


def of_tower(name: str, change: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda both: replace(both, **{name: change(getattr(both, name))})


NOTHING = {"type": "Replace", "pattern": {"Regex": "[\\s\\S]+"}, "content": ""}
FAULTS: list[tuple[str, Callable[[Any], Any], str]] = [
    ("classifier of texts", swapped, "input_ids of"),
    ("classifier of texts", image(padding="left"), "attention_mask of"),
    ("classifier of texts", image(max_length=20), "ok"),
    ("classifier of texts", lambda p: other_tokenizer(p, lambda v: v.update(normalizer=None)), "input_ids of"),
    ("classifier of texts", lambda p: other_tokenizer(p, lambda v: v.update(post_processor=None)), "input_ids of"),
    ("classifier of texts", lambda p: other_tokenizer(p, lambda v: v.update(added_tokens=[])), "input_ids of"),
    ("classifier of texts", lambda p: other_tokenizer(p, lambda v: v.update(normalizer=NOTHING)),
     "text 0 has no tokens: .* with transformers its input_ids are"),
    ("GPT-2", swapped, "input_ids of"),
    ("ViT", image(mean=(0.5, 0.5, 0.51)), "pixels of an image of 32 x 32 differ by 2.55 gray levels"),
    ("ViT", image(std=(0.5, 0.5, 0.501)), "pixels of an image of 32 x 32"),
    ("ViT", image(rescale=1 / 256), "pixels of an image of 32 x 32"),
    ("ViT", image(interpolation="bicubic"), "pixels of an image of 64 x 96"),
    ("ViT", image(fit="shortest"), "pixels of an image of 64 x 96"),
    ("ViT", image(size=(24, 24)), r"pixel_values of \[3, 24, 24\], with transformers \[3, 32, 32\]"),
    ("ViT, cropped", image(resize_to=(38, 38)), "pixels of an image of"),
    ("timm", image(mean=(0.5, 0.5, 0.501)), "pixels of an image of"),
    ("timm", image(interpolation="bilinear"), "pixels of an image of"),
    ("timm", image(resize_to=None), "pixels of an image of"),
    ("AST", image(mean=-3.001), "input_values of"),
    ("AST", image(frame_shift=9.9), "input_values of"),
    ("wav2vec 2.0", image(normalize=False), "input_values of"),
    ("wav2vec 2.0", lambda p: replace(p, vocabulary=replace(p.vocabulary, tokens=p.vocabulary.tokens[::-1])),
     "symbol 0 is 'f', with transformers '<pad>'"),
    ("CLIP of open_clip", of_tower("text", image(clean=None)), "input_ids of"),
    ("CLIP of open_clip", of_tower("image", image(mean=(0.5, 0.5, 0.5))), "pixels of an image of"),
    ("SigLIP of open_clip", of_tower("text", image(clean="lower")), "input_ids of"),
    ("SigLIP of open_clip", of_tower("text", image(special={})), "input_ids of .* in a batch"),
    ("SigLIP of open_clip", of_tower("text", image(multiple=1)), "input_ids of .short. is of shape"),
    ("CLIP of transformers", of_tower("text", swapped), "input_ids of"),
    ("CLIP of transformers", of_tower("image", image(resize_to=None)), "pixels of an image of"),
]  # fmt: skip


def change_model(monkeypatch: pytest.MonkeyPatch, change: Callable[[Any], None]) -> None:
    """Change what `zoo.verify` loads on our side."""
    load = zoo.verify.__globals__["load"]

    def wrong(*args: Any, **options: Any) -> Any:
        model = load(*args, **options)
        change(model)
        return model

    monkeypatch.setitem(zoo.verify.__globals__, "load", wrong)


@pytest.mark.parametrize("name, change, expected", FAULTS, ids=lambda value: value if isinstance(value, str) else "")
def test_wrong_preprocessing(
    name: str, change: Callable[[Any], Any], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    FOLDERS[name](tmp_path)
    change_model(monkeypatch, lambda model: setattr(model, "preprocess", change(model.preprocess)))
    found = zoo.verify(tmp_path)
    if expected == "ok":
        assert found.ok
        return
    assert not found.ok and found.difference <= found.tolerance
    assert len(found.changes) == 1 and re.search(expected, found.changes[0]), str(found)
    assert "DIFFERENT" in str(found) and found.changes[0][:40] in str(found)


def test_label_names_of_timm_in_other_forms(tmp_path: Path) -> None:
    timm(tmp_path)
    edit_json(tmp_path / "config.json", label_names={str(i): name for i, name in enumerate(NAMES)})
    found = zoo.verify(tmp_path)
    assert found.ok and not found.notes and zoo.load(tmp_path).labels == NAMES
    edit_json(tmp_path / "config.json", label_names=NAMES[:5])
    assert zoo.verify(tmp_path).notes == ("labels were not compared: the folder has 5 names for 7 classes",)
    edit_json(tmp_path / "config.json", label_names=..., labels=NAMES)
    assert zoo.verify(tmp_path).notes == ("labels were not compared: timm has none",)


@pytest.mark.parametrize("name", ["ViT", "timm", "AST"])
def test_wrong_labels(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    FOLDERS[name](tmp_path)
    change_model(monkeypatch, lambda model: setattr(model, "labels", [*NAMES[:2], NAMES[3], NAMES[2], *NAMES[4:]]))
    found = zoo.verify(tmp_path)
    library = "timm" if name == "timm" else "transformers"
    assert found.changes == (f"label 2 is 'name 3', with {library} 'name 2' (2 labels differ)",)
    assert not found.ok


def test_what_the_other_library_cannot_read_is_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **options: Any) -> None:
        raise OSError("no tokenizer here\nand more lines")

    text_folder("BertForSequenceClassification", tmp_path / "text")
    transformers_clip(tmp_path / "clip")
    vit(tmp_path / "image")
    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", refuse)
    monkeypatch.setattr(transformers.AutoImageProcessor, "from_pretrained", refuse)
    monkeypatch.setattr(open_clip, "get_tokenizer", refuse)
    reason = "transformers says no tokenizer here"
    texts, images = f"texts were not compared: {reason}", f"images were not compared: {reason}"
    for folder, notes in (("text", [texts]), ("image", [images])):
        found = zoo.verify(tmp_path / folder)
        assert found.ok and list(found.notes) == notes and notes[0] in str(found)
    assert set(zoo.verify(tmp_path / "clip").notes) == {images, texts}


def test_what_the_folder_lacks_is_a_note(tmp_path: Path) -> None:
    labeled(tmp_path / "image", "ViTForImageClassification")
    assert zoo.verify(tmp_path / "image").notes == ("preprocessing was not compared: the model has none",)
    transformers_pair(tmp_path / "clip", "CLIPModel")
    save_text_tokenizer(tmp_path / "clip", "roberta")
    assert zoo.verify(tmp_path / "clip").notes == ("preprocessing of image was not compared: the model has none",)
    timm_folder(tmp_path / "gray", "vit_small_patch16_224", in_chans=1)
    assert "they have 1 channels, and the example has 3" in zoo.verify(tmp_path / "gray").notes[0]


def test_preprocessing_of_another_size_than_the_model_is_a_note(tmp_path: Path) -> None:
    """Loading fits it to the model; the other library would refuse its own batch."""
    vit(tmp_path / "image", size={"height": 40, "width": 40})
    transformers_audio(tmp_path / "audio", "ASTForAudioClassification")
    transformers.ASTFeatureExtractor().save_pretrained(tmp_path / "audio")
    for folder, note in (
        ("image", "makes pixel_values of [3, 32, 32], with transformers [3, 40, 40], and the model takes [3, 32, 32]"),
        ("audio", "makes input_values of [24, 16], with transformers [1024, 128], and the model takes [24, 16]"),
    ):
        found = zoo.verify(tmp_path / folder)
        assert found.ok and note in found.notes[0]
