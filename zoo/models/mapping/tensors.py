"""Mapping of tensor names between our models and checkpoints of other libraries, as a text table.

    ours                               =  theirs                          [ops]
    patches.cls                        =  ~embeddings.cls_token           row0 row0
    blocks.*.mixer.{q,k,v}.@           =  blocks.*.attn.qkv.@
    tokens.word.weight                 =  ~embed.{weight:500,more.weight}
    blocks.*.norm1.@                   =  ~h.*.ln_1.@ | ~h.*.norm1.@
    blocks.*.mlp.up.@                  =  ~h.*.mlp.c_fc.@                 T
    head.proj.weight                   =  lm_head.weight                  ?
    head.proj.@                        =  cls_classifier.@                if head.proj_dist.weight
    -                                  =  ~pooler.**

`*` is a layer number, in their names `*+1` one that counts from 1. `@` stands for weight and bias, `{q,k,v}` splits
their tensor into ours along the first axis, and `{a:500,b}` ours into theirs, of which `a` has the first 500 rows; `~`
is the base prefix (`bert.`), which a file has everywhere or nowhere. `|` separates alternative names in published
files; the first is used for export. `-` drops their tensor (there `*` is one part of a name, `**` any number of parts).
`?` marks a tensor that a file may lack; `if` restricts a line to models that have the tensor of ours that follows, for
which the first of the names in the file is the one in use (without `if`, they must agree). Ops are a closed set, each
with its inverse. Lines with tensors that a model does not have are ignored, and each of our tensors uses the first line
that names it: one table serves all options of a family.

The table is read left to right for export and right to left for import. A tensor that it does not name is an error.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from zoo.models.load_report import LoadReport, listed
from zoo.models.mapping.tensor_values import defect
from zoo.utils.errors import LoadError

Op = Callable[[Tensor], Tensor]

# name: (theirs to ours, ours to theirs)
OPS: dict[str, tuple[Op, Op]] = {
    "T": (lambda t: t.T if t.ndim > 1 else t, lambda t: t.T if t.ndim > 1 else t),  # their Linear is (in, out)
    "row0": (lambda t: t[0], lambda t: t[None]),  # theirs has a leading axis of one
    "column0": (lambda t: t[:, 0], lambda t: t[:, None]),  # and a second one
}

LM_HEADS = ("lm", "masked_lm")  # heads whose output layer may be the word embeddings

# Old tensor names in published files, and the names that the same classes use today.
SPELLINGS = (
    (re.compile(r"(?<=LayerNorm\.)gamma$"), "weight"),
    (re.compile(r"(?<=LayerNorm\.)beta$"), "bias"),
    (re.compile(r"(?<=\.)weight_g$"), "parametrizations.weight.original0"),
    (re.compile(r"(?<=\.)weight_v$"), "parametrizations.weight.original1"),
)


@dataclass(frozen=True)
class Line:
    """One line of a table. ours = () drops their tensor; needs: a tensor that the model must have. rest: their tensor
    with the rows of ours after the first `rows`."""

    ours: tuple[str, ...]
    theirs: tuple[str, ...]
    ops: tuple[str, ...] = ()
    optional: bool = False
    needs: str | None = None
    rest: str | None = None
    rows: int = 0

    def numbered(self, n: str) -> "Line":
        """The line for layer n."""
        ours = tuple(name.replace("*", n) for name in self.ours)
        needs = self.needs and self.needs.replace("*", n)
        theirs = tuple(name.replace("*+1", str(int(n) + 1)).replace("*", n) for name in self.theirs)
        rest = self.rest and self.rest.replace("*", n)
        return Line(ours, theirs, self.ops, self.optional, needs, rest, self.rows)

    def to_ours(self, theirs: Tensor, shapes: list[torch.Size], *, views: bool = False) -> list[Tensor] | None:
        """Their tensor as ours, or None if the shapes do not match. Views: all of them, or those but of a transpose."""
        try:
            for op in self.ops:
                theirs = OPS[op][0](theirs)
            parts = theirs.split([shape[0] for shape in shapes]) if len(shapes) > 1 else [theirs]
        except (RuntimeError, IndexError):
            return None
        if [part.shape for part in parts] != shapes:
            return None
        return list(parts) if views else [part.contiguous() for part in parts]

    def with_rest(self, theirs: Tensor, rest: Tensor | None) -> Tensor:
        """Their two tensors as one; the first alone if their shapes are not those of the line, which fits no model."""
        if rest is None or theirs.shape[:1] != (self.rows,) or theirs.shape[1:] != rest.shape[1:]:
            return theirs
        return torch.cat([theirs, rest])

    def to_theirs(self, ours: list[Tensor]) -> Tensor:
        """Our tensors as their tensor."""
        theirs = torch.cat(ours) if len(ours) > 1 else ours[0]
        for op in reversed(self.ops):
            theirs = OPS[op][1](theirs)
        return theirs.contiguous()

    def exported(self, ours: list[Tensor], base: str) -> dict[str, Tensor]:
        """Our tensors as their tensor, or as their two, by name."""
        name, theirs = self.theirs[0].replace("~", base), self.to_theirs(ours)
        if self.rest is None:
            return {name: theirs}
        return {name: theirs[: self.rows].contiguous(), self.rest.replace("~", base): theirs[self.rows :].contiguous()}


@lru_cache
def parse(table: str) -> tuple[Line, ...]:
    """The lines of a table, with `@` and `{...}` expanded."""
    lines: list[Line] = []
    for text in table.splitlines():
        if text := text.split("#")[0].strip():
            lines += _parse_line(text)
    return tuple(lines)


def _parse_line(text: str) -> Iterator[Line]:
    match = re.fullmatch(r"(\S+)\s+=\s+(\S+(?:\s+\|\s+\S+)*)((?:\s+\S+)*?)(?:\s+if\s+(\S+))?", text)
    flags = match[3].split() if match else []
    if not match or not set(flags) <= OPS.keys() | {"?"}:
        raise ValueError(f"table line {text!r}: expected 'ours = theirs [ops] [if ours]', ops of {', '.join(OPS)}, ?")
    ops = tuple(flag for flag in flags if flag != "?")
    for kind in ("weight", "bias") if "@" in text else ("",):
        theirs = tuple(name.replace("@", kind) for name in re.split(r"\s+\|\s+", match[2]))
        line = Line(_braces(match[1].replace("@", kind)), theirs, ops, "?" in flags, match[4])
        if split := re.fullmatch(r"(.*)\{(.*):(\d+),(.*)\}", theirs[0]):
            line = replace(line, theirs=(split[1] + split[2],), rest=split[1] + split[4], rows=int(split[3]))
        yield line


def _braces(name: str) -> tuple[str, ...]:
    """`mixer.{q,k}.bias` -> (`mixer.q.bias`, `mixer.k.bias`); `-` -> ()."""
    if name == "-":
        return ()
    if match := re.search(r"\{(.*?)\}", name):
        return tuple(name.replace(match[0], choice) for choice in match[1].split(","))
    return (name,)


def lines_for(table: str, own: Iterable[str]) -> list[Line]:
    """The lines for a model with the tensors `own`, one per layer; each of our tensors is in at most one line."""
    own, claimed, used = set(own), set[str](), []
    layers = _numbers(own)
    for line in parse(table):
        starred = bool(line.ours) and "*" in line.ours[0]
        for each in [line.numbered(n) for n in layers] if starred else [line]:
            if not each.ours or (each.needs and each.needs not in own):
                continue
            if own.issuperset(each.ours) and claimed.isdisjoint(each.ours):
                claimed.update(each.ours)
                used.append(each)
    return used


def _numbers(names: Iterable[str]) -> list[str]:
    return sorted({part for name in names for part in name.split(".") if part.isdigit()}, key=int)


def import_tensors(
    table: str,
    own: Mapping[str, Tensor],
    foreign: Mapping[str, Tensor],
    *,
    base: str = "",
    source: str = "the file",
    views: bool = False,
) -> tuple[dict[str, Tensor], LoadReport]:
    """Their tensors under our names and in our shapes and layout, and a report.

    own: our tensors (only shapes are used, they may be on meta). foreign: their tensors, read lazily. base: their
    prefix for `~`. A missing tensor of an optional line is not in the result; the report lists it as initialized.
    views: the result is views where it can be, and no values are read: the caller checks that they are finite.
    Raises LoadError naming every tensor that is missing, left over or of another shape.
    """
    names = {_modern(name): name for name in foreign}
    prefix = base if base and any(name.startswith(base) for name in names) else ""
    result, report, problems = dict[str, Tensor](), LoadReport(source), _Problems()
    lines = lines_for(table, own)
    for line in lines:
        candidates = [name.replace("~", prefix) for name in line.theirs]
        theirs = next((name for name in candidates if name in names), None)
        if theirs is None and line.optional:
            report.initialized += line.ours
        elif theirs is None:
            problems.missing.append(f"{candidates[0]} (our {', '.join(line.ours)})")
        elif (rest := line.rest and line.rest.replace("~", prefix)) and rest not in names:
            problems.missing.append(f"{rest} (our {', '.join(line.ours)})")
        else:
            tensor = line.with_rest(foreign[names.pop(theirs)], foreign[names.pop(rest)] if rest else None)
            problems.conflicts += [
                f"{theirs} and {other} (both our {', '.join(line.ours)})"
                for other in candidates
                if other in names and not line.needs and not _same(tensor, foreign[names[other]])
            ]
            if problem := defect(tensor, own[line.ours[0]], values=not views):
                problems.values.append(f"{theirs} ({problem})")
            elif parts := line.to_ours(tensor, [own[name].shape for name in line.ours], views=views):
                result |= zip(line.ours, parts)
            else:
                problems.shapes.append(_shape_mismatch(line, theirs, tensor, own))
    problems.missing += _unmapped(lines, own)
    drops = [_glob(name.replace("~", prefix)) for line in parse(table) if not line.ours for name in line.theirs]
    for name, original in names.items():
        (report.dropped if any(drop.fullmatch(name) for drop in drops) else problems.left_over).append(original)
    problems.raise_if_any(source)
    report.mapped = list(result)
    return result, report


def theirs_of(table: str, name: str, foreign: Iterable[str], base: str = "") -> str | None:
    """The name in the file of our tensor `name`, which must have a line of its own; None if the file lacks it."""
    names = {_modern(theirs): theirs for theirs in foreign}
    candidates = [candidate for line in parse(table) if line.ours == (name,) for candidate in line.theirs]
    spelled = [candidate.replace("~", prefix) for candidate in candidates for prefix in (base, "")]
    return next((names[candidate] for candidate in spelled if candidate in names), None)


def find_tensors(
    table: str, own: Mapping[str, Tensor], foreign: Mapping[str, Tensor], *, base: str = ""
) -> dict[str, tuple[str, Tensor]]:
    """{our name: (their name, tensor)} of all of our tensors that a file has; other tensors are ignored."""
    names = {_modern(name): name for name in foreign}
    prefix = base if base and any(name.startswith(base) for name in names) else ""
    found = dict[str, tuple[str, Tensor]]()
    for line in lines_for(table, own):
        theirs = next((names[name] for name in (n.replace("~", prefix) for n in line.theirs) if name in names), None)
        if theirs and (problem := defect(foreign[theirs], own[line.ours[0]])):
            raise LoadError(f"{theirs} is not usable: {problem}")
        rest = names.get(line.rest.replace("~", prefix)) if line.rest else None
        whole = None if theirs is None else line.with_rest(foreign[theirs], foreign[rest] if rest else None)
        parts = None if whole is None else line.to_ours(whole, [own[name].shape for name in line.ours])
        if theirs and parts:
            found |= {name: (theirs, part) for name, part in zip(line.ours, parts)}
    return found


def export_tensors(table: str, own: Mapping[str, Tensor], *, base: str = "") -> dict[str, Tensor]:
    """Our tensors under their names and in their layout. Raises ValueError naming tensors without a line."""
    lines = lines_for(table, own)
    if unmapped := _unmapped(lines, own):
        raise ValueError(f"the table has no line for {listed(unmapped)}")
    result: dict[str, Tensor] = {}
    for line in lines:
        result |= line.exported([own[name] for name in line.ours], base)
    return result


def tied_names(model: nn.Module) -> dict[str, str]:
    """{name: first name of the same parameter} of all parameters that a model has under several names."""
    first: dict[int, str] = {}
    names = [(name, first.setdefault(id(p), name)) for name, p in model.named_parameters(remove_duplicate=False)]
    return {name: other for name, other in names if name != other}


def config_as_tied(model: Any) -> Any:
    """The model's config; its `tie_word_embeddings` as the weights are, which may have been tied or untied by hand."""
    head, word = getattr(model.head, "proj", None), getattr(getattr(model, "tokens", None), "word", None)
    if model.config.head not in LM_HEADS or head is None or word is None:
        return model.config
    return model.config.replace(tie_word_embeddings=head.weight is word.weight)


def untied(tied: Mapping[str, str], table: str, foreign: Mapping[str, Tensor], *, base: str = "") -> str | None:
    """Their name of a tensor that a config calls tied, and that has values of its own in the file; None if none has.

    tied: see `tied_names`. table: of the model; empty if the file has our names.
    """
    for alias, other in tied.items():
        names = [theirs_of(table, name, foreign, base) if table else name for name in (alias, other)]
        if not all(name in foreign for name in names):
            continue
        one, two = (foreign[str(name)] for name in names)
        if not _same(one, two):
            return names[0]
    return None


def tie(model: nn.Module, tied: Mapping[str, str]) -> None:
    """Tie parameters: each name (key) becomes the same object as the parameter named by its value."""
    for name, other in tied.items():
        path, _, own = name.rpartition(".")
        setattr(model.get_submodule(path), own, model.get_parameter(other))


def _unmapped(lines: list[Line], own: Iterable[str]) -> list[str]:
    """Our tensors that no line names."""
    return sorted(set(own) - {name for line in lines for name in line.ours})


def _shape_mismatch(line: Line, theirs: str, tensor: Tensor, own: Mapping[str, Tensor]) -> str:
    expected = next(iter(line.exported([own[name].to("meta") for name in line.ours], "").values()))
    return f"{theirs} is {list(tensor.shape)}, expected {list(expected.shape)} (our {', '.join(line.ours)})"


def _same(one: Tensor, two: Tensor) -> bool:
    return one.shape == two.shape and (one.data_ptr() == two.data_ptr() or torch.equal(one, two))


def _modern(name: str) -> str:
    for pattern, spelling in SPELLINGS:
        name = pattern.sub(spelling, name)
    return name


def _glob(pattern: str) -> re.Pattern[str]:
    """A pattern as a regex: `*` matches one part between dots, `**` anything."""
    text = re.escape(pattern).replace(r"\*\*", ".*").replace(r"\*", r"[^.]*")
    return re.compile(text)


@dataclass
class _Problems:
    missing: list[str] = field(default_factory=list)
    left_over: list[str] = field(default_factory=list)
    shapes: list[str] = field(default_factory=list)
    conflicts: list[str] = field(default_factory=list)
    values: list[str] = field(default_factory=list)

    def raise_if_any(self, source: str) -> None:
        problems = [
            f"{kind} {listed(names, 12)}"
            for kind, names in (
                ("missing", self.missing),
                ("left over", self.left_over),
                ("mis-shaped", self.shapes),
                ("different under two names", self.conflicts),
                ("not usable", self.values),
            )
            if names
        ]
        if problems:
            raise LoadError(f"{source} does not fit the model: " + "; ".join(problems))
