"""`zoo.explore`: the attention of one or several models as an HTML page."""

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo.interpret.capture import unwrap
from zoo.interpret.explore.page_data import PageData, Roles, rounded
from zoo.interpret.explore.strongest import KEYS
from zoo.interpret.faithfulness import FaithfulnessResult
from zoo.interpret.roles.result import HeadRoles
from zoo.interpret.select_layers import Layers
from zoo.utils.files import write_atomic

COLUMNS = {"deletion": "deletion (lower is better)", "insertion": "insertion (higher is better)"}
FRAME_HEIGHT = 820  # of the page in a notebook, in pixels


@dataclass(frozen=True, eq=False)
class AttentionPage:
    """A page of `explore`, which a notebook shows. html: the file, which needs no network and no server."""

    html: str

    def save(self, path: str | Path) -> Path:
        """Write the page as a file, and return its path."""
        write_atomic(path, self.html)
        return Path(path)

    def _repr_html_(self) -> str:
        style = f"width:100%;height:{FRAME_HEIGHT}px;border:0"
        content = html.escape(self.html, quote=True)
        return f'<iframe sandbox="allow-scripts" title="Attention" style="{style}" srcdoc="{content}"></iframe>'


def explore(
    models: Any,
    inputs: Any,
    *,
    layers: Layers = "*",
    heads: int | Sequence[int] | None = None,
    max_tokens: int | None = None,
    around: int | str | None = None,
    names: str | Sequence[str] | None = None,
    roles: Any = None,
    faithfulness: Any = None,
) -> AttentionPage:
    """The attention of a model as a page: tokens, patches or times, and what each of them attends to in every head.

        zoo.explore(model, "the soup was cold").save("page.html")

    The models run unchanged, with their fused kernels. The page has the 32 strongest keys of each query and the sum of
    the others, as bytes in steps of the square root (`zoo.interpret.explore.strongest`); it works from disk, without a
    network, and in a notebook. Attention weights show what was mixed, not why a model predicts what it does.

    Args:
        models: A model with its preprocessing, or a list of models, which are shown side by side with the same inputs;
            each has its own tokens. Hovering is linked where they have the same ones.
        inputs: A text, a pair of texts (tuple), an image, or an audio clip, as `model.preprocess` takes it; a list of
            one of each for models of several towers, such as ["cat.png", "a cat"]; or {"text": ..., "images": ...,
            "audio": ...}. For an encoder-decoder also its target text, as the second item or as "target":
            without it the one that the model writes, for Whisper in the "language", such as {"audio": "talk.wav",
            "language": "de"}, or the one that is detected. For DALL-E and MaskGIT a text, and its image or the tokens
            of it as integers [rows, columns]: without them an image that the model makes with seed=0.
        layers, heads: As in `zoo.capture`.
        max_tokens: The page shows the first so many tokens of a text, or times of a clip; what they give to later ones
            counts as the rest. The model reads all of them. Of a graph, the so many nodes nearest to `around`.
        around: The name or the number of a node; default: the first one.
        names: Of the models on the page. Default: of their variants or classes.
        roles: The result of `zoo.head_roles`, or {(layer, head): role}, where layer is the number of a block or the
            name of an attention module; a list has one for each model.
        faithfulness: The result of `zoo.faithfulness` for these inputs, or a table {order: {column: number}}, which
            stands below the maps.

    Raises:
        ValueError: Inputs that a model does not take, layers or heads that it does not have, or that have no attention
            weights, or maps that are too large for a page.
    """
    several = list(models) if isinstance(models, list | tuple) else [models]
    if not several:
        raise ValueError("no models given: expected one, or a list of them")
    titles = [names] if isinstance(names, str) else list(names or map(model_name, map(unwrap, several)))
    of_models = list(roles) if isinstance(roles, list | tuple) else [roles] * len(several)
    for option, values in (("names", titles), ("roles", of_models)):
        if len(values) != len(several):
            raise ValueError(f"{option}= has {len(values)} entries for {len(several)} models: expected one for each")
    page = PageData()
    described = [
        page.model(unwrap(model), inputs, title, layers, heads, max_tokens, around, roles_by_head(found))
        for model, title, found in zip(several, titles, of_models)
    ]
    description = {"keys": KEYS, "models": [each for each, _ in described], "faithfulness": table_of(faithfulness)}
    return AttentionPage(page.html(f"Attention of {' and '.join(titles)}", described[0][1], description))


def model_name(model: Any) -> str:
    return str(getattr(model, "variant", None) or type(model).__name__)


def table_of(faithfulness: Any) -> list[list[Any]] | None:
    """A mapping {order: {column: number}}, or a result with such rows, as rows below a header.

    Raises ValueError for anything else.
    """
    if faithfulness is None:
        return None
    rows, what = faithfulness, ""
    if isinstance(faithfulness, FaithfulnessResult):
        rows = {row["order"]: {title: row[name] for name, title in COLUMNS.items()} for row in faithfulness.rows}
        targets = ", ".join(dict.fromkeys(faithfulness.targets))
        what = f"Area under the probability of {targets}, {faithfulness.part} removed by {faithfulness.removal!r}"
    try:
        names = list(dict.fromkeys(name for row in rows.values() for name in row))
        found = [[str(order), *(rounded(row.get(name)) for name in names)] for order, row in rows.items()]
    except (AttributeError, TypeError, ValueError):
        names = []
    if not names:
        raise ValueError(
            f"faithfulness={faithfulness!r:.100}: expected the result of zoo.faithfulness, or a table "
            "{order: {column: number}}"
        )
    return [[what, *map(str, names)], *found]


def roles_by_head(roles: Any) -> Roles:
    """{(layer, head): role} of a mapping, or of a result of `zoo.head_roles`.

    Of a result it is the role in which the head is furthest above the best head with random weights, with its score;
    a head that is above it in no role has none.
    """
    if roles is None or isinstance(roles, Mapping):
        return roles or {}
    if not isinstance(roles, HeadRoles):
        raise ValueError(f"roles={roles!r:.100}: expected {{(layer, head): role}} or the result of zoo.head_roles")
    controls: dict[str, float] = {}
    for row in roles.rows:
        controls[row.role] = max(row.control, row.chance, controls.get(row.role, 0.0))
    best: dict[tuple[int | str, int], Any] = {}
    for row in sorted(roles.rows, key=lambda row: row.score - controls[row.role]):
        if row.score > controls[row.role]:
            best[row.layer, row.head] = (row.role, row.score)
    return best
