"""An extension of griffe for mkdocs.yml: the names that a package of `zoo` imports on first use are members of it.

griffe reads the source without running it, so it does not see what a module `__getattr__` finds.
"""

import ast
from typing import Any

import griffe


class LazyExports(griffe.Extension):
    """Adds an alias for each entry of the tables `_WHERE` (of `zoo`) and `_HOME` (of its packages)."""

    def on_module(self, *, mod: griffe.Module, **kwargs: Any) -> None:
        for table, prefix in (("_WHERE", "zoo."), ("_HOME", "")):
            value = mod.members.get(table)
            if not isinstance(value, griffe.Attribute):
                continue
            for name, home in ast.literal_eval(str(value.value)).items():
                if name not in mod.members:  # imported for type checkers
                    mod.set_member(name, griffe.Alias(name, f"{prefix}{home}.{name}", parent=mod))
