"""The languages of mBART and mBART-50: codes in the vocabulary, and one of them around each text.

A text of mBART is followed by </s> and the code of its language; in mBART-50 the code is before it, </s> after it.
Source: https://github.com/huggingface/transformers/blob/main/src/transformers/models/mbart50/tokenization_mbart50.py
"""

import json
import re
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from zoo.preprocessing.text import TextProcessor
from zoo.preprocessing.tokenizer_file import parse_tokenizer

if TYPE_CHECKING:
    from tokenizers import Tokenizer

LANGUAGE = re.compile(r"[a-z]{2,3}_[A-Z]{2}")
# In the order of their ids.
LANGUAGES = (
    "ar_AR", "cs_CZ", "de_DE", "en_XX", "es_XX", "et_EE", "fi_FI", "fr_XX", "gu_IN", "hi_IN", "it_IT", "ja_XX",
    "kk_KZ", "ko_KR", "lt_LT", "lv_LV", "my_MM", "ne_NP", "nl_XX", "ro_RO", "ru_RU", "si_LK", "tr_TR", "vi_VN",
    "zh_CN",
)  # fmt: skip
LANGUAGES_50 = (
    *LANGUAGES,
    "af_ZA", "az_AZ", "bn_IN", "fa_IR", "he_IL", "hr_HR", "id_ID", "ka_GE", "km_KH", "mk_MK", "ml_IN", "mn_MN",
    "mr_IN", "pl_PL", "ps_AF", "pt_XX", "sv_SE", "sw_KE", "ta_IN", "te_IN", "th_TH", "tl_XX", "uk_UA", "ur_PK",
    "xh_ZA", "gl_ES", "sl_SI",
)  # fmt: skip
DEFAULT = "en_XX"  # of transformers, for a tokenizer that was saved without src_lang


def language_id(processor: Any, code: str, option: str) -> int:
    """The id of the code of a language, as in "ro_RO". Raises ValueError for one that the tokenizer does not have.

    option: the name of the argument in messages.
    """
    if not isinstance(processor, TextProcessor):
        raise ValueError(
            f"{option}={code!r}: the model has no tokenizer; pass input_ids= and decoder_input_ids= instead"
        )
    found = processor.backend.token_to_id(code) if isinstance(code, str) and LANGUAGE.fullmatch(code) else None
    if found is None:
        listed = ", ".join(sorted(filter(LANGUAGE.fullmatch, processor.backend.get_vocab()))) or "none"
        raise ValueError(f"{option}={code!r}: the tokenizer has no such language (it has {listed})")
    return found


def is_language(processor: TextProcessor, number: int) -> bool:
    """Whether an id is the code of a language."""
    return LANGUAGE.fullmatch(processor.backend.id_to_token(number) or "") is not None


def with_language(processor: TextProcessor, code: str, option: str = "src_lang") -> TextProcessor:
    """The processor of texts in another language, such as "de_DE", as transformers' `tokenizer.src_lang = "de_DE"`.

    `model.preprocess = with_language(model.preprocess, "de_DE")` sets the language of all texts that the model reads.
    Raises ValueError for a language that the tokenizer does not have, or if it puts no language code into texts.
    """
    language_id(processor, code, option)
    return replace(processor, tokenizer=_changed(processor.tokenizer, code, option))


@lru_cache(maxsize=8)
def _changed(text: str, code: str, option: str) -> str:
    """The contents of a tokenizer.json with another language; kept, as they are long."""
    tokenizer = parse_tokenizer(text)
    if language_of(tokenizer) is None:
        raise ValueError(
            f"{option}={code!r}: the tokenizer puts no language code into texts, so it has none to replace: its "
            "post-processor is expected to be that of mBART or mBART-50"
        )
    return tokenizer.to_str() if set_language(tokenizer, code) else text


def language_of(tokenizer: "Tokenizer") -> str | None:
    """The language code that a tokenizer puts into texts; None if it puts in none."""
    template = _template_of(tokenizer)
    return next(filter(LANGUAGE.fullmatch, template.get("special_tokens", ())), None)


def set_language(tokenizer: "Tokenizer", code: str) -> bool:
    """Replace the language code that a tokenizer puts into texts. Returns whether something was changed."""
    from tokenizers import processors

    template, before = _template_of(tokenizer), language_of(tokenizer)
    if before in (None, code):
        return False

    def part(piece: dict[str, Any]) -> str:
        ((kind, value),) = piece.items()
        if kind == "Sequence":
            return f"${value['id']}:{value['type_id']}"
        return f"{code if value['id'] == before else value['id']}:{value['type_id']}"

    single, pair = ([part(piece) for piece in template[name]] for name in ("single", "pair"))
    named = [code if name == before else name for name in template["special_tokens"]]
    special = [(name, tokenizer.token_to_id(name)) for name in named]
    tokenizer.post_processor = processors.TemplateProcessing(single=single, pair=pair, special_tokens=special)
    return True


def set_template(tokenizer: "Tokenizer", code: str, *, code_first: bool) -> None:
    """Make a tokenizer put a language code into texts: before them (mBART-50), or after </s> (mBART)."""
    from tokenizers import processors

    before, after = ([code], ["</s>"]) if code_first else ([], ["</s>", code])
    special = [(name, tokenizer.token_to_id(name)) for name in ("</s>", code)]
    single, pair = [*before, "$A", *after], [*before, "$A", "$B", *after]
    tokenizer.post_processor = processors.TemplateProcessing(single=single, pair=pair, special_tokens=special)


def _template_of(tokenizer: "Tokenizer") -> dict[str, Any]:
    """The template of the post-processor; empty if it is of another kind."""
    if tokenizer.post_processor is None:
        return {}
    values = json.loads(tokenizer.post_processor.__getstate__())
    return values if values["type"] == "TemplateProcessing" else {}
