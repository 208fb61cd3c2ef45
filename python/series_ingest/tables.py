"""Changing the tables by SQL, as a program that owns its series does: see docs/schema.md, "Series of other programs"."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from .frames import Wide
from .names import Label
from .reader import EPOCH_US

if TYPE_CHECKING:
    from .database import Connection
    from .series import TimeSeries

# Rows that are encoded at a time; each takes its names' length and about 50 bytes.
_BLOCK_ROWS = 50_000


def replace_series(connection: Connection, series: TimeSeries, labels: Mapping[str, Label] | None, wide: Wide) -> None:
    """Inserts a series with its points, or replaces its definition and all of its points."""
    connection.execute(
        """insert into time_series_metadata (id, name, description, time_column, value_columns, created_at, updated_at)
           values (%s, %s, %s, %s, %s, now(), now())
           on conflict (id) do update set name = excluded.name, description = excluded.description,
               time_column = excluded.time_column, value_columns = excluded.value_columns, updated_at = now()""",
        [series.id, series.name, series.description, wide.time_column, json.dumps(wide.columns, ensure_ascii=False)],
    )
    if labels is not None:
        text = json.dumps(dict(labels), ensure_ascii=False)
        connection.execute("update time_series_metadata set labels = %s::jsonb where id = %s", [text, series.id])
    connection.execute("delete from time_series_data_points where time_series_id = %s", [series.id])
    statement = b"""copy time_series_data_points (time_series_id, "timestamp", column_name, value)
        from stdin (format binary)"""
    with connection.cursor() as cursor, cursor.copy(statement) as copy:
        copy.write(b"PGCOPY\n\xff\r\n\0" + bytes(8))
        for rows in _encoded(series.id, wide):
            copy.write(rows)
        copy.write(b"\xff\xff")


def _encoded(series: str, wide: Wide) -> Iterator[bytes]:
    """Rows of COPY's binary format, without a loop over them."""
    id_bytes = series.encode()
    for column, values in zip(wide.columns, wide.values):
        name = column.encode()
        row = np.dtype(
            [
                ("fields", ">i2"),
                ("series_bytes", ">i4"),
                ("series", f"V{len(id_bytes)}"),
                ("time_bytes", ">i4"),
                ("time", ">i8"),
                ("column_bytes", ">i4"),
                ("column", f"V{len(name)}"),
                ("value_bytes", ">i4"),
                ("value", ">f8"),
            ]
        )
        for first in range(0, len(values), _BLOCK_ROWS):
            piece = values[first : first + _BLOCK_ROWS]
            is_null = np.isnan(piece)
            rows: Any = np.empty(len(piece), dtype=row)
            rows["fields"] = 4
            rows["series_bytes"] = len(id_bytes)
            rows["series"] = np.void(id_bytes)
            rows["time_bytes"] = 8
            rows["time"] = wide.times[first : first + _BLOCK_ROWS] - EPOCH_US
            rows["column_bytes"] = len(name)
            rows["column"] = np.void(name)
            rows["value_bytes"] = np.where(is_null, -1, 8)
            rows["value"] = piece
            if not is_null.any():
                yield rows.tobytes()
                continue
            # NULL has a length of -1, and no bytes.
            cells = rows.view(np.uint8).reshape(len(piece), row.itemsize)
            keep = np.ones(cells.shape, dtype=bool)
            keep[is_null, -8:] = False
            yield cells[keep].tobytes()


def delete_series(connection: Connection, series: str) -> bool:
    """Deletes a series with its points; returns whether there was one."""
    return connection.execute("delete from time_series_metadata where id = %s", [series]).rowcount > 0


def series_exists(connection: Connection, series: str) -> bool:
    """Returns whether there is a series with this id."""
    found = connection.execute("select exists (select from time_series_metadata where id = %s)", [series]).fetchone()
    return found is not None and bool(found[0])
