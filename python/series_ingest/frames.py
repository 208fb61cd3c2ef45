"""What a frame is stored as: times in microseconds of UTC, and values that are doubles.

Everything that cannot be stored as it is raises an error here, with its row and column, before anything is published.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from .errors import DuplicatePoints
from .names import checked_name

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

TimeUnit = Literal["s", "ms", "us", "ns"]
Duplicates = Literal["last", "first", "all", "fail"]
DUPLICATES: tuple[str, ...] = ("last", "first", "all", "fail")

# The largest integer up to which every integer is a double.
EXACT_INTEGERS = 2**53
# The defaults of the worker's `message.min_timestamp` and `message.max_timestamp`.
TIME_WINDOW = ("1900-01-01", "2200-01-01")

_BEYOND = "beyond what the database can store; most often a number is in another unit (time_unit)"

_PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}


@dataclass(frozen=True)
class Wide:
    """A frame as it is stored.

    Attributes:
        time_column: the name of its times.
        columns: the names of its value columns, in their order.
        times: microseconds since the epoch, sorted; those of equal times keep their order.
        values: one row for each column, each with a value for each time; NaN stands for NULL.
    """

    time_column: str
    columns: list[str]
    times: Ints
    values: Floats

    def frame(self) -> pd.DataFrame:
        """The frame of pandas: float64 columns, with a DatetimeIndex of UTC in microseconds, named as the time column."""
        index = pd.DatetimeIndex(self.times.view("datetime64[us]")).tz_localize("UTC")
        index.name = self.time_column
        return pd.DataFrame(self.values.T, index=index, columns=pd.Index(self.columns, dtype=_COLUMNS_DTYPE), copy=False)


# Without values, pandas has no way to find it by itself.
_COLUMNS_DTYPE: Any = pd.Index(["a"]).dtype


def normalise(
    df: pd.DataFrame,
    *,
    columns: Sequence[str] | None = None,
    time_column: str | None = None,
    time_unit: TimeUnit = "s",
    truncate_times: bool = False,
    allow_inexact: bool = False,
    duplicates: Duplicates = "fail",
    time_window: tuple[Any, Any] = TIME_WINDOW,
) -> Wide:
    """Converts a frame into what is stored; `publish` documents the arguments and the errors."""
    if not isinstance(df, pd.DataFrame):
        raise TypeError(f"expected a DataFrame, not {type(df).__name__}")
    if duplicates not in DUPLICATES:
        raise ValueError(f"duplicates={duplicates!r}: expected one of {', '.join(DUPLICATES)}")
    if time_unit not in _PER_SECOND:
        raise ValueError(f"time_unit={time_unit!r}: expected one of {', '.join(_PER_SECOND)}")
    if df.columns.nlevels > 1:
        raise TypeError(
            f"the columns have {df.columns.nlevels} levels; join them first, for example by "
            'df.columns = ["_".join(map(str, levels)) for levels in df.columns]'
        )
    name, labels = _time_labels(df, time_column)
    wanted = _value_columns(df, columns, name)
    if len(df) and not wanted:
        raise ValueError("the frame has rows and no value columns, so there is nothing to store")
    times = times_in_microseconds(labels, f"time column {name!r}", time_unit=time_unit, truncate=truncate_times)
    _check_window(times, labels, name, time_window)
    values = np.empty((len(wanted), len(times)), dtype=np.float64)
    for at, column in enumerate(wanted):
        values[at] = column_values(df[column], column, allow_inexact=allow_inexact)
    return _sorted(Wide(name, wanted, times, values), duplicates)


def _time_labels(df: pd.DataFrame, time_column: str | None) -> tuple[str, pd.Index[Any] | pd.Series[Any]]:
    """The name of the times, and the times: a column's, or the index's."""
    if time_column is not None:
        checked_name("the time column", time_column)
        if time_column in df.columns:
            found = df[time_column]
            if isinstance(found, pd.DataFrame):
                raise ValueError(f"the frame has {found.shape[1]} columns named {time_column!r}")
            return time_column, found
        if df.index.nlevels == 1 and (df.index.name == time_column or isinstance(df.index, pd.DatetimeIndex)):
            return time_column, df.index
        raise ValueError(f"the frame has no column {time_column!r}, and its index is neither named so nor a DatetimeIndex")
    if isinstance(df.index, pd.DatetimeIndex) or df.index.nlevels == 1 and _is_arrow_time(df.index.dtype):
        name = "timestamp" if df.index.name is None else df.index.name
        return checked_name("the index", name), df.index
    hints = [column for column in df.columns if getattr(df.dtypes[column], "kind", "") == "M"] if df.columns.is_unique else []
    hint = f", for example time_column={hints[0]!r}" if hints else ""
    raise TypeError(
        f"the index is a {type(df.index).__name__}, not a DatetimeIndex; convert it, or name the column with the times{hint}"
    )


def _is_arrow_time(dtype: Any) -> bool:
    return isinstance(dtype, pd.ArrowDtype) and dtype.kind == "M"


def _value_columns(df: pd.DataFrame, columns: Sequence[str] | None, time_column: str) -> list[str]:
    if isinstance(columns, str):
        raise TypeError(f"columns={columns!r} is a string, not a list of names")
    # The column with the times is not a value column; a value column of the index's name would be ambiguous.
    own = [column for column in df.columns if not (isinstance(column, str) and column == time_column)]
    if len(own) < len(df.columns) and df.index.name == time_column and isinstance(df.index, pd.DatetimeIndex):
        raise ValueError(f"both the index and a column are named {time_column!r}")
    wanted = own if columns is None else list(columns)
    for column in wanted:
        if not isinstance(column, str):
            raise TypeError(
                f"the column {column!r} has a name of type {type(column).__name__}, not a string; "
                "rename it, for example by df.rename(columns=str)"
            )
        checked_name("the column", column)
        if column not in df.columns:
            raise ValueError(f"the frame has no column {column!r}")
        if column == time_column:
            raise ValueError(f"the column {column!r} has the times, and cannot be a value column")
    found: set[str] = set()
    for column in wanted:
        if column in found or isinstance(df[column], pd.DataFrame):
            raise ValueError(f"the column {column!r} is there more than once")
        found.add(column)
    return [str(column) for column in wanted]


# ------------------------------------------------------------------------------------------------------------------ times


def times_in_microseconds(
    labels: pd.Index[Any] | pd.Series[Any], what: str, *, time_unit: TimeUnit = "s", truncate: bool = False
) -> Ints:
    """Microseconds since the epoch; times without a zone are UTC.

    Raises:
        TypeError: these are not times, for example strings or periods.
        ValueError: a time is missing, or has a resolution finer than a microsecond and `truncate` is off.
    """
    dtype: Any = labels.dtype
    kind = getattr(dtype, "kind", "")
    if isinstance(dtype, pd.PeriodDtype):
        raise TypeError(f"{what} has periods; choose their begin or end first: to_timestamp()")
    if isinstance(dtype, pd.CategoricalDtype):
        raise TypeError(f"{what} is categorical; convert it first: pd.to_datetime(...)")
    if kind == "M":
        return _from_datetimes(pd.DatetimeIndex(labels), what, truncate)
    if kind in "iuf" and kind:
        return _from_numbers(pd.Series(labels), what, time_unit, truncate)
    if dtype == object:
        return _from_time_objects(labels.to_numpy(dtype=object), what, truncate)
    raise TypeError(f"{what} is of type {dtype}, not of times; convert it first: pd.to_datetime(...)")


def _refuse_missing(missing: Bools, what: str) -> None:
    if missing.any():
        raise ValueError(f"row {int(missing.argmax())}, {what}: the time is missing")


def _refuse_fine(row: int, what: str, time: object) -> None:
    raise ValueError(
        f"row {row}, {what}: {time} is finer than a microsecond, which is what the database stores; "
        "truncate_times=True truncates such times"
    )


def _from_datetimes(index: pd.DatetimeIndex, what: str, truncate: bool) -> Ints:
    _refuse_missing(np.asarray(index.isna()), what)
    # The absolute time, whatever the zone: that of the two hours of a clock that is set back is unambiguous.
    utc = index if index.tz is None else index.tz_convert(None)
    raw = utc.to_numpy()
    unit = np.datetime_data(raw.dtype)[0]
    ticks = raw.view(np.int64)
    if unit == "us":
        return ticks.copy()
    if unit == "ns":
        microseconds, rest = np.divmod(ticks, 1000)
        if not truncate and rest.any():
            row = int(rest.astype(bool).argmax())
            _refuse_fine(row, what, index[row])
        return microseconds
    factor = 1_000_000 // _PER_SECOND[unit]
    limit = np.iinfo(np.int64).max // factor
    beyond = (ticks > limit) | (ticks < -limit)
    if beyond.any():
        row = int(beyond.argmax())
        raise ValueError(f"row {row}, {what}: {index[row]} is beyond what the database can store")
    return ticks * factor


def _from_numbers(numbers: pd.Series[Any], what: str, unit: TimeUnit, truncate: bool) -> Ints:
    _refuse_missing(numbers.isna().to_numpy(dtype=bool), what)
    per_second = _PER_SECOND[unit]
    if numbers.dtype.kind == "f":
        floats = numbers.to_numpy(dtype=np.float64)
        whole = np.floor(floats)
        factor = 1_000_000 / per_second
        # Such numbers are seldom exact, so they are rounded. The fraction is exact, and its product off by far less than a
        # microsecond, which the product of the whole number would not be.
        beyond = ~np.isfinite(floats) | (np.abs(whole) * factor >= 2.0**63)
        if beyond.any():
            row = int(beyond.argmax())
            raise ValueError(f"row {row}, {what}: {floats[row]} {unit} is {_BEYOND}")
        if factor < 1:
            rounded: Ints = np.floor(floats * factor + 0.5).astype(np.int64)
            return rounded
        rounded = whole.astype(np.int64) * int(factor) + np.floor((floats - whole) * factor + 0.5).astype(np.int64)
        return rounded
    limit = np.iinfo(np.int64).max // max(1_000_000 // per_second, 1)
    if numbers.dtype.kind == "u":
        large = numbers.to_numpy(dtype=np.uint64) > limit
    else:
        signed = numbers.to_numpy(dtype=np.int64)
        large = (signed > limit) | (signed < -limit)
    if large.any():
        row = int(large.argmax())
        raise ValueError(f"row {row}, {what}: {numbers.iloc[row]} {unit} is {_BEYOND}")
    ticks = numbers.to_numpy(dtype=np.int64)
    if unit != "ns":
        return ticks * (1_000_000 // per_second)
    microseconds, rest = np.divmod(ticks, 1000)
    if not truncate and rest.any():
        row = int(rest.astype(bool).argmax())
        _refuse_fine(row, what, f"{ticks[row]} ns")
    return microseconds


def _from_time_objects(values: npt.NDArray[np.object_], what: str, truncate: bool) -> Ints:
    """Objects that are times each, such as those of columns with different zones or of dates."""
    times = np.empty(len(values), dtype=np.int64)
    for row, value in enumerate(values):
        if value is None or value is pd.NA or value is pd.NaT or isinstance(value, float) and value != value:
            raise ValueError(f"row {row}, {what}: the time is missing")
        if not isinstance(value, datetime.date | np.datetime64):
            raise TypeError(
                f"row {row}, {what}: {value!r} is of type {type(value).__name__}, not a time; convert it first: pd.to_datetime(...)"
            )
        time: Any = pd.Timestamp(value)
        if time is pd.NaT:
            raise ValueError(f"row {row}, {what}: the time is missing")
        if time.nanosecond and not truncate:
            _refuse_fine(row, what, time)
        time = time.tz_localize("UTC") if time.tz is None else time.tz_convert("UTC")
        # as_unit rounds towards the past, too.
        times[row] = time.as_unit("us").to_numpy().view(np.int64)
    return times


def microseconds_of(time: Any, what: str) -> int:
    """Microseconds since the epoch of one time: a string, a datetime, a date or a Timestamp; without a zone it is UTC.

    Raises:
        ValueError: it is missing, no time, or finer than a microsecond.
        TypeError: it is a number.
    """
    if isinstance(time, int | float | np.number):
        raise TypeError(f"{what}={time!r} is a number; give a string, a datetime or a Timestamp")
    stamp: Any = pd.Timestamp(time)
    if stamp is pd.NaT:
        raise ValueError(f"{what} is missing")
    if stamp.nanosecond:
        raise ValueError(f"{what}={time!r} is finer than a microsecond")
    return int(_from_time_objects(np.array([stamp], dtype=object), what, truncate=False)[0])


def _check_window(times: Ints, labels: Any, name: str, window: tuple[Any, Any]) -> None:
    first, end = (microseconds_of(limit, "time_window") for limit in window)
    outside = (times < first) | (times >= end)
    if outside.any():
        row = int(outside.argmax())
        label = labels.iloc[row] if isinstance(labels, pd.Series) else labels[row]
        raise ValueError(
            f"row {row}, time column {name!r}: {label} is outside [{window[0]}, {window[1]}), which the worker would reject; "
            "most often a number is in another unit (time_unit); a worker with another message.min_timestamp or "
            "message.max_timestamp needs time_window to be the same"
        )


# ----------------------------------------------------------------------------------------------------------------- values


def column_values(series: pd.Series[Any], column: str, *, allow_inexact: bool = False) -> Floats:
    """The values of a column as doubles; what is missing is NaN.

    Raises:
        TypeError: a value is not a number, for example a string.
        ValueError: an integer is beyond 2**53 and `allow_inexact` is off, or a number is beyond the doubles.
    """
    dtype: Any = series.dtype
    if isinstance(dtype, pd.SparseDtype):
        sparse: Any = series.sparse
        series = sparse.to_dense()
        dtype = series.dtype
    kind = getattr(dtype, "kind", "")
    if isinstance(dtype, np.dtype):
        if kind == "f" and dtype.itemsize <= 8:
            return series.to_numpy(dtype=np.float64)
        if kind in "iu":
            return _from_integers(series.to_numpy(), column, allow_inexact)
        if kind == "b":
            return series.to_numpy().astype(np.float64)
        if kind == "O":
            return _from_objects(series.to_numpy(), column, allow_inexact)
        raise _not_numbers(series, column)
    if isinstance(dtype, pd.CategoricalDtype | pd.StringDtype | pd.PeriodDtype | pd.IntervalDtype):
        raise _not_numbers(series, column)
    if kind == "f":
        return series.to_numpy(dtype=np.float64, na_value=np.nan)
    if kind in ("i", "u", "b"):
        missing = series.isna().to_numpy(dtype=bool)
        target: Any = {"i": np.int64, "u": np.uint64, "b": np.bool_}[kind]
        filled: Any = series.to_numpy(dtype=target, na_value=False if kind == "b" else 0)
        values = filled.astype(np.float64) if kind == "b" else _from_integers(filled, column, allow_inexact)
        values[missing] = np.nan
        return values
    if isinstance(dtype, pd.ArrowDtype) and kind == "O":
        # Decimals.
        return _from_objects(series.to_numpy(dtype=object), column, allow_inexact)
    raise _not_numbers(series, column)


def _not_numbers(series: pd.Series[Any], column: str) -> TypeError:
    present = series.notna().to_numpy(dtype=bool)
    row = int(present.argmax()) if present.any() else 0
    example = f"{series.iloc[row]!r} " if len(series) else "it "
    return TypeError(
        f"row {row}, column {column!r}: {example}is of type {series.dtype}, not a number; "
        "convert the column, or choose the others with columns=[...]"
    )


def _inexact(row: int, column: str, value: object) -> ValueError:
    return ValueError(
        f"row {row}, column {column!r}: {value} is beyond 2**53, where doubles do not have every integer; "
        "allow_inexact=True rounds it to the nearest double"
    )


def _from_integers(integers: npt.NDArray[Any], column: str, allow_inexact: bool) -> Floats:
    if not allow_inexact and len(integers) and integers.dtype.itemsize == 8:
        beyond = integers > EXACT_INTEGERS
        if integers.dtype.kind == "i":
            beyond |= integers < -EXACT_INTEGERS
        if beyond.any():
            row = int(beyond.argmax())
            raise _inexact(row, column, integers[row])
    return integers.astype(np.float64)


def _from_objects(values: npt.NDArray[np.object_], column: str, allow_inexact: bool) -> Floats:
    floats = np.empty(len(values), dtype=np.float64)
    for row, value in enumerate(values):
        floats[row] = value if type(value) is float else _from_object(value, row, column, allow_inexact)
    return floats


def _from_object(value: Any, row: int, column: str, allow_inexact: bool) -> float:
    if value is None or value is pd.NA or value is pd.NaT:
        return float("nan")
    if isinstance(value, bool | np.bool_):
        return float(value)
    # A duration of numpy is an integer of numpy, too.
    if isinstance(value, int | np.integer) and not isinstance(value, np.timedelta64):
        whole = int(value)
        if abs(whole) > EXACT_INTEGERS and not allow_inexact:
            raise _inexact(row, column, value)
        try:
            return float(whole)
        except OverflowError:
            raise ValueError(f"row {row}, column {column!r}: an integer is beyond the range of a double") from None
    if isinstance(value, float | np.float32 | np.float16):
        return float(value)
    if isinstance(value, Decimal):
        if value.is_nan():
            return float("nan")
        rounded = float(value)
        if np.isinf(rounded) and value.is_finite():
            raise ValueError(f"row {row}, column {column!r}: {value} is beyond the range of a double")
        return rounded
    if isinstance(value, np.datetime64 | np.timedelta64) and np.isnat(value):
        return float("nan")
    raise TypeError(
        f"row {row}, column {column!r}: {value!r} is of type {type(value).__name__}, not a number; "
        "convert the column, or choose the others with columns=[...]"
    )


# ------------------------------------------------------------------------------------------------------- order, duplicates


def _sorted(wide: Wide, duplicates: Duplicates) -> Wide:
    times, values = wide.times, wide.values
    rows: Ints | None = None
    if np.any(times[1:] < times[:-1]):
        rows = np.argsort(times, kind="stable")
        times, values = times[rows], values[:, rows]
    is_repeated = times[1:] == times[:-1]
    if duplicates != "all" and is_repeated.any():
        if duplicates == "fail":
            at = int(is_repeated.argmax())
            first, second = (at, at + 1) if rows is None else (int(rows[at]), int(rows[at + 1]))
            raise DuplicatePoints(
                f"rows {first} and {second} have the same time, {pd.Timestamp(int(times[at]), unit='us', tz='UTC')}; "
                'duplicates="first" or "last" publishes one of them, "all" each'
            )
        keep = np.concatenate([[True], ~is_repeated] if duplicates == "first" else [~is_repeated, [True]])
        times, values = times[keep], values[:, keep]
    return Wide(wide.time_column, wide.columns, times, np.ascontiguousarray(values))

