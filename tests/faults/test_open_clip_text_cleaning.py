"""Texts are cleaned before they are tokenized as the tokenizer of open_clip cleans them."""

import json
from pathlib import Path

import open_clip
import pytest
import transformers
from clip_peers import OPEN_CLIP, SIGLIP_TEXT, open_clip_pair
from tokenizers import Tokenizer, models, pre_tokenizers, processors

import zoo

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
        "a photo of a cat",
        *(
            pytest.param(text, marks=pytest.mark.xfail(
                strict=True, raises=AssertionError, reason="`clean: canonicalize` is not read"))
            for text in ("A Photo of a Cat.", "a photo, of a cat!", "a_photo of  a CAT")
        ),
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
        "A  photo of a CAT.",
        *(
            pytest.param(text, marks=pytest.mark.xfail(strict=True, raises=AssertionError, reason=reason))
            for text, reason in (
                ("cats &amp; dogs", "HTML entities are not unescaped"),
                ("cats &amp;amp; dogs", "HTML entities are not unescaped"),
                ("a cafÃ©", "broken encodings are not repaired as ftfy does"),
                ("“a cat’s tail”", "curly quotes are not straightened as ftfy does"),
            )
        ),
    ],
)
def test_clip_repairs_and_unescapes(text: str, clip: Path) -> None:
    theirs = open_clip.tokenize([text], context_length=16)[0]
    ours = zoo.load(clip).preprocess(text=[text])["input_ids"][0]
    assert ours[ours != 0].tolist() == theirs[theirs != 0].tolist()
