"""The record of the modality: its import and its entry in MODALITIES."""

import torch

from zoo.preprocessing import time_series
from zoo.preprocessing.modality import Modality

ENTRY = {
    "time_series": Modality(
        name="time_series",
        plural="time series",
        family="time_series",
        inputs={"past_values": "past_values"},
        argument="time_series",
        suffixes=(".csv",),
        unnamed="a time series",
        is_item=lambda item: isinstance(item, time_series.TimeSeries),
        load=time_series.read,
        example=lambda c, generator: torch.randn(2, c.max_length, c.channels, generator=generator),
        describe=lambda c: f"{c.max_length:,} steps of {c.channels} channels, patch {c.patch_size}",
        html=time_series.html,
        plot=time_series.plot,
        pipelines={"classify": "time-series-classification"},
        processors={"time_series": time_series.TimeSeriesProcessor},
        processor="zoo.preprocessing.time_series.TimeSeriesProcessor(...)",
        sample="series.csv",
    ),
}
