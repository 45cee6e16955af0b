"""What a page of `zoo.explore` has: descriptions in JSON, blocks of compressed bytes, and the HTML around them."""

import base64
import hashlib
import json
import math
import zlib
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.interpret.explore.inputs import prepare
from zoo.interpret.explore.maps import LayerMaps, MapGroup, captured, number_of
from zoo.interpret.explore.positions import Nodes, Part, Places, Positions, Tokens
from zoo.interpret.explore.strongest import KEYS
from zoo.interpret.plot import prediction_titles, rgb
from zoo.interpret.select_layers import Layers, find_layers, shorten
from zoo.preprocessing.display import escape, image_uri, isolated
from zoo.utils.files import read_text
from zoo.utils.html_document import html_document

HERE = Path(__file__).parent
SCRIPTS = ("data.js", "color.js", "positions.js", "heads.js", "panel.js", "main.js")
LONGEST_EDGE = 1024  # of an image on the page, in pixels
SMALL = 160  # images up to this size are stored without loss

Roles = Mapping[tuple[int | str, int], Any]


def rounded(value: Any, digits: int = 4) -> float | None:
    """A number to so many digits; None for None and for numbers that JSON does not have."""
    number = math.nan if value is None else float(value)
    return float(f"{number:.{digits}g}") if math.isfinite(number) else None


class PageData:
    """Collects what a page has: descriptions in JSON, and blocks of compressed bytes."""

    def __init__(self) -> None:
        self.blocks: list[str] = []

    def block(self, deflated: bytes) -> int:
        """Keep compressed bytes; returns their number on the page."""
        self.blocks.append(base64.b64encode(deflated).decode())
        return len(self.blocks) - 1

    def model(
        self,
        model: Any,
        inputs: Any,
        name: str,
        layers: Layers,
        heads: Any,
        max_tokens: int | None,
        around: int | str | None,
        roles: Roles,
    ) -> tuple[dict[str, Any], str]:
        """(the description of one model, the title of the inputs)."""
        if max_tokens is not None and (type(max_tokens) is not int or max_tokens < 1):
            raise ValueError(f"max_tokens={max_tokens!r}: expected a whole number of at least 1, or None for all")
        if not hasattr(model, "preprocess"):
            raise ValueError(f"expected a zoo.Model, given a {type(model).__name__}: zoo.load loads one from a folder")
        check_roles(roles, model)
        prepared = prepare(model, inputs).around(around, max_tokens)
        groups, missing, output = captured(model, prepared, layers, heads, max_tokens)
        sides: list[Positions] = []
        values = [self.group(group, sides, roles) for group in groups]
        found = prediction_titles(model, output, None) if is_classifier(model) else None
        return {
            "name": name,
            "prediction": found[0].replace("\n", " ") if found and output.shape[0] == 1 else "",
            "missing": [f"{layer} ({kind})" for layer, kind in missing.items()],
            "positions": [[part_values(part) for part in side.parts] for side in sides],
            "groups": values,
        }, prepared.title

    def group(self, group: MapGroup, sides: list[Positions], roles: Roles) -> dict[str, Any]:
        def index(side: Positions) -> int:
            if side not in sides:  # the same object: positions have no equality of their own
                sides.append(side)
            return sides.index(side)

        coarse = torch.cat([layer.maps.thumbnails.flatten() for layer in group.layers])
        return {
            "name": group.name,
            "queries": index(group.queries),
            "keys": index(group.keys),
            "same": group.same,
            "cut": group.queries.total > len(group.queries) or group.keys.total > len(group.keys),
            "thumbnails": self.block(zlib.compress(coarse.numpy().tobytes(), 9)),
            "layers": [self.layer(layer, roles) for layer in group.layers],
        }

    def layer(self, layer: LayerMaps, roles: Roles) -> dict[str, Any]:
        maps = layer.maps
        found = [roles.get((layer.number, head), roles.get((layer.name, head))) for head in layer.heads]
        return {
            "name": layer.name,
            "number": layer.number,
            "heads": layer.heads,
            "block": self.block(maps.data),
            "shape": [maps.heads, maps.queries, maps.keys, maps.kept],
            "thumbnail": list(maps.thumbnails.shape[1:]),
            "scale": maps.scale,
            "signed": maps.signed,
            "entropy": maps.entropy and [rounded(value) for value in maps.entropy],
            "distance": maps.distance and [rounded(value) for value in maps.distance],
            "roles": [role_text(role) for role in found],
        }

    def html(self, title: str, inputs: str, values: dict[str, Any]) -> str:
        """The file. Text of models and inputs is only in JSON, as text of the page, or escaped."""
        script = "\n".join(read_text(HERE / name) for name in SCRIPTS)
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        # JSON in a script element ends at "</script" alone
        description = json.dumps(values, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
        blocks = "\n".join(f'<script type="text/plain" id="block-{i}">{block}</script>'
                           for i, block in enumerate(self.blocks))  # fmt: skip
        body = BODY.format(head=isolated(title), inputs=isolated(inputs), keys=KEYS, description=description,
                           blocks=blocks, script=script)  # fmt: skip
        return html_document(escape(title), read_text(HERE / "page.css"), body, more=f"script-src 'sha256-{digest}'")


def is_classifier(model: Any) -> bool:
    return bool(getattr(model, "labels", None)) and getattr(model.config, "head", None) == "classify"


def check_roles(roles: Roles, model: Any) -> None:
    """Raise ValueError for roles of layers and heads that the model does not have: they would be lost."""
    if not roles:
        return
    heads: dict[int | str, int] = {}  # of layers by name, and the most of any layer with a number
    for name, module in find_layers(model, "*").found:
        for layer in (name, number_of(name)):
            heads[layer] = max(module.core.spec.heads, heads.get(layer, 0))
    for key in roles:
        if not (isinstance(key, tuple) and len(key) == 2):
            raise ValueError(f"roles: expected {{(layer, head): role}}, given the key {key!r}")
        layer, head = key
        if layer not in heads:
            names = [name for name in heads if isinstance(name, str)]
            raise ValueError(f"roles: the model has no layer {layer!r} with attention weights; it has {shorten(names)}")
        if head not in range(heads[layer]):
            raise ValueError(f"roles: layer {layer!r} has no head {head!r}; its heads are 0 to {heads[layer] - 1}")


def role_text(role: Any) -> str:
    """A role as text; (role, score) with its score."""
    if role is None:
        return ""
    if isinstance(role, tuple) and len(role) == 2:
        return f"{role[0]} {float(role[1]):.2f}"
    return str(role)


def part_values(part: Part) -> dict[str, Any]:
    """The description of a part of the positions."""
    if isinstance(part, Tokens):
        return {"kind": "tokens", "texts": list(part.texts)}
    if isinstance(part, Nodes):
        part = part.places
    if isinstance(part, Places):
        return {
            "kind": "places",
            "texts": list(part.texts),
            "places": [[rounded(x), rounded(y)] for x, y in part.places],
            "edges": [list(edge) for edge in part.edges],
        }
    return {
        "kind": part.kind,
        "image": pixels_uri(part.pixels),
        "size": [part.pixels.shape[2], part.pixels.shape[1]],
        "grid": list(part.grid),
        "count": len(part),
        "box": [rounded(edge, 6) for edge in part.box],
        "seconds": part.seconds and rounded(part.seconds, 6),
        "hertz": [[rounded(place), hertz] for place, hertz in part.hertz],
        "name": part.name,
        "tiles": part.tiles and asdict(part.tiles),
    }


def pixels_uri(pixels: Tensor) -> str:
    """uint8 [C, H, W] as a data URI: a PNG of small and of gray images, otherwise a JPEG."""
    from PIL import Image

    image = Image.fromarray(pixels[0].numpy() if len(pixels) == 1 else rgb(pixels))
    lossless = max(image.size) <= SMALL or image.mode == "L"
    if image.mode != "L":
        image.thumbnail((LONGEST_EDGE, LONGEST_EDGE))
    return image_uri(image, lossless=lossless, quality=88)


BODY = """<header>
<h1>{head}</h1>
<p class="inputs">{inputs}</p>
<p class="warning"><strong>Attention weights are not always reasons.</strong> They show what a head mixes. Whether a
prediction depends on it is another question: switch heads off with <code>zoo.intervene</code>, or delete what is
attended to.</p>
</header>
<main id="models"><noscript>This page needs JavaScript, which runs from this file alone.</noscript></main>
<footer>
<section id="faithfulness"></section>
<p>Of each query the page has the {keys} strongest keys; the others are summed as “the rest”. Weights are stored in 255
steps of their square root. Keys: arrows move, Enter holds a position, Esc releases it, Tab goes to the next part.</p>
</footer>
<script type="application/json" id="description">{description}</script>
{blocks}
<script>{script}</script>
"""
