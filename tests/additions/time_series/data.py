"""Labelled time series from a folder: FOLDER/<label>/<name>.csv."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from zoo.utils.errors import DataError


class TimeSeriesFolder(Dataset[dict[str, Any]]):
    """Rows {"past_values": [T, C], "labels": class number}; `labels` are the names of the folders, sorted."""

    def __init__(self, folder: Path, preprocess: Callable[[Path], dict[str, Any]]) -> None:
        self.labels = sorted(path.name for path in folder.iterdir() if path.is_dir())
        self.files = [file for label in self.labels for file in sorted((folder / label).glob("*.csv"))]
        self.preprocess = preprocess
        if not self.files:
            raise DataError(f"{folder} has no time series: expected {folder}/<label>/<name>.csv")

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> dict[str, Any]:
        file = self.files[index]
        return {"past_values": self.preprocess(file)["past_values"][0], "labels": self.labels.index(file.parent.name)}
