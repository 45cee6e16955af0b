"""What the epochs of a run that writes texts about images read, and whether the run is long enough for it."""

import math
from typing import Any

from zoo.training.run import Run
from zoo.utils.console import announce


def announce_unread(run: Run, steps_per_epoch: int) -> None:
    """Say so if a run ends before it reads all that its settings name: scenes with all names, or questions."""
    t, d = run.config.trainer, run.config.data
    epochs = math.ceil(t.steps / max(1, steps_per_epoch)) if t.steps else t.epochs or 1
    length = f"{epochs} epoch" if epochs == 1 else f"{epochs} epochs"
    alone: dict[str, Any] = {
        "partly_named_epochs": (d.partly_named_epochs, "partly named scenes"),
        "caption_epochs": (getattr(d, "caption_epochs", 0), "captions"),
    }
    for option, (first, what) in alone.items():
        if first >= epochs:
            announce(f"{option}={first}, and the run has {length}: it reads {what} alone; train longer, or set "
                     f"{option} to fewer epochs")  # fmt: skip
    until = getattr(d, "partly_named_until", None)
    if until is not None and d.partly_named_epochs < epochs <= until:
        announce(f"partly_named_until={until}, and the run has {length}: all of them read partly named scenes; "
                 f"train longer, or set partly_named_until to fewer epochs")  # fmt: skip
