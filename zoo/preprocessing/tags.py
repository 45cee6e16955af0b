"""Tags of words, such as B-PER and I-PER: their prefixes, and the scheme that tagged sentences follow."""

from collections.abc import Iterable, Sequence

PREFIXES = ("B", "I", "E", "S")  # begin, inside, end, single
_BILOU = {"L": "E", "U": "S"}  # last and unit, the names of end and single in BILOU


def split_tag(tag: str) -> tuple[str, str]:
    """(prefix, type) of a tag: ("B", "PER") for "B-PER". A tag without one has "I", as in transformers; O has ""."""
    if tag == "O":
        return "", ""
    if tag[1:2] == "-" and tag[0] in PREFIXES and len(tag) > 2:
        return tag[0], tag[2:]
    return "I", tag


def has_prefix(tag: str) -> bool:
    """Whether a tag is one of an entity, such as B-PER."""
    return tag[1:2] == "-" and tag[0] in (*PREFIXES, *_BILOU) and len(tag) > 2


def from_bilou(tag: str) -> str:
    """L-PER as E-PER and U-PER as S-PER; other tags as they are."""
    return f"{_BILOU[tag[0]]}{tag[1:]}" if has_prefix(tag) and tag[0] in _BILOU else tag


def scheme_of(sentences: Iterable[Sequence[str]]) -> str:
    """The scheme of tagged sentences: "IOB2", "IOB1", "BIOES" or "BILOU"; "IOB" if they follow neither IOB1 nor IOB2;
    "" if the tags are classes of words without prefixes, such as parts of speech.
    """
    prefixes: set[str] = set()
    begun_by_i = needless_b = False
    for tags in sentences:
        before = "O"
        for tag in tags:
            if has_prefix(tag):
                prefixes.add(tag[0])
                follows = has_prefix(before) and before[2:] == tag[2:]
                begun_by_i |= tag[0] == "I" and not follows
                needless_b |= tag[0] == "B" and not follows
            before = tag
    if prefixes & set(_BILOU):
        return "BILOU"
    if prefixes & {"E", "S"}:
        return "BIOES"
    if begun_by_i:
        return "IOB" if needless_b else "IOB1"
    return "IOB2" if prefixes else ""


def tag_order(tag: str) -> tuple[bool, str, str]:
    """Key that sorts tags: O, then by type and prefix."""
    prefix, kind = split_tag(tag)
    return tag != "O", kind, prefix
