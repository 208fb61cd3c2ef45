"""Reading a series as a wide frame."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from .database import Fresh, checked_dsn, reading
from .errors import DuplicatePoints, SeriesNotFound
from .frames import DUPLICATES, Duplicates, Floats, Ints, Wide, microseconds_of

if TYPE_CHECKING:
    from .database import Connection
    from .producer import Published

# Points that are in memory besides the result, about 60 bytes each while they are sorted.
_BLOCK_POINTS = 500_000

# A row of COPY's binary format with these four columns, none of them NULL.
_ROW = np.dtype(
    [
        ("fields", ">i2"),
        ("time_bytes", ">i4"),
        ("time", ">i8"),
        ("column_bytes", ">i4"),
        ("column", ">i4"),
        ("value_bytes", ">i4"),
        ("value", ">f8"),
        ("id_bytes", ">i4"),
        ("id", ">i8"),
    ]
)
_SIGNATURE = b"PGCOPY\n\xff\r\n\0"
# From the epoch of Unix to that of PostgreSQL, in microseconds.
EPOCH_US = 946_684_800_000_000

_Rows = npt.NDArray[np.void]


@dataclass(frozen=True)
class Definition:
    """A row of `time_series_metadata`."""

    id: str
    name: str | None
    description: str | None
    time_column: str
    value_columns: list[str]
    labels: dict[str, Any] | None


def read(
    series: str,
    dsn: str | None = None,
    *,
    start: Any = None,
    end: Any = None,
    columns: Sequence[str] | None = None,
    duplicates: Duplicates = "last",
    schema: str | None = None,
    fresh_as_of: Published | Mapping[tuple[str, int], int] | None = None,
    fresh_within: float = 30.0,
    pipeline: str = "default",
) -> pd.DataFrame:
    """Reads a series as a wide frame: one row for each time, one column for each value column.

    The frame has a DatetimeIndex of UTC in microseconds, sorted, named as the series' time column; its columns are float64,
    in the order of the series' `value_columns`; NULL, and a column without a point at a time, is NaN. Times at which none
    of the columns has a point have no row. It is read in one snapshot. If a standby interrupts that, all of it is read again.

    Args:
        series: the series' id.
        dsn: the database, as a URL or a connection string of libpq; URLs of SQLAlchemy such as postgresql+asyncpg:// are
            accepted. Of several hosts, such as standbys and then their primary, the first that accepts a connection is read.
            Default: the environment variable DATABASE_URL.
        start: the first time, inclusive: a string, a datetime or a Timestamp; without a zone it is UTC.
        end: the end, exclusive.
        columns: these columns, in this order; default: all.
        duplicates: what to return of points with the same column and time: "last" has the one with the highest id, "first"
            that with the lowest, "all" has a row for each, and "fail" raises an error. Ids are in the order in which one
            connection inserted the points; those of different connections, such as a worker's writers, are not in the order
            of time.
        schema: the schema of the tables, the worker's database.schema; default: that of the search path.
        fresh_as_of: what must be seen: what `publish` returned, or the highest offset of each topic and partition. It is
            waited for until the worker has written it, and until the standby that is read has it.
        fresh_within: how long, in seconds.
        pipeline: the worker's key pipeline, whose progress says that.

    Raises:
        NotFresh: the database did not have what must be seen in time.
        SeriesNotFound: there is no such series. It is a KeyError.
        KeyError: the series has no such column.
        DuplicatePoints: there are points with the same column and time, and duplicates is "fail".
        ValueError: an argument is invalid, or a time is infinite.
        ImportError: psycopg is not installed: the extra `read`.
        psycopg.Error: the database is not available, or refuses.
    """

    def work(connection: Connection) -> pd.DataFrame:
        definition = definition_of(connection, series)
        if definition is None:
            raise SeriesNotFound(series)
        return read_points(connection, definition, start=start, end=end, columns=columns, duplicates=duplicates).frame()

    offsets = getattr(fresh_as_of, "offsets", fresh_as_of) or {}
    return reading(checked_dsn(dsn), schema, work, Fresh(offsets, fresh_within, pipeline))


def definition_of(connection: Connection, series: str) -> Definition | None:
    """The definition of a series; None if there is none."""
    found = connection.execute(_DEFINITIONS + " where id = %s", [series]).fetchone()
    return None if found is None else _definition(found)


def definitions(connection: Connection) -> list[Definition]:
    """All definitions, in the order in which the series were created."""
    return [_definition(row) for row in connection.execute(_DEFINITIONS + " order by created_at, id").fetchall()]


# Tables that `migrate` has not seen have no labels.
_DEFINITIONS = """select id, name, description, time_column, value_columns, (to_jsonb(series) -> 'labels')::text
    from time_series_metadata as series"""


def _definition(row: tuple[Any, ...]) -> Definition:
    try:
        columns = json.loads(row[4])
    except ValueError:
        columns = []
    labels = None if row[5] is None else json.loads(row[5])
    is_list = isinstance(columns, list) and all(isinstance(column, str) for column in columns)
    return Definition(row[0], row[1], row[2], row[3], columns if is_list else [], labels)


def read_points(
    connection: Connection,
    definition: Definition,
    *,
    start: Any = None,
    end: Any = None,
    columns: Sequence[str] | None = None,
    duplicates: Duplicates = "last",
) -> Wide:
    """The points of a series; `read` documents the arguments and errors."""
    if duplicates not in DUPLICATES:
        raise ValueError(f"duplicates={duplicates!r}: expected one of {', '.join(DUPLICATES)}")
    if isinstance(columns, str):
        raise TypeError(f"columns={columns!r} is a string, not a list of names")
    wanted = definition.value_columns if columns is None else list(columns)
    missing = [column for column in wanted if column not in set(definition.value_columns)]
    if missing:
        raise KeyError(f"the series {definition.id!r} has no column {missing[0]!r}")
    if len(set(wanted)) < len(wanted):
        raise ValueError("columns has a name more than once")
    blocks: list[tuple[Ints, Floats]] = []
    if wanted:
        rest = np.empty(0, dtype=_ROW)
        for block in _blocks(connection, definition.id, wanted, columns is not None, start, end):
            # The last time may go on in the next block.
            rows = np.concatenate([rest, block])
            if not len(rows):
                continue
            is_last = rows["time"] == rows["time"][-1]
            rest = rows[is_last]
            blocks.append(_wide(rows[~is_last], wanted, duplicates, definition.id))
        blocks.append(_wide(rest, wanted, duplicates, definition.id))
    times = np.empty(sum(len(block[0]) for block in blocks), dtype=np.int64)
    values = np.empty((len(wanted), len(times)), dtype=np.float64)
    end_row = len(times)
    while blocks:
        # Each block is released as soon as it is copied.
        block_times, block_values = blocks.pop()
        first_row = end_row - len(block_times)
        times[first_row:end_row] = block_times
        values[:, first_row:end_row] = block_values
        end_row = first_row
    return Wide(definition.time_column, list(wanted), times, values)


def _blocks(
    connection: Connection, series: str, columns: list[str], is_choice: bool, start: Any, end: Any
) -> Iterator[_Rows]:
    """The points in the order of their times."""
    # The column's number instead of its name, and NaN instead of NULL, make all rows the same length. Points of columns that
    # the series does not list, which other programs may write, get the number -1.
    numbers = json.dumps({column: number for number, column in enumerate(columns)}, ensure_ascii=False)
    parameters: list[Any] = [numbers, series]
    conditions = ""
    if is_choice:
        conditions += " and column_name = any(%s)"
        parameters.append(columns)
    for operator, time, what in ((">=", start, "start"), ("<", end, "end")):
        if time is not None:
            conditions += f' and "timestamp" {operator} %s::timestamptz'
            parameters.append(_timestamptz(microseconds_of(time, what)))
    query = f"""copy (
        select "timestamp", coalesce((%s::jsonb ->> column_name)::int4, -1), coalesce(value, 'NaN'), id::int8
        from time_series_data_points where time_series_id = %s{conditions}
        order by "timestamp") to stdout (format binary)"""
    with connection.cursor() as cursor, cursor.copy(query.encode(), parameters) as copy:
        data = bytearray()
        is_first = True
        for piece in copy:
            data += piece
            if is_first and len(data) >= 19:
                if not data.startswith(_SIGNATURE):
                    raise ValueError("the server's COPY is not in the binary format")
                del data[: 19 + int.from_bytes(data[15:19], "big")]
                is_first = False
            if len(data) >= _BLOCK_POINTS * _ROW.itemsize:
                yield _take(data, len(data) // _ROW.itemsize)
        if len(data) % _ROW.itemsize != 2 or data[-2:] != b"\xff\xff":
            raise ValueError("the server's COPY is not complete")
        if len(data) > 2:
            yield _take(data, len(data) // _ROW.itemsize)


def _take(data: bytearray, rows: int) -> _Rows:
    size = rows * _ROW.itemsize
    found: _Rows = np.frombuffer(bytes(memoryview(data)[:size]), dtype=_ROW)
    del data[:size]
    return found[found["column"] >= 0]


def _timestamptz(microseconds: int) -> str:
    return f"{np.datetime64(microseconds, 'us')}+00"


def _wide(rows: _Rows, columns: list[str], duplicates: Duplicates, series: str) -> tuple[Ints, Floats]:
    """Points of some times as rows; all points of these times are there."""
    postgres = rows["time"].astype(np.int64)
    if len(postgres) and (postgres.min() == np.iinfo(np.int64).min or postgres.max() == np.iinfo(np.int64).max):
        raise ValueError(f"series {series!r} has a point with an infinite time")
    numbers = rows["column"].astype(np.int64)
    values = rows["value"].astype(np.float64)
    order = np.lexsort((rows["id"].astype(np.int64), numbers, postgres))
    postgres, numbers, values = postgres[order], numbers[order], values[order]
    is_repeated = (postgres[1:] == postgres[:-1]) & (numbers[1:] == numbers[:-1])
    times = postgres + EPOCH_US
    if not is_repeated.any():
        ranks = None
    elif duplicates == "all":
        starts = np.concatenate([[True], ~is_repeated])
        group = np.cumsum(starts) - 1
        ranks = np.arange(len(times)) - np.flatnonzero(starts)[group]
    elif duplicates == "fail":
        at = int(is_repeated.argmax())
        time = pd.Timestamp(int(times[at]), unit="us", tz="UTC")
        raise DuplicatePoints(f"series {series!r} has several points of the column {columns[int(numbers[at])]!r} at {time}")
    else:
        ranks = None
        keep = np.concatenate([[True], ~is_repeated] if duplicates == "first" else [~is_repeated, [True]])
        times, numbers, values = times[keep], numbers[keep], values[keep]
    is_new = np.concatenate([[True], times[1:] != times[:-1]])[: len(times)]
    distinct = times[is_new]
    row_of = np.cumsum(is_new) - 1
    if ranks is not None:
        # As many rows of a time as the column with the most points has.
        counts = np.zeros(len(distinct), dtype=np.int64)
        np.maximum.at(counts, row_of, ranks + 1)
        first = np.cumsum(counts) - counts
        row_of = first[row_of] + ranks
        distinct = np.repeat(distinct, counts)
    wide = np.full((len(columns), len(distinct)), np.nan)
    wide[numbers, row_of] = values
    return distinct, wide
