"""A frame that is published, written by the worker and exported is the same frame for all who read the file."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import polars
import pyarrow.ipc
import pytest
from pandas.testing import assert_frame_equal

Export = Callable[..., Path]


@pytest.fixture
def run(servers) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs the program's `points export` on the tests' database."""
    program = os.environ["SERIES_INGEST_PROGRAM"]

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {"DATABASE_URL": servers.url, "PATH": os.environ.get("PATH", "")}
        command = [program, "points", "export", *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)

    return run


@pytest.fixture
def export(run, tmp_path) -> Export:
    """Exports a series into a file of this name."""

    def export(series: str, *arguments: str, name: str = "f.parquet") -> Path:
        done = run(series, "--out", str(tmp_path / name), "--overwrite", *arguments)
        assert done.returncode == 0, done.stderr
        return tmp_path / name

    return export


def frame() -> pd.DataFrame:
    """Over the end of daylight saving time in Berlin, where an hour comes twice."""
    index = pd.date_range("2024-10-26 22:00", periods=8, freq="h", tz="UTC").tz_convert("Europe/Berlin").rename("local time")
    return pd.DataFrame(
        {
            "float": [0.1, -0.0, np.nan, np.inf, -np.inf, 5e-324, 1.7976931348623157e308, 1e23],
            "int": [1, -2, 3, 2**53, -(2**53), 0, 7, 8],
            "Int64": pd.array([1, None, 3, 4, 5, 6, None, 8], dtype="Int64"),
            'a "name", with\nall': np.array([0.1, 1e38, np.nan, np.inf, -np.inf, 1e-45, 0, -0.0], dtype="float32"),
            "bool": [True, False] * 4,
            "missing": [np.nan] * 8,
        },
        index=index,
    )


def assert_same(found: pd.DataFrame, expected: pd.DataFrame) -> None:
    assert_frame_equal(found, expected, check_exact=True)
    signs = np.signbit(found.to_numpy()) == np.signbit(expected.to_numpy())
    assert (signs | found.isna().to_numpy()).all(), "-0.0 stays"


def test_pandas_reads_the_frame_that_was_published(servers, series, export):
    df = frame()
    published = servers.publish(df, series)
    servers.until_stored(published)
    found = pd.read_parquet(export(series))
    assert_same(found, published.frame)
    assert (found.index == df.index).all() and found.index.name == "local time"
    with pyarrow.ipc.open_file(export(series, name="f.arrow")) as file:
        arrow = file.read_pandas()
    assert_same(arrow.set_index("local time") if "local time" in arrow else arrow, published.frame)
    text = pd.read_csv(export(series, name="f.csv.gz"), index_col=0, parse_dates=[0])
    assert list(text.columns) == list(df.columns)
    assert (text.index == df.index).all()
    assert np.allclose(text["float"].dropna(), published.frame["float"].dropna(), rtol=1e-15, atol=0)


def test_duckdb_and_polars_read_the_same_file(servers, series, export):
    published = servers.publish(frame(), series)
    servers.until_stored(published)
    path = export(series)
    expected = published.frame
    table = polars.read_parquet(path)
    assert table.columns == ["local time", *expected.columns]
    assert table.schema["local time"] == polars.Datetime("us", "UTC")
    times = expected.index.as_unit("us").asi8.tolist()
    assert table["local time"].dt.timestamp("us").to_list() == times
    connection = duckdb.connect()
    rows = connection.execute(f"select epoch_us(\"local time\") as us, * from '{path}' order by us").fetchall()
    assert [row[0] for row in rows] == times
    for at, column in enumerate(expected.columns):
        values = [None if np.isnan(value) else value for value in expected[column].tolist()]
        assert table[column].to_list() == values, "null is null, and not NaN"
        assert [row[at + 2] for row in rows] == values


def test_ten_thousand_columns_are_one_file(servers, series, export):
    columns = [f"column {number}" for number in range(10_000)]
    values = np.random.default_rng(1).normal(size=(3, len(columns)))
    df = pd.DataFrame(values, index=pd.date_range("2024-01-01", periods=3, name="day"), columns=columns)
    published = servers.publish(df, series)
    servers.until_stored(published)
    assert_same(pd.read_parquet(export(series)), published.frame)


def test_an_empty_series_is_a_frame_with_its_columns(servers, series, export):
    df = pd.DataFrame({"b": np.array([], dtype=float), "a": np.array([], dtype=float)}, index=pd.DatetimeIndex([], name="when"))
    published = servers.publish(df, series)
    servers.until_stored(published)
    assert_frame_equal(pd.read_parquet(export(series)), published.frame)


def test_of_duplicates_the_policy_chooses(servers, series, run, export):
    index = pd.date_range("2024-01-01", periods=4, freq="D", name="day")
    first = servers.publish(pd.DataFrame({"v": [1.0, 2.0, 3.0, 4.0]}, index=index), series)
    servers.until_stored(first)
    second = servers.publish(pd.DataFrame({"v": [10.0, 20.0]}, index=index[1:3]), series)
    servers.until_stored(second, points=6)
    assert pd.read_parquet(export(series, "--duplicates", "last"))["v"].tolist() == [1, 10, 20, 4]
    assert pd.read_parquet(export(series))["v"].tolist() == [1, 10, 20, 4]
    assert pd.read_parquet(export(series, "--duplicates", "first"))["v"].tolist() == [1, 2, 3, 4]
    rows = pd.read_parquet(export(series, "--duplicates", "all", "--long"))
    assert rows["value"].tolist() == [1, 2, 10, 3, 20, 4] and set(rows["series"]) == {series}
    failed = run(series, "--duplicates", "fail", "--out", "-", "--format", "csv")
    assert failed.returncode == 65 and "2 points of the column" in failed.stderr
