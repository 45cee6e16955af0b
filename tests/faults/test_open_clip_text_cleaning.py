"""Texts are cleaned before they are tokenized as the tokenizer of open_clip cleans them."""

import html
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import ftfy
import open_clip
import pytest
import transformers
from clip_peers import OPEN_CLIP, SIGLIP_TEXT, open_clip_pair
from tokenizers import Tokenizer, models, pre_tokenizers, processors

import zoo
from zoo.preprocessing.text_cleaning import Clean, clean_text

WORDS = ["<pad>", "</s>", "<unk>", "a", "photo", "of", "cat", "Cat", "A", ".", ",", "Photo", "dog", "!", "_"]


@pytest.fixture(scope="module")
def siglip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SigLIP of open_clip whose tokenizer makes texts canonical: lower case, no punctuation."""
    folder = tmp_path_factory.mktemp("siglip")
    raw = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    raw.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    names = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=raw, **names).save_pretrained(folder)
    text = OPEN_CLIP["text_cfg"] | SIGLIP_TEXT | {"vocab_size": len(WORDS), "hf_tokenizer_name": "local"}
    open_clip_pair(folder, text_cfg=text, custom_text=True, init_logit_bias=-10)
    assert json.loads((folder / "open_clip_config.json").read_text())["model_cfg"]["text_cfg"]["tokenizer_kwargs"]
    return folder


@pytest.mark.parametrize(
    "text",
    [
        "a photo of a cat", "A Photo of a Cat.", "a photo, of a cat!", "a_photo of  a CAT", "&quot;a&quot; &amp; dog",
        "ａ photo «of» a ｃａｔ", "a photo\u2028of a cat",
    ],
)  # fmt: skip
def test_siglip_canonicalizes(text: str, siglip: Path) -> None:
    theirs = open_clip.tokenizer.HFTokenizer(str(siglip), context_length=16, clean="canonicalize")([text])
    assert zoo.load(siglip).preprocess(text=[text])["input_ids"].tolist() == theirs.tolist()


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP of open_clip, without files of a tokenizer: its vocabulary is the one of the package."""
    folder = tmp_path_factory.mktemp("clip")
    open_clip_pair(folder, text_cfg=OPEN_CLIP["text_cfg"] | {"vocab_size": 49408})
    return folder


@pytest.mark.parametrize(
    "text",
    [
        "A  photo of a CAT.", "cats &amp; dogs", "cats &amp;amp; dogs", "a cafÃ©", "“a cat’s tail”",
        "ΟΔΟΣ Σ", "İstanbul",
        "a\x1b[36m cat\x00", "ﬁsh &lt;b&gt;", "a\u2028b\x0bc", "a <end_of_text> b", "a <|endoftext|> b",
    ],
)  # fmt: skip
def test_clip_repairs_and_unescapes(text: str, clip: Path) -> None:
    theirs = open_clip.tokenize([text], context_length=16)[0]
    ours = zoo.load(clip).preprocess(text=[text])["input_ids"][0]
    assert ours[ours != 0].tolist() == theirs[theirs != 0].tolist()


def test_a_text_that_needs_ftfy_without_it(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain English has the same ids without ftfy; any other text is refused, never tokenized in another way."""
    preprocess, text = zoo.load(clip).preprocess, "It's  a photo -- of a CAT (1/2)!\n"
    monkeypatch.setitem(sys.modules, "ftfy", None)
    theirs = open_clip.tokenize([text], context_length=16)[0]
    assert preprocess(text=[text])["input_ids"][0].tolist() == theirs[theirs != 0].tolist()
    for text in ("a café", "cats &amp; dogs", "a\x1b[36m cat"):
        with pytest.raises(ImportError, match=r"repairs texts with ftfy .* pip install"):
            preprocess(text=[text])


def test_cleaning_is_saved_and_exported(siglip: Path, clip: Path, tmp_path: Path) -> None:
    texts = ["A Photo, of a_CAT!", "a  dog"]
    for folder, mode in ((siglip, "canonicalize"), (clip, "lower")):
        model = zoo.load(folder)
        ids = [model.preprocess(text=[text])["input_ids"].tolist() for text in texts]
        again = zoo.load(zoo.save(model, tmp_path / mode / "zoo"))
        assert again.preprocess == model.preprocess and again.preprocess.text.clean == mode
        zoo.export(model, tmp_path / mode / "open_clip", format="open_clip")
        assert zoo.load(tmp_path / mode / "open_clip").preprocess.text.clean == mode
        theirs = open_clip.get_tokenizer(f"local-dir:{tmp_path / mode / 'open_clip'}")
        assert [[i for i in theirs(text)[0].tolist() if i] for text in texts] == [
            [i for i in row[0] if i] for row in ids
        ]
        processor = model.preprocess.text
        for name, content in processor.transformers_files().items():
            (tmp_path / mode / name).write_text(content if isinstance(content, str) else json.dumps(content))
        fast = transformers.AutoTokenizer.from_pretrained(tmp_path / mode)
        assert [fast(text)["input_ids"] for text in texts] == [
            processor.backend.encode(clean_text(text, mode)).ids for text in texts
        ]


@pytest.mark.parametrize("mode", ["lower", "whitespace", "canonicalize"])
def test_an_export_that_cannot_repair_texts_says_so(
    mode: Clean, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The tokenizers of transformers change case, punctuation and spaces, and no more; the advice of the note holds."""
    texts = ["cats &amp; dogs", "A  cafÃ©", "“a cat’s tail”", "a_photo of a CAT, &lt;b&gt;"]
    model = zoo.load(clip)
    model.preprocess = replace(model.preprocess, text=replace(model.preprocess.text, clean=mode))
    expected = [model.preprocess.text.encode(text) for text in texts]
    capsys.readouterr()
    zoo.export(model, tmp_path / "again", format="open_clip")
    assert capsys.readouterr().err == ""
    zoo.export(model, tmp_path / "theirs", format="transformers")
    note = capsys.readouterr().err
    assert note.count("\n") == 1 and "cannot repair texts with ftfy and unescape HTML" in note
    assert str(tmp_path / "theirs") in note and "html.unescape(ftfy.fix_text(text))" in note
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "theirs")
    assert [tokenizer(text)["input_ids"] for text in texts] != expected
    assert [tokenizer(html.unescape(ftfy.fix_text(text)))["input_ids"] for text in texts] == expected
    again = zoo.load(tmp_path / "theirs")
    zoo.export(again, tmp_path / "more", format="transformers")
    assert "ftfy" not in capsys.readouterr().err and zoo.verify(tmp_path / "theirs").ok


def test_options_that_are_not_supported(siglip: Path, tmp_path: Path) -> None:
    config = json.loads((siglip / "open_clip_config.json").read_text())
    shutil.copytree(siglip, tmp_path / "model")
    for options, error in (({"strip_sep_token": True}, None), ({"clean": "shout"}, "clean='shout', expected one of")):
        config["model_cfg"]["text_cfg"]["tokenizer_kwargs"] = options
        (tmp_path / "model" / "open_clip_config.json").write_text(json.dumps(config))
        if error:
            with pytest.raises(zoo.LoadError, match=error):
                zoo.load(tmp_path / "model")
        else:
            model = zoo.load(tmp_path / "model")
            assert model.preprocess.text is None and "strip_sep_token=True" in model.load_report.notes[0]
