"""A frame that is published, written by the worker and read is the same frame."""

from __future__ import annotations

from decimal import Decimal

import numpy as np
import pandas as pd
import psycopg
import pyarrow as pa
import pytest
from pandas.testing import assert_frame_equal

import series_ingest
from series_ingest import DuplicatePoints, SeriesNotFound
from series_ingest.database import libpq_url


def test_a_frame_of_all_types_is_read_as_it_was_published(servers, series):
    index = pd.date_range("2024-10-26 22:00", periods=6, freq="h", tz="UTC").tz_convert("Europe/Berlin").rename("local time")
    df = pd.DataFrame(
        {
            "int": [1, -2, 3, 2**53, -(2**53), 0],
            "small": np.array([1, 2, 3, 4, 5, 6], dtype="uint8"),
            "float": [0.1, -0.0, np.nan, np.inf, -np.inf, 5e-324],
            "float32": np.array([0.1, 1e38, np.nan, np.inf, -np.inf, 1e-45], dtype="float32"),
            "bool": [True, False, True, False, True, False],
            "Int64": pd.array([1, None, 3, 4, 5, 6], dtype="Int64"),
            "Float64": pd.array([0.1, None, 3, 4, 5, 6], dtype="Float64"),
            "boolean": pd.array([True, None, False, True, True, True], dtype="boolean"),
            "arrow": pd.array([1, None, 3, 4, 5, 6], dtype="int64[pyarrow]"),
            "decimal": pd.array([Decimal("1.1")] * 5 + [None], dtype=pd.ArrowDtype(pa.decimal128(5, 1))),
            "object": pd.Series([Decimal("0.1"), 2, 3.5, None, pd.NA, True], dtype=object, index=index),
            "missing": [np.nan] * 6,
        },
        index=index,
    )
    published = servers.publish(df, series)
    servers.until_stored(published)
    found = servers.read(series)
    assert_frame_equal(found, published.frame, check_exact=True)
    signs = np.signbit(found.to_numpy()) == np.signbit(published.frame.to_numpy())
    assert (signs | found.isna().to_numpy()).all(), "-0.0 stays"
    assert (found.index == index).all() and found.index.name == "local time"
    assert list(found.columns) == list(df.columns)


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_times_of_all_units_are_read_as_they_were_published(unit, servers, series):
    index = pd.DatetimeIndex(np.array(["1900-01-01", "1969-12-31", "2024-01-01", "2199-12-31"], dtype=f"datetime64[{unit}]"))
    published = servers.publish(pd.DataFrame({"v": [1, 2, 3, 4]}, index=index), series)
    servers.until_stored(published)
    found = servers.read(series)
    assert_frame_equal(found, published.frame)
    assert (found.index.tz_localize(None) == index).all()


def test_an_empty_frame_is_read_with_its_columns(servers, series):
    df = pd.DataFrame({"b": np.array([], dtype=bool), "a": np.array([], dtype=float)}, index=pd.DatetimeIndex([], name="when"))
    published = servers.publish(df, series)
    servers.until_stored(published)
    assert_frame_equal(servers.read(series), published.frame)
    assert list(published.frame.columns) == ["b", "a"]


@pytest.mark.parametrize("name", ['a "quote"', "a'quote", "two words", "a\nnewline", "tab\t\\", "é𝄞", "%s {} ?", "x" * 1024, "é" * 511 + "ab"])
def test_names_of_all_kinds_are_read_as_they_were_published(name, servers, series):
    series = (series + name).encode()[:1024].decode(errors="ignore")
    df = pd.DataFrame({name: [1.5], "other": [2.5]}, index=pd.DatetimeIndex(["2024-01-01"], name="at" + name[2:]))
    published = servers.publish(df, series, name=name, description=name, labels={name: name})
    servers.until_stored(published)
    assert_frame_equal(servers.read(series), published.frame)
    assert_frame_equal(servers.read(series, columns=[name]), published.frame[[name]])
    row = servers.query("select name, description, labels from time_series_metadata where id = %s", series)
    assert row == [(name, name, {name: name})]


def test_a_wide_frame_is_read_as_it_was_published(servers, series):
    df = pd.DataFrame(
        np.random.default_rng(1).normal(size=(12, 2000)),
        columns=[f"column {number}" for number in range(2000)],
        index=pd.date_range("2024-01-01", periods=12, freq="D"),
    )
    published = servers.publish(df, series, max_message_points=1500)
    assert published.messages == 1 + 12 * 2
    servers.until_stored(published)
    assert_frame_equal(servers.read(series), published.frame)


def test_a_range_of_time_is_half_open(servers, series):
    index = pd.date_range("2024-01-01", periods=4, freq="h", tz="UTC", name="t")
    published = servers.publish(pd.DataFrame({"a": range(4), "b": range(4)}, index=index), series)
    servers.until_stored(published)
    expected = published.frame
    for start, end, rows in (
        ("2024-01-01 01:00", "2024-01-01 03:00", slice(1, 3)),
        (index[1], index[1], slice(0, 0)),
        (None, pd.Timestamp("2024-01-01 02:00", tz="Europe/Berlin"), slice(0, 1)),
        (index[2].to_pydatetime(), None, slice(2, 4)),
        (np.datetime64("2024-01-01T03:00:00"), None, slice(3, 4)),
        ("2024-01-01 00:00:00.000001", "2024-01-01 03:00:00.000001", slice(1, 4)),
    ):
        assert_frame_equal(servers.read(series, start=start, end=end), expected.iloc[rows])
    assert_frame_equal(servers.read(series, columns=["b"], start=index[3]), expected[["b"]].iloc[3:])
    assert_frame_equal(servers.read(series, columns=["b", "a"]), expected[["b", "a"]])
    assert servers.read(series, columns=[]).shape == (0, 0)


def test_arguments_are_checked(servers, series):
    published = servers.publish(pd.DataFrame({"a": [1]}, index=pd.DatetimeIndex(["2024-01-01"])), series)
    servers.until_stored(published)
    for arguments, error, said in (
        ({"columns": ["b"]}, KeyError, "has no column 'b'"),
        ({"columns": "a"}, TypeError, "is a string, not a list"),
        ({"columns": ["a", "a"]}, ValueError, "more than once"),
        ({"duplicates": "some"}, ValueError, "expected one of last, first, all, fail"),
        ({"start": 1.7e9}, TypeError, "start=1700000000.0 is a number"),
        ({"end": pd.NaT}, ValueError, "end is missing"),
        ({"start": "2024-01-01 00:00:00.000000001"}, ValueError, "is finer than a microsecond"),
    ):
        with pytest.raises(error, match=said):
            servers.read(series, **arguments)


def test_a_series_that_is_not_there_is_a_key_error(servers):
    with pytest.raises(SeriesNotFound, match="there is no series 'no such'") as error:
        servers.read("no such")
    assert isinstance(error.value, KeyError) and error.value.series == "no such"


def test_duplicates_are_read_by_each_policy(servers, series):
    index = pd.DatetimeIndex(["2024-01-02", "2024-01-01", "2024-01-02", "2024-01-02"], name="t").tz_localize("UTC")
    df = pd.DataFrame({"a": [1.0, 2.0, 3.0, np.nan], "b": [4.0, 5.0, 6.0, 7.0]}, index=index)
    published = servers.publish(df, series, duplicates="all")
    servers.until_stored(published)
    assert published.points == 8 and published.frame["b"].tolist() == [5, 4, 6, 7]
    assert_frame_equal(servers.read(series, duplicates="all"), published.frame)
    assert_frame_equal(servers.read(series), published.frame.iloc[[0, 3]])
    assert_frame_equal(servers.read(series, duplicates="first"), published.frame.iloc[[0, 1]])
    with pytest.raises(DuplicatePoints, match="several points of the column 'a' at 2024-01-02 00:00:00"):
        servers.read(series, duplicates="fail")
    assert_frame_equal(servers.read(series, duplicates="fail", end="2024-01-02"), published.frame.iloc[:1])


def test_points_of_other_programs_are_read(servers, series):
    with psycopg.connect(servers.url, autocommit=True) as connection:
        connection.execute(
            """insert into time_series_metadata (id, value_columns) values (%s, '["a", "b"]')""", [series]
        )
        connection.execute(
            """insert into time_series_data_points (time_series_id, "timestamp", column_name, value) values
               (%(s)s, '2024-01-01', 'a', 1), (%(s)s, '2024-01-01', 'b', 'NaN'), (%(s)s, '2024-01-02', 'b', 3),
               (%(s)s, '2024-01-02', 'a', 5), (%(s)s, '2024-01-02', 'a', 6), (%(s)s, '2024-01-03', 'unlisted', 7)""",
            {"s": series},
        )
    found = servers.read(series, duplicates="all")
    index = pd.DatetimeIndex(["2024-01-01", "2024-01-02", "2024-01-02"], name="timestamp").as_unit("us").tz_localize("UTC")
    assert_frame_equal(found, pd.DataFrame({"a": [1.0, 5.0, 6.0], "b": [np.nan, 3.0, np.nan]}, index=index))
    servers.query(
        """insert into time_series_data_points (time_series_id, "timestamp", column_name, value)
           values (%s, 'infinity', 'a', 1) returning id""",
        series,
    )
    with pytest.raises(ValueError, match="has a point with an infinite time"):
        servers.read(series)
    assert len(servers.read(series, end="2025-01-01")) == 2
    # It would be in the way of other tests.
    servers.query("delete from time_series_metadata where id = %s returning id", series)


def test_reading_goes_on_over_blocks(servers, series, monkeypatch):
    monkeypatch.setattr("series_ingest.reader._BLOCK_POINTS", 7)
    index = pd.date_range("2024-01-01", periods=50, freq="min", name="t").repeat(2)
    df = pd.DataFrame(np.arange(300.0).reshape(100, 3), columns=list("abc"), index=index)
    published = servers.publish(df, series, duplicates="all")
    servers.until_stored(published)
    assert_frame_equal(servers.read(series, duplicates="all"), published.frame)
    assert_frame_equal(servers.read(series), published.frame.iloc[1::2])


def test_a_database_that_is_not_there_is_an_error_of_psycopg(monkeypatch):
    with pytest.raises(psycopg.OperationalError):
        series_ingest.read("s", "postgresql://127.0.0.1:1/none?connect_timeout=2")
    monkeypatch.delenv("DATABASE_URL", raising=False)
    with pytest.raises(ValueError, match="dsn is missing"):
        series_ingest.read("s")


def test_the_schema_can_be_named(servers, series):
    published = servers.publish(pd.DataFrame({"a": [1]}, index=pd.DatetimeIndex(["2024-01-01"])), series)
    servers.until_stored(published)
    assert_frame_equal(servers.read(series, schema="public"), published.frame)
    with pytest.raises(psycopg.errors.UndefinedTable):
        servers.read(series, schema='no "such"')


@pytest.mark.parametrize(
    ("dsn", "expected"),
    [
        ("postgresql://u:p@h:1/d", "postgresql://u:p@h:1/d"),
        ("postgresql+asyncpg://u:p%40@h:1/d", "postgresql://u:p%40@h:1/d"),
        ("postgresql+psycopg2://h/d?sslmode=disable", "postgresql://h/d?sslmode=disable"),
        ("postgresql+asyncpg://h/d?ssl=require&application_name=a%20b", "postgresql://h/d?sslmode=require&application_name=a%20b"),
        ("postgresql+asyncpg://h/d?ssl=true", "postgresql://h/d?sslmode=require"),
        ("postgres://h/d", "postgres://h/d"),
        ("host=h dbname=d", "host=h dbname=d"),
    ],
)
def test_urls_of_sqlalchemy_are_accepted(dsn, expected):
    assert libpq_url(dsn) == expected
