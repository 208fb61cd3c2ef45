"""A pickle of series, read without calling anything that it names.

Each name becomes a class that only keeps the arguments of its calls. What frames of pandas consist of, arrays of numbers
above all, is then taken out of these.
"""

from __future__ import annotations

import datetime
import io
import pickle
import re
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, ClassVar
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt
import pandas as pd

from .errors import PickleRefused
from .pickle_scan import SERIES_CLASS, allowed_name, scan
from .series import TimeSeries

Array = npt.NDArray[Any]


class Kept:
    """An object of a pickle: the name that made it, its arguments and its state."""

    name: ClassVar[str]
    args: tuple[Any, ...]
    state: Any

    def __new__(cls, *args: Any, **kwargs: Any) -> Kept:
        kept = object.__new__(cls)
        kept.args = (*args, *kwargs.values())
        kept.state = None
        return kept

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Zone:
    """What getattr(ZoneInfo, "_unpickle") is in a pickle: it is called with the zone's key."""

    name = "zoneinfo.ZoneInfo"

    def __new__(cls, *args: Any) -> Any:
        return lambda *key: _kept_class("zoneinfo.ZoneInfo")(*key)


class _Mapping(dict[Any, Any]):
    """An OrderedDict or a defaultdict."""

    def __init__(self, *args: Any) -> None:
        if args and isinstance(args[0], list | dict):
            super().__init__(args[0])


def _kept_class(name: str) -> type[Kept]:
    return type("Kept", (Kept,), {"name": name})


class _Unpickler(pickle.Unpickler):
    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data))
        self.classes: dict[str, Any] = {
            "builtins.getattr": _Zone,
            "collections.OrderedDict": _Mapping,
            "collections.defaultdict": _Mapping,
        }

    def find_class(self, module: str, name: str) -> Any:
        full = allowed_name(module, name)
        return self.classes.setdefault(full, _kept_class(full))

    def persistent_load(self, pid: Any) -> Any:
        raise PickleRefused("the pickle has a persistent id, which no series needs")


@dataclass
class StoredSeries:
    """A series of a pickle; its frame is made when it is asked for."""

    key: Any
    attributes: dict[str, Any]

    @property
    def id(self) -> str:
        """The series' id.

        Raises:
            ValueError: it has none, or one that differs from its key in the store.
        """
        found = self.attributes.get("id", self.key)
        if not isinstance(found, str):
            raise ValueError(f"its id {found!r} is not a string")
        if found != self.key:
            raise ValueError(f"its id is {found!r}, and its key in the store {self.key!r}")
        return found

    def series(self) -> TimeSeries:
        """The series, with its frame.

        Raises:
            ValueError: it is not a series, or has a column that cannot be read.
        """
        data, time_column = self.attributes.get("data"), self.attributes.get("time_column")
        columns = self.attributes.get("value_columns")
        if not isinstance(time_column, str):
            raise ValueError(f"its time_column is {_described(time_column)}, not a string")
        if not isinstance(columns, list | tuple) or not all(isinstance(column, str) for column in columns):
            raise ValueError("its value_columns are not a list of strings")
        labels = self.attributes.get("labels")
        texts = {}
        for field in ("name", "description"):
            text = self.attributes.get(field)
            texts[field] = text if isinstance(text, str) else None
        try:
            frame = frame_of(data, list(columns), time_column)
        except ValueError:
            raise
        except Exception as error:
            # A pickle that was damaged, or made up, may have anything anywhere.
            raise ValueError(f"its frame is damaged: {type(error).__name__}: {error}") from None
        return TimeSeries(
            self.id,
            frame,
            time_column,
            list(columns),
            **texts,
            labels=labels if isinstance(labels, dict) and labels else None,
        )


def load_store(data: bytes) -> list[StoredSeries]:
    """The series of a pickled dictionary of them.

    Raises:
        PickleRefused: it is something else, or refers to anything that a series does not need.
    """
    scan(data)
    try:
        store = _Unpickler(data).load()
    except PickleRefused:
        raise
    except Exception as error:
        raise PickleRefused(f"the pickle cannot be read: {error}") from None
    if not isinstance(store, dict):
        raise PickleRefused(f"the pickle has {_described(store)}, and not a dictionary of series")
    return [StoredSeries(key, _attributes(key, value)) for key, value in store.items()]


def _described(value: Any) -> str:
    if isinstance(value, Kept):
        return _name_of(value)
    return "None" if value is None else f"an object of the type {type(value).__name__}"


def _name_of(kept: Kept) -> str:
    # Protocols 0 and 1 make plain objects by a function.
    if kept.name == "copyreg._reconstructor" and isinstance(kept.args[0], type) and issubclass(kept.args[0], Kept):
        return kept.args[0].name
    return kept.name


def _attributes(key: Any, value: Any) -> dict[str, Any]:
    if not isinstance(value, Kept) or _name_of(value).rpartition(".")[2] != SERIES_CLASS:
        raise PickleRefused(f"the store has {_described(value)} under the key {key!r}, and not a {SERIES_CLASS}")
    state = value.state
    if isinstance(state, tuple) and len(state) == 2:
        # Attributes in a dictionary, and those in slots.
        state = {**(state[0] or {}), **(state[1] or {})}
    elif isinstance(state, list | tuple):
        # A dataclass with slots has its fields in their order.
        state = dict(zip(("id", "data", "time_column", "value_columns", "name", "description", "labels"), state))
    if isinstance(state, dict) and isinstance(state.get("__dict__"), dict):
        state = state["__dict__"]
    if not isinstance(state, dict):
        raise PickleRefused(f"the {SERIES_CLASS} under the key {key!r} has no attributes")
    return {str(name).lstrip("_"): attribute for name, attribute in state.items()}


# ------------------------------------------------------------------------------------------------------------------ frames


def frame_of(kept: Any, columns: list[str], time_column: str) -> pd.DataFrame:
    """A frame with these columns; its index has the times, if no column has.

    Raises:
        ValueError: it is not a frame, or has no such column, or the column cannot be read.
    """
    if not isinstance(kept, Kept) or _name_of(kept).rpartition(".")[2] != "DataFrame" or not isinstance(kept.state, dict):
        raise ValueError(f"its data are {_described(kept)}, not a DataFrame")
    manager = kept.state.get("_mgr")
    if not isinstance(manager, Kept) or not manager.name.endswith(".BlockManager") or len(manager.args) < 2:
        raise ValueError("its frame is not one of pandas 1.5 or later")
    blocks, axes = manager.args[:2]
    names = list(_index(axes[0])[1])
    rows = len(_index(axes[1])[1])
    placed = dict(_places(blocks))
    found: dict[str, Any] = {}
    for column in dict.fromkeys([*([time_column] if time_column in names else []), *columns]):
        if names.count(column) != 1:
            raise ValueError(f"its frame has {names.count(column)} columns named {column!r}")
        at = names.index(column)
        if at not in placed:
            raise ValueError(f"its column {column!r} has no values")
        block, row = placed[at]
        try:
            values = _column(block, row)
        except _Unreadable as error:
            raise ValueError(f"its column {column!r} is of the type {error}, which has no numbers or times") from None
        if len(values) != rows:
            raise ValueError(f"its column {column!r} has {len(values)} values, and its index {rows}")
        found[column] = values
    if time_column in names:
        return pd.DataFrame(found)
    index_name, labels = _index(axes[1])
    index = pd.Index(labels, name=index_name if isinstance(index_name, str) else None)
    return pd.DataFrame(found, index=index, columns=list(found))


class _Unreadable(Exception):
    pass


def _places(blocks: Any) -> Iterator[tuple[int, tuple[Any, int]]]:
    """The block and the row in it of each column."""
    for block in blocks:
        if not isinstance(block, Kept) or block.name != "pandas._libs.internals._unpickle_block":
            raise ValueError(f"its frame has {_described(block)} instead of a block")
        values, placement = block.args[:2]
        for row, column in enumerate(_placement(placement)):
            yield column, (values, row)


def _placement(placement: Any) -> list[int]:
    if isinstance(placement, Kept) and placement.name.endswith(".BlockPlacement"):
        placement = placement.args[0]
    if isinstance(placement, Kept) and placement.name == "builtins.slice":
        bounds = [*placement.args, None][:3] if len(placement.args) > 1 else [0, *placement.args, None]
        start, stop, step = (None if bound is None else int(bound) for bound in bounds)
        step = step or 1
        start = start or 0
        if stop is None:
            # A slice that goes down to the first column.
            stop = -1 if step < 0 else start
        if abs(stop - start) > 1_000_000:
            raise ValueError("its frame has more than 1,000,000 columns")
        return list(range(start, stop, step))
    return [int(place) for place in _array(placement)]


def _index(kept: Any) -> tuple[Any, Any]:
    """The name and the labels of an index."""
    if not isinstance(kept, Kept) or not kept.name.endswith(("._new_Index", "._new_DatetimeIndex")) or len(kept.args) != 2:
        raise ValueError(f"its frame has {_described(kept)} instead of an index")
    kind, state = kept.args
    kind_name = kind.name.rpartition(".")[2] if isinstance(kind, type) and issubclass(kind, Kept) else ""
    if not isinstance(state, dict):
        raise ValueError("its frame has an index without a state")
    name = state.get("name")
    if kind_name == "RangeIndex":
        return name, range(int(state["start"]), int(state["stop"]), int(state["step"]))
    if kind_name not in ("Index", "DatetimeIndex", "Int64Index", "UInt64Index", "Float64Index", "NumericIndex"):
        raise ValueError(f"its frame has a {kind_name or 'index of an unknown type'}")
    try:
        labels = _values(state["data"])
    except _Unreadable as error:
        raise ValueError(f"its frame has an index of the type {error}") from None
    if getattr(labels, "ndim", 1) != 1:
        raise ValueError("its frame has an index of several dimensions")
    return name, labels


def _column(values: Any, row: int) -> Any:
    found = _values(values)
    if getattr(found, "ndim", 1) == 1:
        return found
    if found.ndim != 2:
        raise ValueError("its frame has a block of more than two dimensions")
    return found[row]


# ------------------------------------------------------------------------------------------------------------------ arrays

_TIME_UNITS = ("s", "ms", "us", "ns")


def _values(kept: Any) -> Any:
    """An array: numbers and booleans, times in UTC, masked arrays, or objects."""
    if isinstance(kept, Kept):
        name = _name_of(kept)
        kind = name.rpartition(".")[2]
        if name == "pandas._libs.arrays.__pyx_unpickle_NDArrayBacked":
            return _backed(kept)
        if isinstance(kept.state, dict) and kind in ("IntegerArray", "FloatingArray", "BooleanArray"):
            data, mask = _array(kept.state["_data"]), _array(kept.state["_mask"]).astype(bool)
            return getattr(pd.arrays, kind)(data.copy(), mask)
        if isinstance(kept.state, dict) and kind.startswith("Arrow"):
            return _arrow(kept.state.get("_pa_array", kept.state.get("_data")))
    return _array(kept)


def _backed(kept: Kept) -> Array:
    cls = kept.args[0]
    kind = cls.name.rpartition(".")[2] if isinstance(cls, type) and issubclass(cls, Kept) else ""
    if kind not in ("DatetimeArray", "StringArray", "NumpyExtensionArray", "PandasArray"):
        raise _Unreadable(kind or "unknown")
    state = kept.state if kept.state is not None else kept.args[2]
    for part in state if isinstance(state, tuple) else ():
        # With a zone or without: the array itself has times of UTC.
        if isinstance(part, Kept) and part.name.endswith(("._reconstruct", "._frombuffer")):
            return _array(part)
    raise ValueError(f"a {kind} has no array")


def _array(kept: Any) -> Array:
    """An array of numpy."""
    if not isinstance(kept, Kept):
        raise ValueError(f"its frame has {_described(kept)} instead of an array")
    if kept.name.endswith("._frombuffer"):
        data, dtype, shape, order, *axes = kept.args
        found = _from_bytes(data, _dtype(dtype), shape, "C" if order == "K" else order)
        return found.transpose([int(axis) for axis in axes[0]]) if order == "K" and axes and axes[0] is not None else found
    if not kept.name.endswith("._reconstruct") or not isinstance(kept.state, tuple) or len(kept.state) != 5:
        raise _Unreadable(_name_of(kept))
    _, shape, dtype, is_fortran, data = kept.state
    found_dtype = _dtype(dtype)
    if found_dtype != object:
        return _from_bytes(data, found_dtype, shape, "F" if is_fortran else "C")
    if not isinstance(data, list) or len(data) != int(np.prod(shape, dtype=np.int64)):
        raise ValueError("an array of objects has not as many as its shape says")
    objects = np.empty(len(data), dtype=object)
    for at, value in enumerate(data):
        objects[at] = _object(value)
    return objects.reshape(shape)


def _from_bytes(data: Any, dtype: np.dtype[Any], shape: Any, order: Any) -> Array:
    raw = _bytes(data)
    if not isinstance(shape, tuple) or not all(isinstance(length, int) and length >= 0 for length in shape):
        raise ValueError("an array has no shape")
    count = 1
    for length in shape:
        count *= length
    if count * dtype.itemsize != len(raw):
        raise ValueError(f"an array of the shape {shape} has {len(raw)} bytes")
    found = np.frombuffer(raw, dtype=dtype).reshape(shape, order="F" if order == "F" else "C")
    return found.astype(dtype.newbyteorder("="), copy=False)


def _bytes(data: Any) -> bytes:
    """Bytes, also as protocols below 3 and pyarrow have them."""
    if isinstance(data, bytes | bytearray):
        return bytes(data)
    if isinstance(data, Kept) and data.name == "_codecs.encode" and isinstance(data.args[0], str):
        return data.args[0].encode("latin-1")
    if isinstance(data, Kept) and data.name in ("builtins.bytes", "builtins.bytearray"):
        if not data.args:
            return b""
        # Protocols below 3 make a bytearray of a text and its encoding.
        return data.args[0].encode("latin-1") if isinstance(data.args[0], str) else _bytes(data.args[0])
    raise ValueError(f"its frame has {_described(data)} instead of bytes")


def _dtype(kept: Any) -> np.dtype[Any]:
    if not isinstance(kept, Kept) or kept.name != "numpy.dtype":
        raise ValueError(f"an array has {_described(kept)} instead of a type")
    code, state = kept.args[0], kept.state
    if code in ("O8", "O"):
        return np.dtype(object)
    if not isinstance(code, str) or not re.fullmatch(r"b1|[iu][1248]|f[248]|M8", code):
        raise _Unreadable(f"numpy {code}")
    order = state[1] if isinstance(state, tuple) and len(state) > 1 and state[1] in ("<", ">") else ""
    if code != "M8":
        return np.dtype(f"{order}{code}")
    try:
        unit = state[8][1]
        name, multiple = _bytes(unit[0]).decode(), (unit[1], unit[2])
    except (TypeError, IndexError, KeyError):
        raise ValueError("an array of times has no unit") from None
    if name not in _TIME_UNITS or multiple[0] != 1:
        raise _Unreadable(f"datetime64[{name}]")
    return np.dtype(f"{order}M8[{name}]")


def _object(value: Any) -> Any:
    """A value of an array of objects."""
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, type) and issubclass(value, Kept):
        kind = value.name.rpartition(".")[2]
        return {"NA": pd.NA, "NaT": pd.NaT}.get(kind, value)
    if isinstance(value, Kept):
        kind = value.name.rpartition(".")[2]
        if kind == "_nat_unpickle" or kind == "NaTType":
            return pd.NaT
        if kind == "NAType":
            return pd.NA
        if kind == "Decimal" and value.args and isinstance(value.args[0], str):
            return Decimal(value.args[0])
        if kind == "scalar":
            dtype = _dtype(value.args[0])
            return _from_bytes(value.args[1], dtype, (1,), "C")[0] if dtype != object else value
        if kind == "_unpickle_timestamp":
            # The time itself is in UTC, whatever its zone is.
            unit: Any = {7: "s", 8: "ms", 9: "us", 10: "ns"}[value.args[3] if len(value.args) > 3 else 10]
            return pd.Timestamp(np.datetime64(int(value.args[0]), unit), tz="UTC")
        if value.name == "datetime.datetime":
            return _datetime(value)
        if value.name == "datetime.date":
            year_high, year_low, month, day = _bytes(value.args[0])
            return datetime.date(year_high * 256 + year_low, month, day)
    # Whatever it is, no number: its column is refused with its row, and any other use of it fails as well.
    return value


def _datetime(kept: Kept) -> datetime.datetime:
    high, low, month, day, hour, minute, second, *micro = _bytes(kept.args[0])
    fold, month = divmod(month, 128)
    microsecond = int.from_bytes(bytes(micro), "big")
    zone = None if len(kept.args) < 2 or kept.args[1] is None else _zone(kept.args[1])
    return datetime.datetime(high * 256 + low, month, day, hour, minute, second, microsecond, zone, fold=fold)


def _zone(kept: Any) -> datetime.tzinfo:
    if isinstance(kept, Kept):
        kind = kept.name.rpartition(".")[2]
        if kind in ("_UTC", "tzutc"):
            return datetime.timezone.utc
        if kind == "_p":
            # A zone of pytz with the offset that the time has in it: its name, then seconds.
            return datetime.timezone(datetime.timedelta(seconds=int(kept.args[1]) if len(kept.args) > 1 else 0))
        if kept.name == "datetime.timezone" and isinstance(kept.args[0], Kept):
            days, seconds, microseconds = (int(part) for part in kept.args[0].args)
            return datetime.timezone(datetime.timedelta(days, seconds, microseconds))
        if kept.name == "zoneinfo.ZoneInfo" and isinstance(kept.args[0], str):
            return ZoneInfo(kept.args[0])
    raise ValueError(f"a time has a zone of the type {_described(kept)}")


# ------------------------------------------------------------------------------------------------------------------- arrow


def _arrow(kept: Any) -> Any:
    """An array of pyarrow, by its buffers: https://arrow.apache.org/docs/format/Columnar.html"""
    if isinstance(kept, Kept) and kept.name == "pyarrow.lib.chunked_array":
        chunks = [_arrow(chunk) for chunk in kept.args[0]]
        if chunks:
            return np.concatenate([np.asarray(chunk, dtype=object) for chunk in chunks])
        return np.empty(0, dtype=object)
    if not isinstance(kept, Kept) or kept.name != "pyarrow.lib._restore_array":
        raise ValueError(f"its frame has {_described(kept)} instead of an array")
    kind, length, _, offset, buffers, *_ = kept.args[0]
    length, offset = int(length), int(offset)
    if not isinstance(kind, Kept) or length < 0 or offset < 0:
        raise ValueError("an array of pyarrow has no type")
    raw = [None if buffer is None else _bytes(buffer.args[0]) for buffer in buffers]
    end = offset + length
    if raw[0] is None:
        missing = np.zeros(length, dtype=bool)
    else:
        missing = ~_bits(raw[0], end)[offset:]
    name = str(kind.args[0]) if kind.name == "pyarrow.lib.type_for_alias" else kind.name
    name = {"float": "float32", "double": "float64", "halffloat": "float16"}.get(name, name)
    data = raw[1] or b""
    if name in ("string", "large_string"):
        return _arrow_strings(data, raw[2] or b"", name == "large_string", offset, end, missing)
    if name == "bool":
        return pd.arrays.BooleanArray(_bits(data, end)[offset:], missing)
    if kind.name == "pyarrow.lib.timestamp" or name.startswith("timestamp["):
        unit = str(kind.args[0]) if kind.name == "pyarrow.lib.timestamp" else name[len("timestamp[") :].split("]")[0].split(",")[0]
        if unit not in _TIME_UNITS:
            raise _Unreadable(name)
        times = _items(data, np.dtype(f"<M8[{unit}]"), end)[offset:].copy()
        times[missing] = np.datetime64("NaT")
        return times
    if not re.fullmatch(r"u?int(8|16|32|64)|float(16|32|64)", name):
        raise _Unreadable(f"pyarrow {name}")
    numbers = _items(data, np.dtype(name).newbyteorder("<"), end)[offset:]
    numbers = numbers.astype(numbers.dtype.newbyteorder("="))
    if numbers.dtype == np.float16:
        numbers = numbers.astype(np.float32)
    return (pd.arrays.FloatingArray if numbers.dtype.kind == "f" else pd.arrays.IntegerArray)(numbers, missing)


def _items(data: bytes, dtype: np.dtype[Any], count: int) -> Array:
    if count * dtype.itemsize > len(data):
        raise ValueError(f"an array of pyarrow with {count} values has {len(data)} bytes")
    return np.frombuffer(data, dtype=dtype, count=count)


def _bits(data: bytes, count: int) -> Array:
    if count > 8 * len(data):
        raise ValueError(f"an array of pyarrow with {count} bits has {len(data)} bytes")
    return np.unpackbits(np.frombuffer(data, dtype=np.uint8), count=count, bitorder="little").astype(bool)


def _arrow_strings(data: bytes, text: bytes, is_large: bool, offset: int, end: int, missing: Array) -> Array:
    places = _items(data, np.dtype("<i8" if is_large else "<i4"), end + 1 if end or data else 0)[offset:]
    strings = np.empty(end - offset, dtype=object)
    for at in range(len(strings)):
        strings[at] = None if missing[at] else text[places[at] : places[at + 1]].decode()
    return strings
