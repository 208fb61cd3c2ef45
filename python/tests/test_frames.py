"""What a frame is stored as, and what is refused with its row and column."""

from __future__ import annotations

import datetime
from decimal import Decimal
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from series_ingest import DuplicatePoints
from series_ingest.frames import column_values, microseconds_of, normalise

MIDNIGHT = 1_704_067_200_000_000  # 2024-01-01
DAY = 86_400_000_000


def times_of(index, **arguments) -> list[int]:
    return normalise(pd.DataFrame({"v": np.ones(len(index))}, index=index), **arguments).times.tolist()


def frame(**columns) -> pd.DataFrame:
    index = pd.date_range("2024-01-01", periods=len(next(iter(columns.values()))), freq="D")
    return pd.DataFrame({name: pd.Series(values, index=index) for name, values in columns.items()})


# ------------------------------------------------------------------------------------------------------------------ times


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "UTC", "Asia/Kolkata", "America/New_York"])
def test_times_of_all_units_and_zones_are_the_same_instants(unit, zone):
    index = pd.DatetimeIndex(np.array(["2024-01-01", "2024-01-02"], dtype=f"datetime64[{unit}]"))
    if zone is not None:
        index = index.tz_localize("UTC").tz_convert(zone)
    assert times_of(index) == [MIDNIGHT, MIDNIGHT + DAY]


def test_a_change_of_daylight_saving_time_keeps_each_instant():
    index = pd.date_range("2024-10-26 22:00", periods=5, freq="h", tz="UTC").tz_convert("Europe/Berlin")
    # That clock shows 02:00 on two occasions.
    assert [time.hour for time in index] == [0, 1, 2, 2, 3]
    first = microseconds_of("2024-10-26 22:00", "start")
    assert times_of(index) == [first + hour * 3_600_000_000 for hour in range(5)]


def test_a_naive_time_is_utc_whatever_the_machines_zone(monkeypatch):
    monkeypatch.setenv("TZ", "America/New_York")
    assert times_of(pd.DatetimeIndex(["2024-01-01"])) == [MIDNIGHT]


def test_the_frame_has_an_index_of_utc_in_microseconds():
    index = pd.date_range("2024-01-01", periods=3, freq="D", tz="Europe/Berlin", unit="ns", name="day")
    found = normalise(pd.DataFrame({"a": [1, 2, 3]}, index=index)).frame()
    assert (str(found.index.dtype), found.index.name, str(found["a"].dtype)) == ("datetime64[us, UTC]", "day", "float64")
    assert (found.index == index).all()


def test_times_finer_than_a_microsecond_are_refused_or_truncated_on_request():
    index = pd.DatetimeIndex(np.array([MIDNIGHT * 1000, MIDNIGHT * 1000 + 1999], dtype="datetime64[ns]"))
    with pytest.raises(ValueError, match=r"row 1, time column 'timestamp': 2024-01-01 00:00:00\.000001999 is finer"):
        times_of(index)
    assert times_of(index, truncate_times=True) == [MIDNIGHT, MIDNIGHT + 1]
    before_1970 = pd.DatetimeIndex(np.array([-1], dtype="datetime64[ns]"))
    assert times_of(before_1970, truncate_times=True) == [-1], "towards the past, as the worker truncates"


def test_a_missing_time_is_refused_with_its_row():
    with pytest.raises(ValueError, match="row 1, time column 'timestamp': the time is missing"):
        times_of(pd.DatetimeIndex(["2024-01-01", pd.NaT]))
    df = pd.DataFrame({"t": [1.7e9, np.nan], "v": [1, 2]})
    with pytest.raises(ValueError, match="row 1, time column 't': the time is missing"):
        normalise(df, time_column="t")
    for missing in (None, pd.NA, pd.NaT, float("nan"), np.datetime64("NaT")):
        df = pd.DataFrame({"t": pd.Series([datetime.datetime(2024, 1, 1), missing], dtype=object), "v": [1, 2]})
        with pytest.raises(ValueError, match="row 1, time column 't': the time is missing"):
            normalise(df, time_column="t")


@pytest.mark.parametrize(
    ("values", "unit", "expected"),
    [
        ([1_704_067_200, 1_704_067_201], "s", [0, 1_000_000]),
        ([1_704_067_200.0, 1_704_067_200.1], "s", [0, 100_000]),
        ([1_704_067_200.0000005, 1_704_067_200.5], "s", [0, 500_000]),
        ([1_704_067_200_000, 1_704_067_200_001], "ms", [0, 1000]),
        ([1_704_067_200_000.5], "ms", [500]),
        ([MIDNIGHT, MIDNIGHT + 1], "us", [0, 1]),
        ([MIDNIGHT * 1000, MIDNIGHT * 1000 + 1000], "ns", [0, 1]),
    ],
)
def test_numeric_times_are_since_the_epoch_in_their_unit(values, unit, expected):
    df = pd.DataFrame({"t": values, "v": np.ones(len(values))})
    found = normalise(df, time_column="t", time_unit=unit).times
    assert (found - MIDNIGHT).tolist() == expected


def test_small_numeric_times_are_seconds_since_the_epoch_too():
    df = pd.DataFrame({"t": [0, 1, 999_999_999], "v": [1, 2, 3]})
    assert normalise(df, time_column="t").times.tolist() == [0, 1_000_000, 999_999_999_000_000]
    for dtype in ("Int64", "UInt32", "Float64", "float32", "int64[pyarrow]", "double[pyarrow]"):
        typed = df.assign(t=df["t"].clip(upper=2**20).astype(dtype))
        assert normalise(typed, time_column="t").times.tolist() == [0, 1_000_000, 2**20 * 1_000_000]


def test_numbers_in_another_unit_are_outside_the_window():
    df = pd.DataFrame({"t": [MIDNIGHT // 1000], "v": [1]})
    with pytest.raises(ValueError, match=r"row 0, time column 't': .*is outside \[1900-01-01, 2200-01-01\).*time_unit"):
        normalise(df, time_column="t")
    with pytest.raises(ValueError, match="row 0, time column 't': .* s is beyond what the database can store; .*time_unit"):
        normalise(df * 1000, time_column="t")
    huge = pd.DataFrame({"t": [2**63 - 1], "v": [1]})
    for unit in ("s", "ms"):
        with pytest.raises(ValueError, match="row 0, time column 't': .* is beyond what the database can store"):
            normalise(huge, time_column="t", time_unit=unit)
    for value in (np.inf, -np.inf, 1e300):
        with pytest.raises(ValueError, match="row 0, time column 't': .* is beyond what the database can store"):
            normalise(pd.DataFrame({"t": [value], "v": [1]}), time_column="t")


def test_the_window_can_be_that_of_another_worker():
    index = pd.DatetimeIndex(np.array(["1850-01-01", "2300-01-01"], dtype="datetime64[s]"))
    with pytest.raises(ValueError, match="row 0, time column 'timestamp': 1850-01-01 00:00:00 is outside"):
        times_of(index)
    assert len(times_of(index, time_window=("1800-01-01", "2400-01-01"))) == 2
    for limit, row in (("2300-01-01", 1), ("2300-01-01 00:00:00.000001", None)):
        if row is None:
            times_of(index, time_window=("1850-01-01", limit))
        else:
            with pytest.raises(ValueError, match=f"row {row}, "):
                times_of(index, time_window=("1850-01-01", limit))


def test_times_that_are_objects_are_converted_one_by_one():
    times = [
        datetime.datetime(2024, 1, 1),
        datetime.date(2024, 1, 2),
        datetime.datetime(2024, 1, 3, 1, tzinfo=ZoneInfo("Europe/Berlin")),
        pd.Timestamp("2024-01-04", tz="UTC"),
        np.datetime64("2024-01-05", "s"),
        datetime.datetime(2024, 1, 6, tzinfo=datetime.timezone(datetime.timedelta(hours=-1))),
    ]
    df = pd.DataFrame({"t": pd.Series(times, dtype=object), "v": np.arange(6.0)})
    hours = [0, 24, 48, 72, 96, 121]
    assert normalise(df, time_column="t").times.tolist() == [MIDNIGHT + hour * 3_600_000_000 for hour in hours]
    fine = df.assign(t=pd.Series([*times[:5], pd.Timestamp("2024-01-06 00:00:00.000000001")], dtype=object))
    with pytest.raises(ValueError, match="row 5, time column 't': 2024-01-06 00:00:00.000000001 is finer"):
        normalise(fine, time_column="t")
    assert normalise(fine, time_column="t", truncate_times=True).times[5] == MIDNIGHT + 5 * DAY


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_times_of_pyarrow_are_converted(unit):
    values = pd.array(pd.DatetimeIndex(["2024-01-01", "2024-01-02"]), dtype=pd.ArrowDtype(pa.timestamp(unit, "Asia/Kolkata")))
    df = pd.DataFrame({"t": values, "v": [1, 2]})
    expected = df["t"].dt.tz_convert("UTC").dt.tz_localize(None).astype("datetime64[us]").to_numpy().view("i8").tolist()
    assert normalise(df, time_column="t").times.tolist() == expected
    assert normalise(df.set_index("t")).times.tolist() == expected


@pytest.mark.parametrize(
    ("index", "said"),
    [
        (pd.period_range("2024", periods=2, freq="D"), "has periods"),
        (pd.Index(["2024-01-01", "2024-01-02"]), "of type (object|str)|'2024-01-01' is of type str, not a time"),
        (pd.to_timedelta([1, 2], unit="s"), "of type timedelta64"),
        (pd.Index([True, False]), "of type bool"),
        (pd.CategoricalIndex(["a", "b"]), "is categorical"),
        (pd.Index([1 + 1j, 2]), "of type complex128"),
    ],
)
def test_what_is_not_a_time_is_refused(index, said):
    df = pd.DataFrame({"t": index, "v": [1, 2]})
    with pytest.raises(TypeError, match=said):
        normalise(df, time_column="t")
    with pytest.raises(TypeError, match="not a DatetimeIndex"):
        normalise(df[["v"]].set_axis(index))


def test_the_times_are_the_index_or_a_column():
    df = pd.DataFrame({"when": pd.to_datetime(["2024-01-01", "2024-01-02"]), "v": [1, 2]})
    assert normalise(df, time_column="when").time_column == "when"
    with pytest.raises(TypeError, match="RangeIndex, not a DatetimeIndex; .* for example time_column='when'"):
        normalise(df)
    assert normalise(df.set_index("when")).time_column == "when"
    assert normalise(df.set_index("when"), time_column="when").time_column == "when"
    assert normalise(df.set_index("when").rename_axis(None)).time_column == "timestamp"
    assert normalise(df.set_index("when").rename_axis(None), time_column="day").time_column == "day"
    numbers = pd.DataFrame({"v": [1, 2]}, index=pd.Index([1.7e9, 1.7e9 + 1], name="t"))
    assert normalise(numbers, time_column="t").times.tolist() == [1_700_000_000_000_000, 1_700_000_001_000_000]
    with pytest.raises(ValueError, match="no column 'x', and its index is neither named so"):
        normalise(df, time_column="x")
    with pytest.raises(ValueError, match="both the index and a column are named 'when'"):
        normalise(df.set_index("when", drop=False))


# ----------------------------------------------------------------------------------------------------------------- values


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([1, -2], dtype="int8"), [1, -2]),
        (np.array([1, 2], dtype="uint64"), [1, 2]),
        (np.array([2**53, -(2**53)], dtype="int64"), [2.0**53, -(2.0**53)]),
        (np.array([1.5, np.nan], dtype="float16"), [1.5, np.nan]),
        (np.array([0.1, np.inf], dtype="float32"), [float(np.float32(0.1)), np.inf]),
        (np.array([0.1, -np.inf]), [0.1, -np.inf]),
        (np.array([-0.0, 5e-324]), [-0.0, 5e-324]),
        (np.array([True, False]), [1, 0]),
        (pd.array([1, None], dtype="Int64"), [1, np.nan]),
        (pd.array([2**53, None], dtype="UInt64"), [2.0**53, np.nan]),
        (pd.array([1.5, None], dtype="Float32"), [1.5, np.nan]),
        (pd.array([1.5, None], dtype="Float64"), [1.5, np.nan]),
        (pd.array([True, None], dtype="boolean"), [1, np.nan]),
        (pd.array([1, None], dtype="int64[pyarrow]"), [1, np.nan]),
        (pd.array([2**53, None], dtype="uint64[pyarrow]"), [2.0**53, np.nan]),
        (pd.array([0.1, None], dtype="double[pyarrow]"), [0.1, np.nan]),
        (pd.array([0.5, None], dtype="float[pyarrow]"), [0.5, np.nan]),
        (pd.array([True, None], dtype="bool[pyarrow]"), [1, np.nan]),
        (pd.array([Decimal("0.1"), None], dtype=pd.ArrowDtype(pa.decimal128(5, 1))), [0.1, np.nan]),
        (pd.arrays.SparseArray([0.0, 1.5]), [0, 1.5]),
        (pd.arrays.SparseArray([0, 3]), [0, 3]),
        (np.array([1, 2.5], dtype=object), [1, 2.5]),
        (np.array([Decimal("1.1"), Decimal("NaN")], dtype=object), [1.1, np.nan]),
        (np.array([Decimal("Infinity"), Decimal("1e-400")], dtype=object), [np.inf, 0]),
        (np.array([None, pd.NA], dtype=object), [np.nan, np.nan]),
        (np.array([pd.NaT, float("nan")], dtype=object), [np.nan, np.nan]),
        (np.array([True, np.bool_(False)], dtype=object), [1, 0]),
        (np.array([np.float32(0.1), np.int16(3)], dtype=object), [float(np.float32(0.1)), 3]),
        (np.array([np.timedelta64("NaT"), np.float64(1e308)], dtype=object), [np.nan, 1e308]),
    ],
    ids=lambda value: f"{type(value).__name__}-{getattr(value, 'dtype', '')}",
)
def test_numbers_of_all_types_become_doubles(values, expected):
    found = column_values(pd.Series(values, dtype=getattr(values, "dtype", None)), "c")
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found.view("i8")[~np.isnan(found)], np.array(expected, float).view("i8")[~np.isnan(expected)])
    np.testing.assert_array_equal(np.isnan(found), np.isnan(np.array(expected, float)))


@pytest.mark.parametrize(
    "values",
    [
        np.array([0, 2**53 + 1], dtype="int64"),
        np.array([0, -(2**53) - 1], dtype="int64"),
        np.array([0, 2**64 - 1], dtype="uint64"),
        pd.array([None, 2**53 + 1], dtype="Int64"),
        pd.array([None, 2**53 + 1], dtype="int64[pyarrow]"),
        np.array([0, 2**53 + 1], dtype=object),
        np.array([0, np.int64(2**53 + 1)], dtype=object),
        np.array([0, -(10**30)], dtype=object),
    ],
    ids=lambda value: f"{type(value).__name__}-{value.dtype}",
)
def test_an_integer_that_no_double_has_is_refused_or_rounded_on_request(values):
    with pytest.raises(ValueError, match=r"row 1, column 'c': -?\d+ is beyond 2\*\*53"):
        column_values(pd.Series(values), "c")
    assert column_values(pd.Series(values), "c", allow_inexact=True)[1] == float(int(values[1]))


@pytest.mark.parametrize("value", [10**400, Decimal("1e400"), Decimal("-1e400")])
def test_a_number_beyond_the_doubles_is_refused(value):
    values = pd.Series([0, value], dtype=object)
    with pytest.raises(ValueError, match="row 1, column 'c': .* beyond"):
        column_values(values, "c", allow_inexact=True)


@pytest.mark.parametrize(
    ("values", "row"),
    [
        (pd.Series([None, "x"], dtype=object), 1),
        (pd.Series([None, "1.5"], dtype="string"), 1),
        (pd.Series([None, "x"], dtype=pd.ArrowDtype(pa.string())), 1),
        (pd.Series([1, "1"], dtype=object), 1),
        (pd.Series(pd.Categorical([None, "a"])), 1),
        (pd.Series(pd.Categorical([1, 2])), 0),
        (pd.Series(pd.to_datetime([None, "2024-01-01"])), 1),
        (pd.Series(pd.to_datetime([None, "2024-01-01"], utc=True)), 1),
        (pd.Series(pd.to_timedelta([1, 2], unit="s")), 0),
        (pd.Series(pd.period_range("2024", periods=2, freq="D")), 0),
        (pd.Series(pd.interval_range(0, 2)), 0),
        (pd.Series([1 + 1j, 2]), 0),
        (pd.Series([0.0, 1j], dtype=object), 1),
        (pd.Series([0.0, [1]], dtype=object), 1),
        (pd.Series([0.0, datetime.datetime(2024, 1, 1)], dtype=object), 1),
        (pd.Series([0.0, np.timedelta64(1, "s")], dtype=object), 1),
        (pd.Series([0.0, b"1"], dtype=object), 1),
        (pd.Series(np.array([1, 2], dtype=np.longdouble)), 0),
        (pd.Series(pd.array([[1], [2]], dtype=pd.ArrowDtype(pa.list_(pa.int64())))), 0),
    ],
    ids=lambda value: str(getattr(value, "dtype", value)),
)
def test_what_is_not_a_number_is_refused_with_its_row_and_column(values, row):
    with pytest.raises(TypeError, match=rf"row {row}, column 'the \"c\"': .*not a number; .*columns="):
        column_values(values, 'the "c"')


def test_columns_can_be_chosen():
    df = frame(a=[1, 2], text=["x", "y"], b=[3, 4])
    with pytest.raises(TypeError, match="row 0, column 'text': 'x' is of type"):
        normalise(df)
    found = normalise(df, columns=["b", "a"])
    assert found.columns == ["b", "a"] and found.values.tolist() == [[3, 4], [1, 2]]
    with pytest.raises(ValueError, match="no column 'c'"):
        normalise(df, columns=["c"])
    with pytest.raises(ValueError, match="'a' is there more than once"):
        normalise(df, columns=["a", "a"])
    with pytest.raises(TypeError, match="is a string, not a list"):
        normalise(df, columns="a")
    with pytest.raises(ValueError, match="column 'b' has the times"):
        normalise(df.assign(b=df.index), columns=["b"], time_column="b")


# ------------------------------------------------------------------------------------------------------------------ names


@pytest.mark.parametrize(
    ("name", "error", "said"),
    [
        (1, TypeError, "column 1 has a name of type int"),
        (("a", "b"), TypeError, "has a name of type tuple"),
        (None, TypeError, "has a name of type NoneType"),
        ("", ValueError, "has 0 bytes"),
        ("x" * 1025, ValueError, "has 1025 bytes, not 1 to 1024"),
        ("é" * 513, ValueError, "has 1026 bytes"),
        ("a\0b", ValueError, r"'a\\x00b' contains U\+0000"),
        ("\ud800", ValueError, "is not valid Unicode"),
    ],
)
def test_names_that_cannot_be_stored_are_refused(name, error, said):
    df = frame(a=[1, 2])
    df.columns = pd.Index([name], dtype=object, tupleize_cols=False)
    with pytest.raises(error, match=said):
        normalise(df)


def test_columns_of_several_levels_and_of_the_same_name_are_refused():
    df = frame(a=[1, 2], b=[3, 4])
    with pytest.raises(TypeError, match="the columns have 2 levels"):
        normalise(df.set_axis(pd.MultiIndex.from_tuples([("a", "x"), ("a", "y")]), axis=1))
    with pytest.raises(ValueError, match="'a' is there more than once"):
        normalise(df.set_axis(["a", "a"], axis=1))
    with pytest.raises(TypeError, match="expected a DataFrame, not Series"):
        normalise(df["a"])


# -------------------------------------------------------------------------------------------------------- order, duplicates


def test_rows_are_sorted_by_time():
    df = frame(a=[1.0, 2.0, 3.0]).iloc[[2, 0, 1]]
    found = normalise(df)
    assert found.times.tolist() == [MIDNIGHT, MIDNIGHT + DAY, MIDNIGHT + 2 * DAY] and found.values.tolist() == [[1, 2, 3]]


def test_rows_of_the_same_time_are_refused_or_chosen():
    index = pd.DatetimeIndex(["2024-01-02", "2024-01-01", "2024-01-02", "2024-01-02"])
    df = pd.DataFrame({"a": [1.0, 2.0, 3.0, 4.0]}, index=index)
    with pytest.raises(DuplicatePoints, match="rows 0 and 2 have the same time, 2024-01-02"):
        normalise(df)
    for choice, expected in (("first", [2, 1]), ("last", [2, 4]), ("all", [2, 1, 3, 4])):
        assert normalise(df, duplicates=choice).values.tolist() == [expected]
    with pytest.raises(ValueError, match="duplicates='any': expected one of last, first, all, fail"):
        normalise(df, duplicates="any")


def test_empty_frames_keep_their_columns():
    found = normalise(frame(a=[1.0], b=[True]).iloc[:0]).frame()
    assert list(found.columns) == ["a", "b"] and len(found) == 0
    assert [str(dtype) for dtype in found.dtypes] == ["float64", "float64"]
    assert str(found.index.dtype) == "datetime64[us, UTC]"
    assert normalise(pd.DataFrame(index=pd.DatetimeIndex([]))).frame().shape == (0, 0)
    with pytest.raises(ValueError, match="no value columns"):
        normalise(pd.DataFrame(index=pd.DatetimeIndex(["2024-01-01"])))


def test_the_callers_frame_is_not_changed():
    df = frame(a=[1.0, 2.0]).iloc[::-1]
    before = df.copy()
    found = normalise(df).frame()
    found.iloc[:] = 7.0
    pd.testing.assert_frame_equal(df, before)
