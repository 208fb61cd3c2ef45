"""A series as an object: a frame with its definition."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd


@dataclass
class TimeSeries:
    """A series: a wide frame with one row for each time, and its definition.

    Attributes:
        id: the series' id.
        data: the frame; its times are in the column `time_column`, or in its index.
        time_column: the name of its times.
        value_columns: its columns, in their order.
        name: its name.
        description: its description.
        labels: its labels; None if it has none, or to leave those that are stored.
    """

    id: str
    data: pd.DataFrame
    time_column: str
    value_columns: list[str] = field(default_factory=list)
    name: str | None = None
    description: str | None = None
    labels: Mapping[str, Any] | None = None
