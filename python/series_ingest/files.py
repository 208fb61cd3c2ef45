"""Series as files: Parquet where pyarrow is installed, otherwise CSV with the definition next to it."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from .frames import Wide

# The key of the definitions, a JSON array, in the footer of a Parquet file; `series-ingest points export` writes the same.
DEFINITION_KEY = "series_ingest.series"
# Next to a CSV file, the name of the file with the same array is that of the CSV file and this.
DEFINITION_ENDING = ".series.json"
_ROW_GROUP_ROWS = 131_072
_CSV_ROWS = 100_000


def has_parquet() -> bool:
    """Returns whether Parquet files can be written."""
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError:
        return False
    return True


def file_name(series: str) -> str:
    """A file's name, without its ending, for a series' id: what is not a letter, a digit, `-`, `.` or `_` is %-encoded."""
    encoded = re.sub(rb"[^A-Za-z0-9._-]", lambda match: b"%%%02X" % match[0][0], series.encode()).decode()
    encoded = re.sub(r"^\.", "%2E", encoded)
    if len(encoded) <= 200:
        return encoded
    # File systems allow 255 bytes. The hash keeps two long ids apart.
    return f"{encoded[:160]}-{hashlib.sha256(series.encode()).hexdigest()[:32]}"


def definition(
    series: str, wide: Wide, name: str | None, description: str | None, labels: Mapping[str, Any] | None
) -> dict[str, Any]:
    """The definition of a series, in the form of a `series-create`."""
    return {
        "id": series,
        "name": name,
        "description": description,
        "time_column": wide.time_column,
        "value_columns": wide.columns,
        "labels": None if labels is None else dict(labels),
    }


def write(folder: Path, wide: Wide, defined: Mapping[str, Any], *, parquet: bool) -> Path:
    """Writes a series, and returns the file. Files appear when they are complete, and replace those of the same name.

    Raises:
        OSError: a file cannot be written.
    """
    base = folder / file_name(str(defined["id"]))
    if parquet:
        path = base.with_name(base.name + ".parquet")
        _whole(path, lambda partial: _write_parquet(partial, wide, defined))
        return path
    path = base.with_name(base.name + ".csv")
    text = json.dumps([defined], ensure_ascii=False, indent=2) + "\n"
    _whole(path.with_name(path.name + DEFINITION_ENDING), lambda partial: partial.write_text(text, encoding="utf-8"))
    _whole(path, lambda partial: _write_csv(partial, wide))
    return path


def _whole(path: Path, write_to: Callable[[Path], object]) -> None:
    partial = path.with_name(path.name + ".partial")
    try:
        write_to(partial)
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _write_parquet(path: Path, wide: Wide, defined: Mapping[str, Any]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    # pandas' own metadata restores the index.
    table = pa.Table.from_pandas(wide.frame(), preserve_index=True)
    columns = [wide.time_column, *wide.columns]
    arrays = [table.column(wide.time_column), *(pa.array(values, from_pandas=True) for values in wide.values)]
    metadata = {**(table.schema.metadata or {}), DEFINITION_KEY.encode(): json.dumps([defined], ensure_ascii=False).encode()}
    table = pa.table(dict(zip(columns, arrays))).replace_schema_metadata(metadata)
    pq.write_table(table, path, compression="zstd", row_group_size=_ROW_GROUP_ROWS)


def _write_csv(path: Path, wide: Wide) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        frame = wide.frame()
        for first in range(0, max(len(frame), 1), _CSV_ROWS):
            piece = frame.iloc[first : first + _CSV_ROWS]
            # With microseconds in every row: to_csv decides that by the values of a column.
            times = np.datetime_as_string(wide.times[first : first + _CSV_ROWS].view("datetime64[us]"), timezone="UTC")
            index = pd.Index(times.astype(object), name=wide.time_column)
            piece.set_axis(index, axis=0).to_csv(file, header=first == 0, lineterminator="\n")
