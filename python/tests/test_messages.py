"""The messages of a frame: what they say, and that none exceeds a limit."""

from __future__ import annotations

import json
import math
import random

import numpy as np
import pandas as pd
import pytest

from series_ingest import messages
from series_ingest.frames import Wide, normalise
from series_ingest.names import checked_labels, checked_name


def wide(rows: int, columns: list[str], values=None, step: int = 1) -> Wide:
    times = np.arange(rows, dtype=np.int64) // step * 1_000_000
    values = np.zeros((len(columns), rows)) if values is None else values
    return Wide("t", columns, times, values)


def sent(frame: Wide, series: str = "s", points: int = messages.MAX_POINTS, size: int = messages.MAX_BYTES) -> list[bytes]:
    return [batch.payload for batch in messages.batches(frame, series, messages.plan(frame, series, points, size))]


def test_every_double_is_read_as_itself_to_the_last_bit():
    random.seed(1)
    special = [0.0, -0.0, 5e-324, -2.2250738585072014e-308, 1.7976931348623157e308, 0.1, 1 / 3, 1e22, 1e23, 2.0**53, math.pi]
    drawn = (float(np.frombuffer(random.randbytes(8), "<f8")[0]) for _ in range(20_000))
    values = np.array([*special, *(value for value in drawn if math.isfinite(value))])
    payloads = sent(wide(len(values), ["c"], values[np.newaxis]))
    found = np.array([value for payload in payloads for value in json.loads(payload)["columns"]["c"]], dtype=float)
    np.testing.assert_array_equal(found.view("i8"), values.view("i8"))


def test_what_is_not_finite_is_json_that_every_reader_accepts():
    values = np.array([[1.5, np.nan, np.inf, -np.inf]])

    def refuse(word):
        raise AssertionError(word)

    (payload,) = sent(wide(4, ["c"], values))
    assert json.loads(payload, parse_constant=refuse)["columns"]["c"] == [1.5, None, "Infinity", "-Infinity"]


def test_times_are_whole_microseconds():
    (payload,) = sent(wide(2, ["c"]))
    found = json.loads(payload)
    assert (found["timestamp_unit"], found["timestamps"]) == ("us", [0, 1_000_000])
    assert (found["type"], found["time_series_id"]) == ("point-batch", "s")


@pytest.mark.parametrize("name", ['a "quote"', "a\nnewline", "a\\b", "tab\t", "é" * 512, "\x01" * 1024, "𝄞", " ", "a'b"])
def test_names_of_all_kinds_are_written_as_they_are(name):
    (payload,) = sent(wide(1, [name]), series=name)
    found = json.loads(payload)
    assert found["time_series_id"] == name and list(found["columns"]) == [name]


@pytest.mark.parametrize(
    ("rows", "columns", "points", "size"),
    [
        (1, 1, 1, 32_768),
        (50_000, 5, 100_000, 900_000),
        (100_001, 1, 100_000, 900_000),
        (7, 10_000, 100_000, 900_000),
        (3, 10, 4, 900_000),
        (10_000, 3, 1000, 32_768),
    ],
)
def test_no_message_exceeds_a_limit_and_no_point_is_missing(rows, columns, points, size):
    # The longest doubles, and long names.
    values = np.full((columns, rows), -2.2250738585072014e-308)
    frame = wide(rows, [f"column {number} {'x' * 20}" for number in range(columns)], values)
    found: dict[str, int] = {}
    for payload in sent(frame, "s" * 1024, points, size):
        assert len(payload) <= size
        message = json.loads(payload)
        count = len(message["timestamps"])
        assert count * len(message["columns"]) <= points
        for name, of_column in message["columns"].items():
            assert len(of_column) == count
            found[name] = found.get(name, 0) + count
    assert found == dict.fromkeys(frame.columns, rows)


def test_the_longest_names_fit():
    names = ["\x01" * 1020 + f"{number:04}" for number in range(200)]
    for payload in sent(wide(2, names), "\x01" * 1024, size=messages.MIN_BYTES):
        assert len(payload) <= messages.MIN_BYTES


def test_rows_of_the_same_time_stay_in_one_message():
    frame = wide(1000, ["c"], step=7)
    seen: set[int] = set()
    for payload in sent(frame, points=100):
        times = json.loads(payload)["timestamps"]
        assert not seen & set(times)
        seen |= set(times)
    # More of them than fit in a message.
    assert len(sent(wide(250, ["c"], step=1000), points=100)) == 3


def test_messages_are_made_one_at_a_time():
    frame = wide(200_000, ["c"])
    made = messages.batches(frame, "s", messages.plan(frame, "s", 100, messages.MAX_BYTES))
    assert len(json.loads(next(made).payload)["timestamps"]) == 100


def test_a_definition_has_what_was_given():
    found = json.loads(
        messages.definition("s", name="N", description=None, time_column="t", columns=["b", "a"], labels={"site": "a", "n": 1})
    )
    assert found == {
        "type": "series-create", "id": "s", "name": "N", "time_column": "t", "value_columns": ["b", "a"], "labels": {"site": "a", "n": 1}
    }
    without = json.loads(messages.definition("s", name=None, description=None, time_column="t", columns=[], labels=None))
    assert "labels" not in without and "name" not in without


def test_labels_are_checked():
    assert checked_labels({"a": "x", "b": 1, "c": True, "d": 1.5, "e": "", "f": np.int64(3), "g": np.float64(0.5)}) == {
        "a": "x", "b": 1, "c": True, "d": 1.5, "e": "", "f": 3, "g": 0.5
    }
    for labels, error in (
        ({1: "x"}, TypeError),
        ({"a": None}, TypeError),
        ({"a": [1]}, TypeError),
        ([("a", 1)], TypeError),
        ({"a": float("nan")}, ValueError),
        ({"a": 10**400}, ValueError),
        ({"": 1}, ValueError),
        ({"a": "x" * 1025}, ValueError),
        ({"a": "\0"}, ValueError),
        ({str(number): 1 for number in range(101)}, ValueError),
    ):
        with pytest.raises(error):
            checked_labels(labels)
    assert checked_name("the name", "", is_limited=False) == ""


def test_a_million_points_of_a_wide_frame_are_cut_without_a_loop_over_values():
    frame = normalise(pd.DataFrame(np.zeros((10, 1000)), columns=[f"c{n}" for n in range(1000)], index=pd.date_range("2024", periods=10)))
    plan = messages.plan(frame, "s", messages.MAX_POINTS, messages.MAX_BYTES)
    assert plan.pieces == [0, 10] and plan.groups == [range(0, 1000)]
