#!/usr/bin/env python3
"""Make the stores of this folder, with the pandas of the Python that runs this: once with each version.

    python make_stores.py

Versions: pandas 1.5.3 with numpy 1.26.4, 2.2.3 with numpy 2.2.6, and 3.1.1 with numpy 2.4.6 and pyarrow 26.0.1; all with
pytz 2025.2.
test_stores.py has the values that are expected of them.
"""

import datetime
import pickle
import sys
import types
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd

# The class of a program that is not there when the store is migrated.
MODULE = "analyzer.storage.models"


@dataclass
class TimeSeries:
    id: str
    data: pd.DataFrame
    time_column: str
    value_columns: list


TimeSeries.__module__ = MODULE
for name in ("analyzer", "analyzer.storage", MODULE):
    sys.modules[name] = types.ModuleType(name)
sys.modules[MODULE].TimeSeries = TimeSeries


def frames():
    day = pd.Timedelta(days=1)
    berlin = pd.date_range("2024-10-26", periods=3, freq="D", tz="Europe/Berlin", name="when")
    naive = pd.date_range("2024-01-01", periods=3, freq="h")
    yield "zone", pd.DataFrame({"a": [0.1, np.nan, -0.0], "b": [1, 2, 3]}, index=berlin)
    yield "numbers", pd.DataFrame(
        {
            "when": naive,
            "i8": np.array([-1, 0, 1], dtype="int8"),
            "u64": np.array([0, 1, 2**53], dtype="uint64"),
            "f32": np.array([0.1, np.inf, -np.inf], dtype="float32"),
            "bool": [True, False, True],
            "text": ["not", "a", "column"],
            "category": pd.Categorical(["a", "b", "a"]),
        }
    )
    yield "nullable", pd.DataFrame(
        {
            "when": [1_704_067_200, 1_704_067_201, 1_704_067_202],
            "int": pd.array([1, None, 3], dtype="Int64"),
            "float": pd.array([0.5, None, 1.5], dtype="Float64"),
            "bool": pd.array([True, None, False], dtype="boolean"),
        }
    )
    yield "objects", pd.DataFrame(
        {
            "when": pd.Series(
                [
                    datetime.datetime(2024, 1, 1),
                    pd.Timestamp("2024-01-02 01:00", tz="Europe/Berlin"),
                    datetime.datetime(2024, 1, 3, tzinfo=datetime.timezone(datetime.timedelta(hours=-2))),
                ],
                dtype=object,
            ),
            "o": pd.Series([Decimal("0.1"), np.float64(2), None], dtype=object),
            "p": pd.Series([1, pd.NA, True], dtype=object),
        }
    )
    yield "small", pd.DataFrame({"when": [0, 1, 999_999_999], "v": [1.0, 2.0, 3.0]})
    yield "strings", pd.DataFrame({"when": ["2024-01-01", "2024-01-02T00:00:00+02:00", "2024-01-03 00:00:00.5"], "v": [1, 2, 3]})
    yield "empty", pd.DataFrame({"when": pd.DatetimeIndex([], tz="UTC"), "v": np.array([], dtype="float64")})
    yield "columns", pd.DataFrame(np.arange(12.0).reshape(3, 4), columns=list("dcba")).assign(when=naive + day)
    yield "chosen", pd.DataFrame({"when": naive, "x": [1.0, 2.0, 3.0], "y": [4, 5, 6]})
    try:
        import pyarrow as pa
    except ImportError:
        return
    if int(pd.__version__.split(".")[0]) < 3:
        return
    yield "arrow", pd.DataFrame(
        {
            "when": pd.Series(naive.tz_localize("UTC")).astype(pd.ArrowDtype(pa.timestamp("us", "UTC"))),
            "int": pd.array([1, None, 3], dtype="int64[pyarrow]"),
            "float": pd.array([0.5, None, -0.0], dtype="double[pyarrow]"),
            "bool": pd.array([True, None, False], dtype="bool[pyarrow]"),
        }
    )


def main():
    store = {}
    for name, frame in frames():
        others = ("when", "text", "category", "y")
        store[name] = TimeSeries(name, frame, "when", [column for column in frame.columns if column not in others])
    # Each version's own protocol, and the oldest and newest ones.
    for protocol in (0, 2, 4, 5):
        path = Path(__file__).with_name(f"pandas-{pd.__version__}-protocol-{protocol}.pkl")
        path.write_bytes(pickle.dumps(store, protocol=protocol))
        print(path.name, path.stat().st_size)


if __name__ == "__main__":
    main()
