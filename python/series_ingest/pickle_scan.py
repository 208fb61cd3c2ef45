"""What a pickle refers to, found without running any of it.

The opcodes are followed with a stack of their own, on which everything that is not needed to know what is called is
unknown. A pickle is refused if it names anything that a frame or a series does not need, or calls something that is not
known beforehand.
"""

from __future__ import annotations

import pickletools
from dataclasses import dataclass
from typing import Any

from .errors import PickleRefused

# The class of series, of whatever module: what is loaded is only its attributes.
SERIES_CLASS = "TimeSeries"


def _names(module: str, names: str) -> set[str]:
    return {f"{module}.{name}" for name in names.split()}


_INDEXES = "Index RangeIndex DatetimeIndex MultiIndex CategoricalIndex PeriodIndex TimedeltaIndex IntervalIndex"
_DTYPES = (
    "Int8Dtype Int16Dtype Int32Dtype Int64Dtype UInt8Dtype UInt16Dtype UInt32Dtype UInt64Dtype Float32Dtype Float64Dtype "
    "BooleanDtype StringDtype DatetimeTZDtype CategoricalDtype PeriodDtype IntervalDtype ArrowDtype SparseDtype"
)
_ARRAYS = (
    "IntegerArray FloatingArray BooleanArray StringArray ArrowStringArray ArrowStringArrayNumpySemantics "
    "ArrowExtensionArray DatetimeArray TimedeltaArray PeriodArray IntervalArray SparseArray NumpyExtensionArray PandasArray"
)
_OFFSETS = (
    "Day Hour Minute Second Milli Micro Nano BusinessDay BusinessHour Week MonthBegin MonthEnd BusinessMonthBegin "
    "BusinessMonthEnd SemiMonthBegin SemiMonthEnd QuarterBegin QuarterEnd BQuarterBegin BQuarterEnd YearBegin YearEnd "
    "BYearBegin BYearEnd DateOffset"
)

# What frames of pandas 1.5 to 3 with indices, arrays and objects of all kinds refer to. Nothing of it is ever called:
# pickle_store gives each name to a class that only keeps its arguments.
ALLOWED = frozenset(
    _names("builtins", "bytearray bytes complex frozenset getattr object set slice")
    | _names("_codecs", "encode")
    | _names("copyreg", "_reconstructor")
    | _names("collections", "OrderedDict defaultdict")
    | _names("datetime", "date datetime time timedelta timezone")
    | _names("decimal", "Decimal")
    | _names("pytz", "_UTC _p")
    | _names("pytz.tzfile", "DstTzInfo StaticTzInfo")
    | _names("zoneinfo", "ZoneInfo")
    | _names("dateutil.tz.tz", "tzfile tzlocal tzoffset tzutc")
    | _names("dateutil.tz._factories", "_TzOffsetFactory")
    | _names("numpy", "dtype ndarray")
    | _names("numpy.core.multiarray", "_reconstruct scalar")
    | _names("numpy._core.multiarray", "_reconstruct scalar")
    | _names("numpy.core.numeric", "_frombuffer")
    | _names("numpy._core.numeric", "_frombuffer")
    | _names("pandas", f"DataFrame Series Categorical NA NaT Timestamp {_INDEXES} {_DTYPES}")
    | _names("pandas.arrays", _ARRAYS)
    | _names("pandas._libs.arrays", "__pyx_unpickle_NDArrayBacked")
    | _names("pandas._libs.internals", "BlockPlacement _unpickle_block")
    | _names("pandas._libs.missing", "NA NAType")
    | _names("pandas._libs.tslibs.nattype", "NaTType _nat_unpickle")
    | _names("pandas._libs.tslibs.offsets", _OFFSETS)
    | _names("pandas._libs.tslibs.timedeltas", "_timedelta_unpickle")
    | _names("pandas._libs.tslibs.timestamps", "Timestamp _unpickle_timestamp")
    | _names("pandas.core.arrays.arrow", "ArrowExtensionArray")
    | _names("pandas.core.arrays.arrow.array", "ArrowExtensionArray")
    | _names("pandas.core.arrays.arrow.dtype", "ArrowDtype")
    | _names("pandas.core.arrays.boolean", "BooleanArray BooleanDtype")
    | _names("pandas.core.arrays.categorical", "Categorical")
    | _names("pandas.core.arrays.datetimes", "DatetimeArray")
    | _names("pandas.core.arrays.floating", "FloatingArray Float32Dtype Float64Dtype")
    | _names("pandas.core.arrays.integer", f"IntegerArray {_DTYPES}")
    | _names("pandas.core.arrays.interval", "IntervalArray")
    | _names("pandas.core.arrays.numpy_", "NumpyExtensionArray PandasArray")
    | _names("pandas.core.arrays.period", "PeriodArray")
    | _names("pandas.core.arrays.sparse.array", "SparseArray")
    | _names("pandas.core.arrays.string_", "StringArray StringDtype")
    | _names("pandas.core.arrays.string_arrow", "ArrowStringArray ArrowStringArrayNumpySemantics")
    | _names("pandas.core.arrays.timedeltas", "TimedeltaArray")
    | _names("pandas.core.dtypes.dtypes", f"NumpyEADtype PandasDtype {_DTYPES}")
    | _names("pandas.core.frame", "DataFrame")
    | _names("pandas.core.indexes.base", "Index _new_Index")
    | _names("pandas.core.indexes.category", "CategoricalIndex")
    | _names("pandas.core.indexes.datetimes", "DatetimeIndex _new_DatetimeIndex")
    | _names("pandas.core.indexes.frozen", "FrozenList")
    | _names("pandas.core.indexes.multi", "MultiIndex")
    | _names("pandas.core.indexes.numeric", "Float64Index Int64Index NumericIndex UInt64Index")
    | _names("pandas.core.indexes.period", "PeriodIndex")
    | _names("pandas.core.indexes.range", "RangeIndex")
    | _names("pandas.core.indexes.timedeltas", "TimedeltaIndex")
    | _names("pandas.core.internals.managers", "BlockManager SingleBlockManager")
    | _names("pandas.core.series", "Series")
    | _names(
        "pyarrow.lib",
        "_restore_array chunked_array py_buffer type_for_alias timestamp decimal128 decimal256 duration time32 time64 "
        "fixed_size_binary",
    )
)

# Protocols below 3 have the names of Python 2.
_PYTHON_2 = {"__builtin__": "builtins", "copy_reg": "copyreg"}

_STRINGS = {"STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"}
_CONSTANTS = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "NONE", "NEWTRUE", "NEWFALSE"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8", "EMPTY_LIST", "EMPTY_DICT", "EMPTY_SET"),
}
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
# How many values each adds to the one below them; None: those from the mark on.
_ADDITIONS = {"APPEND": 1, "SETITEM": 2, "APPENDS": None, "SETITEMS": None, "ADDITEMS": None}

_ZONE = ("zoneinfo.ZoneInfo", "_unpickle")


def allowed_name(module: str, name: str) -> str:
    """Returns the name as `module.name`, with Python 3's name of the module.

    Raises:
        PickleRefused: frames and series do not need it.
    """
    full = f"{_PYTHON_2.get(module, module)}.{name}"
    if full not in ALLOWED and name != SERIES_CLASS:
        raise PickleRefused(f"the pickle refers to {full}, which no series needs; nothing of it has run", full)
    return full


@dataclass(frozen=True)
class _Name:
    """A class or a function."""

    name: str


@dataclass(frozen=True)
class _Made:
    """What a call returned."""

    by: str


class _Mark:
    pass


_UNKNOWN = object()
_MARK = _Mark()


def scan(pickle: bytes) -> set[str]:
    """Returns the names that a pickle refers to; all are allowed.

    Raises:
        PickleRefused: it refers to another name, or is not a pickle that is followed with certainty.
    """
    machine = _Machine()
    end = -1
    try:
        for opcode, argument, position in pickletools.genops(pickle):
            machine.step(opcode.name, argument)
            end = position or 0
    except PickleRefused:
        raise
    except Exception as error:
        raise PickleRefused(f"this is not a complete pickle: {error}") from None
    if end + 1 != len(pickle):
        raise PickleRefused(f"the pickle ends after {end + 1} bytes, and the file has {len(pickle)}")
    return machine.names


class _Machine:
    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.names: set[str] = set()
        self.steps = 0

    def pop(self) -> Any:
        value = self.stack.pop()
        if value is _MARK:
            raise PickleRefused("the pickle uses a mark as a value")
        return value

    def pop_to_mark(self) -> list[Any]:
        at = len(self.stack) - 1
        while self.stack[at] is not _MARK:
            at -= 1
            if at < 0:
                raise PickleRefused("the pickle has no mark where it needs one")
        values = self.stack[at + 1 :]
        del self.stack[at:]
        return values

    def top(self) -> Any:
        value = self.stack[-1]
        if value is _MARK:
            raise PickleRefused("the pickle uses a mark as a value")
        return value

    def name(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise PickleRefused("the pickle refers to a name that it computes")
        full = allowed_name(module, name)
        self.names.add(full)
        self.stack.append(_Name(full))

    def call(self, function: Any, arguments: Any) -> None:
        """A call of a name; of a class as well."""
        if not isinstance(function, _Name):
            what = f"what {function.by} returns" if isinstance(function, _Made) else "a value that it computes"
            raise PickleRefused(f"the pickle calls {what}")
        if function.name == "builtins.getattr":
            # Only a zone is made so: getattr(ZoneInfo, "_unpickle")(key, from_cache).
            if arguments != (_Name(_ZONE[0]), _ZONE[1]):
                raise PickleRefused("the pickle calls builtins.getattr, which no series needs", function.name)
            self.stack.append(_Name(".".join(_ZONE)))
            return
        if function.name == "copyreg._reconstructor":
            is_plain = isinstance(arguments, tuple) and len(arguments) == 3 and arguments[1] == _Name("builtins.object")
            if not is_plain or not isinstance(arguments[0], _Name):
                raise PickleRefused("the pickle calls copyreg._reconstructor for more than a plain object", function.name)
        self.stack.append(_Made(function.name))

    def step(self, opcode: str, argument: Any) -> None:
        self.steps += 1
        stack = self.stack
        if opcode in _STRINGS:
            stack.append(argument)
        elif opcode in _CONSTANTS:
            stack.append(_UNKNOWN)
        elif opcode in _TUPLES:
            count = _TUPLES[opcode]
            values = [self.pop() for _ in range(count)]
            stack.append(tuple(reversed(values)))
        elif opcode in _ADDITIONS:
            added = _ADDITIONS[opcode]
            if added is None:
                self.pop_to_mark()
            else:
                for _ in range(added):
                    self.pop()
            if isinstance(self.top(), _Name):
                raise PickleRefused(f"the pickle changes {self.top().name}", self.top().name)
        elif opcode in ("MEMOIZE", "PUT", "BINPUT", "LONG_BINPUT"):
            place = len(self.memo) if opcode == "MEMOIZE" else argument
            # The real memo is an array: a large number alone would take all of the memory.
            if place > self.steps:
                raise PickleRefused(f"the pickle has a memo of {place} entries, more than it has operations")
            self.memo[place] = self.top()
        elif opcode in ("GET", "BINGET", "LONG_BINGET"):
            if argument not in self.memo:
                raise PickleRefused(f"the pickle has no memo {argument}")
            stack.append(self.memo[argument])
        else:
            self.step_of_objects(opcode, argument)

    def step_of_objects(self, opcode: str, argument: Any) -> None:
        stack = self.stack
        match opcode:
            case "PROTO" | "FRAME":
                pass
            case "MARK":
                stack.append(_MARK)
            case "TUPLE":
                stack.append(tuple(self.pop_to_mark()))
            case "LIST" | "DICT" | "FROZENSET":
                self.pop_to_mark()
                stack.append(_UNKNOWN)
            case "POP":
                stack.pop()
            case "POP_MARK":
                self.pop_to_mark()
            case "DUP":
                stack.append(self.top())
            case "GLOBAL":
                module, name = self.two_names(argument)
                self.name(module, name)
            case "STACK_GLOBAL":
                computed, module = self.pop(), self.pop()
                self.name(module, computed)
            case "REDUCE" | "NEWOBJ":
                arguments, function = self.pop(), self.pop()
                self.call(function, arguments)
            case "NEWOBJ_EX":
                self.pop()
                arguments, function = self.pop(), self.pop()
                self.call(function, arguments)
            case "OBJ":
                function, *rest = self.pop_to_mark()
                self.call(function, tuple(rest))
            case "INST":
                rest = self.pop_to_mark()
                module, name = self.two_names(argument)
                self.name(module, name)
                self.call(stack.pop(), tuple(rest))
            case "BUILD":
                self.pop()
                if not isinstance(self.top(), _Made):
                    what = self.top().name if isinstance(self.top(), _Name) else "a plain value"
                    raise PickleRefused(f"the pickle sets attributes of {what}, which is not an object that it has made")
            case "STOP":
                self.pop()
                if stack:
                    raise PickleRefused("the pickle leaves values that it does not use")
            case _:
                raise PickleRefused(f"the pickle uses {opcode}, which no series needs")

    @staticmethod
    def two_names(argument: str) -> list[str]:
        # Both lines joined by a space: with more of them it would not be certain which is which.
        names = argument.split(" ")
        if len(names) != 2:
            raise PickleRefused(f"the pickle refers to {argument!r}, which is not the name of a module and of its item", argument)
        return names
