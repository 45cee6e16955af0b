"""What `zoo.head_roles` returns: the score of every head in every role."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from zoo.interpret.roles.plot import RolePanel, plot_roles
from zoo.utils.errors import check_choice

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROLES = {
    "previous": "attention to the token before",
    "next": "attention to the token after",
    "same": "attention to the token itself",
    "first": "attention to the first token",
    "position": "part of the map that the maps of other inputs of this length predict",
    "relative_position": "part of the map that the mean over pairs of equal offset predicts",
    "punctuation": "attention to punctuation",
    "separator": "attention to special tokens after the text",
    "rare": "attention to the rarest tokens of a text",
    "induction": "attention to the token that followed the same token before, in repeated random tokens",
    "duplicate": "attention to the same token before, in repeated random tokens",
    "agreement_en": "attention of an English verb to its subject, less that to a noun of the other number",
    "agreement_de": "attention of a German verb to its subject, less that to a noun of the other number",
    "coreference_en": "attention to the noun that 'it' refers to, less that to another noun",
    "coreference_de": "attention to the noun that a German pronoun refers to, less that to another noun",
    "local": "attention to the neighboring patches, up to 8",
    "border": "attention to the patches at the border of the image",
    "object": "attention to the patches of objects, from others",
    "same_object": "attention to other patches of the same object, less that to other objects",
    "onset": "attention to the tokens in which a tone begins",
    "harmonic": "attention to other partials of a tone at the same time, less that to bands without one",
    "alignment": "attention of the step that writes a word to the source words that it translates",
}
SIGNED = ("agreement_en", "agreement_de", "coreference_en", "coreference_de", "same_object", "harmonic")


@dataclass(frozen=True)
class HeadRole:
    """The score of one head in one role.

    Attributes:
        layer: Name of the attention layer, as in `zoo.capture`.
        head: Number of the head in it.
        role: One of `ROLES`.
        score: What `ROLES` says, a mean over queries: from 0 to 1, of roles that compare keys from -1 to 1.
        chance: Of attention that is uniform over the keys that each query may attend to, on the same inputs.
        control: Of the same head with random weights, on the same inputs.
    """

    layer: str
    head: int
    role: str
    score: float
    chance: float
    control: float


@dataclass(frozen=True)
class HeadRoles:
    """The scores of all heads, from `zoo.head_roles`. `str()` is a table of the best heads of each role.

    Attributes:
        rows: One for each head and role.
        left_out: {role: why it was not measured}.
        missing: {name: class} of the layers without attention weights.
        source: What was measured, for tables and titles.
    """

    rows: list[HeadRole]
    left_out: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    source: str = ""

    @property
    def roles(self) -> list[str]:
        """The roles that were measured."""
        found = {row.role for row in self.rows}
        return [role for role in ROLES if role in found]

    def of_role(self, role: str) -> list[HeadRole]:
        """The rows of a role, best head first. Raises ValueError for a role that was not measured."""
        if role in self.left_out:
            raise ValueError(f"the role {role!r} was not measured: {self.left_out[role]}")
        check_choice("role", role, self.roles)
        return sorted((row for row in self.rows if row.role == role), key=lambda row: -row.score)

    def best(self, role: str) -> HeadRole:
        """The head with the highest score in a role."""
        return self.of_role(role)[0]

    def best_control(self, role: str) -> float:
        """The highest score of any head with random weights, which the best of as many heads reaches by chance."""
        return max(row.control for row in self.of_role(role))

    def table(self, roles: Sequence[str] | None = None, top: int = 3) -> str:
        """A table of the best heads of each role. top: heads of a role."""
        lines: list[tuple[str, ...]] = [("role", "layer", "head", "score", "chance", "control", "best control")]
        for role in self.roles if roles is None else roles:
            best = f"{self.best_control(role):.3f}"
            for i, row in enumerate(self.of_role(role)[:top]):
                numbers = (f"{value:.3f}" for value in (row.score, row.chance, row.control))
                lines.append((role if i == 0 else "", row.layer, str(row.head), *numbers, best if i == 0 else ""))
        widths = [max(len(line[column]) for line in lines) for column in range(7)]
        pad = [str.ljust, str.ljust, *[str.rjust] * 5]
        padded = [[put(cell, width) for put, cell, width in zip(pad, line, widths)] for line in lines]
        return "\n".join("  ".join(cells).rstrip() for cells in padded)

    def __str__(self) -> str:
        parts = [self.source] if self.source else []
        parts += [self.table()]
        reasons: dict[str, list[str]] = {}
        for role, reason in self.left_out.items():
            reasons.setdefault(reason, []).append(role)
        parts += [f"not measured: {', '.join(roles)}: {reason}" for reason, roles in reasons.items()]
        if self.missing:
            names = ", ".join(f"{name} ({kind})" for name, kind in self.missing.items())
            parts.append(f"layers without attention weights: {names}")
        return "\n".join(parts)

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON types; "definitions" are those of the roles."""
        return {
            "source": self.source,
            "rows": [asdict(row) for row in self.rows],
            "definitions": {role: ROLES[role] for role in self.roles},
            "left_out": dict(self.left_out),
            "missing": dict(self.missing),
        }

    def plot(self, path: str | Path | None = None, roles: Sequence[str] | None = None) -> "Figure":
        """Plot layers by heads, a panel for each role. path: PNG file to write. roles: which ones, default all."""
        return plot_roles([self.panel(role) for role in (self.roles if roles is None else roles)], path)

    def panel(self, role: str) -> RolePanel:
        """The scores of a role for a plot."""
        rows = self.of_role(role)
        layers = list(dict.fromkeys(row.layer for row in self.rows if row.role == role))
        scores = torch.full((len(layers), 1 + max(row.head for row in rows)), torch.nan)
        for row in rows:
            scores[layers.index(row.layer), row.head] = row.score
        limits = f"chance {rows[0].chance:.2f}, random weights {self.best_control(role):.2f}"
        return RolePanel(f"{role}\n{limits}", layers, scores, role in SIGNED)
