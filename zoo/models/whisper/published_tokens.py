"""The tokens of the published vocabularies of Whisper, whose files of OpenAI name none."""

from typing import Any

from zoo.preprocessing.whisper_languages import LANGUAGES

PUBLISHED = (51864, 51865, 51866)  # English, 99 languages, 100 languages

# Tokens that are no speech, such as brackets, notes and "(laughs)", which are not written: non_speech_tokens of the
# tokenizer of OpenAI, in the vocabulary of English and in that of all languages.
ENGLISH = """
    1 2 7 8 9 10 14 25 26 27 28 29 31 58 59 60 61 62 63 90 91 92 93 357 366 438 532 685 705 796 930 1058 1220
    1267 1279 1303 1343 1377 1391 1635 1782 1875 2162 2361 2488 3467 4008 4211 4600 4808 5299 5855 6329 7203
    9609 9959 10563 10786 11420 11709 11907 13163 13697 13700 14808 15306 16410 16791 17992 19203 19510 20724
    22305 22935 27007 30109 30420 33409 34949 40283 40493 40549 47282 49146
"""
MULTILINGUAL = """
    1 2 7 8 9 10 14 25 26 27 28 29 31 58 59 60 61 62 63 90 91 92 93 359 503 522 542 873 893 902 918 922 931 1350
    1853 1982 2460 2627 3246 3253 3268 3536 3846 3961 4183 4667 6585 6647 7273 9061 9383 10428 10929 11938 12033
    12331 12562 13793 14157 14635 15265 15618 16553 16604 18362 18956 20075 21675 22520 26130 26161 26435 28279
    29464 31650 32302 32470 36865 42863 47425 49870 50254
"""
SPACE = 220


def published_settings(vocab_size: int) -> dict[str, Any]:
    """What transformers' generation_config.json says of a published model with this vocabulary; empty for another.

    After the vocabulary and <|endoftext|> stand <|startoftranscript|>, the languages, <|translate|>, <|transcribe|>,
    <|startoflm|>, <|startofprev|>, <|nospeech|>, <|notimestamps|> and the timestamps.
    """
    if vocab_size not in PUBLISHED:
        return {}
    multilingual = vocab_size > PUBLISHED[0]
    end = 50257 if multilingual else 50256
    codes = list(LANGUAGES)[: vocab_size - 51765 - multilingual]
    translate = end + 2 + len(codes)
    not_written = [end + 1, *range(translate, translate + 5)]
    words = [int(token) for token in (MULTILINGUAL if multilingual else ENGLISH).split()]
    tasks = {"translate": translate, "transcribe": translate + 1}
    return {
        "decoder_start_token_id": end + 1,
        "is_multilingual": multilingual,
        "lang_to_id": {f"<|{code}|>": end + 2 + i for i, code in enumerate(codes)} if multilingual else {},
        "task_to_id": tasks if multilingual else {},
        "prev_sot_token_id": translate + 3,
        "no_timestamps_token_id": translate + 5,
        "suppress_tokens": words + not_written,
        "begin_suppress_tokens": [SPACE, end],
        "max_initial_timestamp_index": 50,
    }
