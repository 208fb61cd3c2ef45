"""Stores that pandas 1.5, 2.2 and 3 have pickled are read whole; data/make_stores.py has made them."""

from __future__ import annotations

import pickle
import sys
import types
from dataclasses import dataclass, make_dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from series_ingest import PickleRefused, TimeSeries
from series_ingest.frames import normalise
from series_ingest.migrate import _with_times
from series_ingest.pickle_store import load_store

STORES = sorted(Path(__file__).with_name("data").glob("*.pkl"))
NAN, INF = float("nan"), float("inf")

# Hours after 2024-01-01, and the values of each column.
EXPECTED = {
    "zone": ([7174, 7198, 7223], {"a": [0.1, NAN, -0.0], "b": [1, 2, 3]}),
    "numbers": (
        [0, 1, 2],
        {
            "i8": [-1, 0, 1],
            "u64": [0, 1, 2**53],
            "f32": [float(np.float32(0.1)), INF, -INF],
            "bool": [1, 0, 1],
        },
    ),
    "nullable": ([0, 1 / 3600, 2 / 3600], {"int": [1, NAN, 3], "float": [0.5, NAN, 1.5], "bool": [1, NAN, 0]}),
    "objects": ([0, 24, 50], {"o": [0.1, 2, NAN], "p": [1, NAN, 1]}),
    "small": ([-473352, -473352 + 1 / 3600, -473352 + 999_999_999 / 3600], {"v": [1, 2, 3]}),
    "strings": ([0, 22, 48 + 0.5 / 3600], {"v": [1, 2, 3]}),
    "empty": ([], {"v": []}),
    "columns": ([24, 25, 26], {"d": [0, 4, 8], "c": [1, 5, 9], "b": [2, 6, 10], "a": [3, 7, 11]}),
    "chosen": ([0, 1, 2], {"x": [1, 2, 3]}),
    "arrow": ([0, 1, 2], {"int": [1, NAN, 3], "float": [0.5, NAN, -0.0], "bool": [1, NAN, 0]}),
}


def expected(name: str) -> pd.DataFrame:
    hours, columns = EXPECTED[name]
    times = np.round(np.array(hours) * 3_600_000_000).astype("i8") + 1_704_067_200_000_000
    index = pd.DatetimeIndex(times.view("datetime64[us]")).tz_localize("UTC").rename("when")
    return pd.DataFrame({column: np.array(values, dtype=float) for column, values in columns.items()}, index=index)


def test_there_are_stores_of_all_versions():
    versions = {path.name.split("-protocol")[0] for path in STORES}
    assert versions == {"pandas-1.5.3", "pandas-2.2.3", "pandas-3.1.1"} and len(STORES) == 12


@pytest.mark.parametrize("path", STORES, ids=lambda path: path.stem)
def test_a_store_is_read_whole(path):
    store = load_store(path.read_bytes())
    names = [stored.id for stored in store]
    assert names == [name for name in EXPECTED if name != "arrow" or "pandas-3" in path.name]
    for stored in store:
        series = stored.series()
        assert (series.time_column, series.value_columns) == ("when", list(EXPECTED[stored.id][1]))
        found = normalise(_with_times(series), columns=series.value_columns, time_column="when").frame()
        pd.testing.assert_frame_equal(found, expected(stored.id), check_exact=True)
        signs = np.signbit(found.to_numpy()) == np.signbit(expected(stored.id).to_numpy())
        assert (signs | found.isna().to_numpy()).all(), "-0.0 stays"


def test_the_class_of_the_store_is_not_there():
    assert "analyzer" not in sys.modules
    assert all(b"analyzer" in path.read_bytes() for path in STORES)


def store_of(cls, protocol: int, /, key: str = "s", **fields) -> bytes:
    """A store with one series of a class of a module that is only there while it is pickled."""
    module = types.ModuleType("a_program")
    cls.__module__ = module.__name__
    cls.__qualname__ = cls.__name__ = "TimeSeries"
    module.TimeSeries = cls
    sys.modules[module.__name__] = module
    try:
        return pickle.dumps({key: cls(**fields)}, protocol=protocol)
    finally:
        del sys.modules[module.__name__]


FRAME = pd.DataFrame({"t": pd.date_range("2024-01-01", periods=2), "v": [1.0, 2.0]})
FIELDS = {"id": "s", "data": FRAME, "time_column": "t", "value_columns": ["v"]}


@dataclass
class Plain:
    id: str
    data: pd.DataFrame
    time_column: str
    value_columns: list
    name: str | None = None


class Private:
    def __init__(self, id, data, time_column, value_columns):
        self._id, self._data, self._time_column, self._value_columns = id, data, time_column, value_columns
        self.created_at = pd.Timestamp("2024-01-01", tz="Europe/Berlin")


class Slots:
    __slots__ = ("id", "data", "time_column", "value_columns")

    def __init__(self, id, data, time_column, value_columns):
        self.id, self.data, self.time_column, self.value_columns = id, data, time_column, value_columns


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("kind", ["dataclass", "slots", "frozen", "private", "slots by hand"])
def test_series_of_classes_of_all_kinds_are_read(kind, protocol):
    names = [(field, object) for field in FIELDS]
    cls = {
        "dataclass": Plain,
        "slots": make_dataclass("TimeSeries", names, slots=True),
        "frozen": make_dataclass("TimeSeries", names, frozen=True),
        "private": Private,
        "slots by hand": Slots,
    }[kind]
    if protocol < 2 and kind in ("slots", "slots by hand"):
        pytest.skip("Python itself does not pickle slots with these protocols")
    (stored,) = load_store(store_of(cls, protocol, **FIELDS))
    series = stored.series()
    assert (series.id, series.time_column, series.value_columns) == ("s", "t", ["v"])
    assert series.data["v"].tolist() == [1.0, 2.0]


def test_a_series_that_cannot_be_read_is_named_when_it_is_asked_for():
    for fields, said in (
        ({"data": "text"}, "its data are .*str, not a DataFrame"),
        ({"data": None}, "its data are None"),
        ({"time_column": None}, "its time_column is None, not a string"),
        ({"value_columns": "v"}, "its value_columns are not a list of strings"),
        ({"value_columns": ["w"]}, "its frame has 0 columns named 'w'"),
        ({"data": FRAME.assign(v=pd.Categorical(["a", "b"]))}, "its column 'v' is of the type .*Categorical"),
        ({"data": FRAME.assign(v=pd.to_timedelta([1, 2]))}, "its column 'v' is of the type TimedeltaArray"),
        ({"data": FRAME.assign(v=[1j, 2])}, "its column 'v' is of the type numpy c16"),
        ({"data": FRAME.set_index(["t", FRAME.index])}, "its frame has a MultiIndex"),
        ({"data": FRAME.set_axis(pd.MultiIndex.from_tuples([("t", ""), ("v", "")]), axis=1)}, "its frame has a MultiIndex"),
    ):
        (stored,) = load_store(store_of(Plain, 4, **{**FIELDS, **fields}))
        with pytest.raises(ValueError, match=said):
            stored.series()
    (stored,) = load_store(store_of(Plain, 4, key="r", **FIELDS))
    with pytest.raises(ValueError, match="its id is 's', and its key in the store 'r'"):
        _ = stored.id


@pytest.mark.parametrize("made", [[], "text", {"a": 1}, {"a": FRAME}, FRAME, None])
def test_what_is_not_a_store_is_refused(made):
    with pytest.raises(PickleRefused, match="and not a (dictionary of series|TimeSeries)"):
        load_store(pickle.dumps(made))


def test_a_damaged_pickle_is_refused():
    whole = STORES[0].read_bytes()
    for length in range(0, len(whole), 37):
        with pytest.raises(PickleRefused):
            load_store(whole[:length])
    with pytest.raises(PickleRefused, match="the pickle ends after .* and the file has"):
        load_store(whole + b"N.")


@pytest.mark.parametrize("path", [path for path in STORES if "protocol-5" in path.name], ids=lambda path: path.stem)
def test_a_pickle_with_a_flipped_byte_never_does_more_than_fail(path, monkeypatch):
    """Whatever the byte makes of the pickle, it is read, refused, or fails as one series does."""
    whole = path.read_bytes()
    for at in range(0, len(whole), 17):
        damaged = bytearray(whole)
        damaged[at] ^= 1 << (at % 8)
        try:
            store = load_store(bytes(damaged))
        except PickleRefused:
            continue
        for stored in store:
            try:
                stored.series()
            except ValueError:
                continue


def test_times_that_are_strings_are_those_of_iso_8601_each_with_its_own_zone():
    times = ["2024-01-01T01:00:00+01:00", "2024-01-01 01:00", "2024-01-01T02:00:00.5Z", "2024-01-02", "2024-01-03 00:00 +0530"]
    data = pd.DataFrame({"t": times, "v": range(5)})
    found = normalise(_with_times(TimeSeries("s", data, "t", ["v"])), time_column="t").times - 1_704_067_200_000_000
    assert found.tolist() == [hours * 1_800_000_000 for hours in (0, 2)] + [7_200_500_000, 48 * 1_800_000_000, 85 * 1_800_000_000]
    for wrong in ("now", "01/02/2024", "2024", "20240101", "2024-01-01T00", "", None, 5):
        data = pd.DataFrame({"t": pd.Series(["2024-01-01", wrong], dtype=object), "v": [1, 2]})
        with pytest.raises(ValueError, match="row 1, time column 't': .* is not a time of ISO 8601"):
            _with_times(TimeSeries("s", data, "t", ["v"]))
