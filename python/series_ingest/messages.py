"""The messages of docs/messages.md, as JSON, each within the worker's limits."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from .frames import Floats, Wide
from .names import Label

# The default of the worker's `message.max_points`.
MAX_POINTS = 100_000
# Below the worker's `message.max_bytes`, a broker's `message.max.bytes` (1 MiB both) and a producer's (1,000,000), with
# room for the key and headers.
MAX_BYTES = 900_000
# A message of this size has room for one row of one column, with the longest names.
MIN_BYTES = 32_768

# The longest double, such as -2.2250738585072014e-308, and a comma.
_VALUE_BYTES = 25
# The longest time that is accepted, in microseconds, and a comma.
_TIME_BYTES = 20


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def definition(
    series: str,
    *,
    name: str | None,
    description: str | None,
    time_column: str,
    columns: list[str],
    labels: Mapping[str, Label] | None,
) -> bytes:
    """A `series-create`. Labels that are None are not mentioned, which leaves those that the series has."""
    message: dict[str, object] = {"type": "series-create", "id": series}
    if name is not None:
        message["name"] = name
    if description is not None:
        message["description"] = description
    message |= {"time_column": time_column, "value_columns": columns}
    if labels is not None:
        message["labels"] = dict(labels)
    return _json(message).encode()


@dataclass(frozen=True)
class Batch:
    """A `point-batch`: the rows [first_row, end_row) of some columns.

    Attributes:
        piece: the number of these rows among the pieces of the frame; a wide frame has several messages for one.
    """

    piece: int
    points: int
    payload: bytes


@dataclass(frozen=True)
class Plan:
    """How a frame is cut.

    Attributes:
        pieces: the first row of each piece, and the end of the last.
        groups: the numbers of the columns in each message of a piece.
    """

    pieces: list[int]
    groups: list[range]


def plan(wide: Wide, series: str, max_points: int, max_bytes: int) -> Plan:
    """Cuts a frame so that no message exceeds the limits, whatever its values are.

    Rows of the same time stay in one message as far as they fit: the worker keeps their order only there.
    """
    rows = len(wide.times)
    if not rows:
        return Plan([0], [])
    head = len(_head(series)) + 64
    sizes = [len(_json(column).encode()) + 5 for column in wide.columns]
    groups = []
    first, names = 0, 0
    for at, size in enumerate(sizes):
        # Half of a message may be names, so that the other half has several rows.
        count = at - first + 1
        row = _TIME_BYTES + _VALUE_BYTES * count
        if at > first and (count > max_points or names + size > max_bytes // 2 or head + names + size + row > max_bytes):
            groups.append(range(first, at))
            first, names = at, 0
        names += size
    groups.append(range(first, len(sizes)))
    step = min(
        min(
            max_points // len(group),
            (max_bytes - head - sum(sizes[group.start : group.stop])) // (_TIME_BYTES + _VALUE_BYTES * len(group)),
        )
        for group in groups
    )
    if step < 1:
        raise ValueError(f"max_message_bytes={max_bytes} has no room for a row of one column")
    pieces = [0]
    starts = _starts_of_times(wide)
    while pieces[-1] < rows:
        end = pieces[-1] + step
        if starts is not None and end < rows:
            begin = int(starts[np.searchsorted(starts, end, side="right") - 1])
            end = begin if begin > pieces[-1] else end
        pieces.append(min(end, rows))
    return Plan(pieces, groups)


def _starts_of_times(wide: Wide) -> np.ndarray[tuple[int], np.dtype[np.intp]] | None:
    """The first row of each time; None if all times are different."""
    is_new = wide.times[1:] != wide.times[:-1]
    return None if is_new.all() else np.flatnonzero(np.concatenate([[True], is_new]))


def _head(series: str) -> bytes:
    text = f'{{"type":"point-batch","time_series_id":{_json(series)},"timestamp_unit":"us","timestamps":'
    return text.encode()


def batches(wide: Wide, series: str, plan: Plan) -> Iterator[Batch]:
    """The messages of a plan, one at a time."""
    head = _head(series)
    names = [_json(column) for column in wide.columns]
    for piece, (first, end) in enumerate(zip(plan.pieces, plan.pieces[1:])):
        times = _json(wide.times[first:end].tolist()).encode()
        for group in plan.groups:
            columns = ",".join(f"{names[at]}:{_values(wide.values[at, first:end])}" for at in group)
            payload = b"".join((head, times, b',"columns":{', columns.encode(), b"}}"))
            yield Batch(piece, (end - first) * len(group), payload)


def _values(values: Floats) -> str:
    """Doubles as JSON: each in the shortest form that is read as the same double."""
    text = json.dumps(values.tolist(), separators=(",", ":"))
    if not np.isfinite(values).all():
        # json.dumps writes them bare, which only some readers of JSON accept.
        text = text.replace("NaN", "null").replace("Infinity", '"Infinity"').replace('-"Infinity"', '"-Infinity"')
    return text
