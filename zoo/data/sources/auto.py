"""Which dataset `data=auto` stands for. Imports no torch."""

from collections.abc import Callable

from zoo.data.sources.dataset_cards import card_files, load_card
from zoo.data.sources.hub import HubError, download
from zoo.utils.console import announce


def resolve_auto(
    preferred: str, data_dir: str | None = None, before_download: Callable[[], object] = lambda: None
) -> str:
    """`preferred` if it is available, from `data_dir`, ZOO_DATA_DIR or the Hugging Face Hub; else `synthetic`.

    A notice says why a real dataset is replaced. With `data_dir` it is never: its loader names the missing file.
    before_download: checks what should be an error before minutes of download.
    """
    if preferred == "synthetic" or data_dir:
        return preferred
    card = load_card(preferred)
    if card_files(card):
        return preferred
    before_download()
    try:
        download(card.hub or "")
    except HubError as error:
        announce(f"using synthetic data instead of {card.title}: {error}")
        return "synthetic"
    return preferred
