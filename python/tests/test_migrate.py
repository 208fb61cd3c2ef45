"""The command that moves a pickle of series."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pandas.testing import assert_frame_equal
from test_stores import FIELDS, FRAME, STORES, Plain, expected, store_of

from series_ingest import files, migrate
from series_ingest.frames import normalise

NAMES = ["zone", "numbers", "nullable", "objects", "small", "strings", "empty", "columns", "chosen"]


@pytest.mark.parametrize("path", STORES, ids=lambda path: path.stem)
@pytest.mark.parametrize("form", ["parquet", "csv"])
def test_a_store_is_written_to_files(path: Path, form: str, tmp_path: Path, capsys):
    assert migrate.main([str(path), "--out", str(tmp_path), "--format", form]) == migrate.OK
    names = [*NAMES, *(["arrow"] if "pandas-3" in path.name else [])]
    assert f"{len(names)} of {len(names)} series were moved" in capsys.readouterr().out
    for name in names:
        if form == "parquet":
            import pyarrow.parquet as pq

            frame = pd.read_parquet(tmp_path / f"{name}.parquet")
            metadata = pq.read_schema(tmp_path / f"{name}.parquet").metadata
            [defined] = json.loads(metadata[files.DEFINITION_KEY.encode()])
        else:
            # Before pandas 3 the default is faster, and not exact.
            exact = {"float_precision": "round_trip"} if pd.__version__ < "3" else {}
            frame = pd.read_csv(tmp_path / f"{name}.csv", index_col="when", **exact)
            frame.index = pd.DatetimeIndex(pd.to_datetime(frame.index, utc=True, format="ISO8601")).as_unit("us").tz_convert("UTC")
            frame.index.name = "when"
            frame = frame.astype(float)
            [defined] = json.loads((tmp_path / f"{name}.csv.series.json").read_text())
        assert_frame_equal(frame, expected(name), check_exact=True, check_index_type=form == "parquet")
        assert (defined["id"], defined["time_column"], defined["value_columns"]) == (name, "when", list(expected(name).columns))
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize("path", [STORES[0], STORES[7], STORES[11]], ids=lambda path: path.stem)
def test_a_store_is_published(path: Path, servers, series, tmp_path: Path, capsys):
    store = {}
    for name in NAMES:
        frame = expected(name).reset_index()
        store[f"{series}-{name}"] = frame
    arguments = ["--brokers", servers.brokers, "--series-topic", servers.series_topic, "--points-topic", servers.points_topic]
    # Its ids are those of all versions: what an earlier one has stored is deleted first.
    for name in [*NAMES, "arrow"]:
        servers.query("delete from time_series_metadata where id = %s returning id", name)
    assert migrate.main([str(path), *arguments]) == migrate.OK
    assert "series were moved" in capsys.readouterr().out
    deadline = time.monotonic() + 60
    for name in NAMES:
        while True:
            try:
                found = servers.read(name)
                if len(found) == len(expected(name)):
                    assert_frame_equal(found, expected(name), check_exact=True)
                    break
            except (KeyError, AssertionError):
                if time.monotonic() > deadline:
                    raise
            assert time.monotonic() < deadline, name
            time.sleep(0.05)


def test_a_series_that_fails_is_reported_and_the_others_are_moved(tmp_path: Path, capsys):
    good = store_of(Plain, 4, **FIELDS)
    fields = [
        FIELDS,
        {**FIELDS, "id": "text", "data": FRAME.assign(v=["x", "y"])},
        {**FIELDS, "id": "other", "time_column": "other"},
        {**FIELDS, "id": "last"},
    ]
    assert good
    import types

    module = types.ModuleType("a_program")
    module.TimeSeries = Plain
    Plain.__module__, Plain.__qualname__, Plain.__name__ = "a_program", "TimeSeries", "TimeSeries"
    sys.modules["a_program"] = module
    try:
        data = pickle.dumps({one["id"]: Plain(**one) for one in fields})
    finally:
        del sys.modules["a_program"]
    path = tmp_path / "storage.pkl"
    path.write_bytes(data)
    assert migrate.main([str(path), "--out", str(tmp_path / "out"), "--format", "csv"]) == migrate.SOME_FAILED
    said = capsys.readouterr()
    assert "[2/4] 'text' FAILED: row 0, column 'v': 'x' is of type" in said.err
    assert "[3/4] 'other' FAILED: the frame has no column 'other'" in said.err
    assert "2 of 4 series were moved" in said.out
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == [
        "last.csv",
        "last.csv.series.json",
        "s.csv",
        "s.csv.series.json",
    ]
    assert migrate.main([str(path), "--out", str(tmp_path / "some"), "--series", "s", "--series", "last"]) == migrate.OK
    assert migrate.main([str(path), "--dry-run", "--series", "nobody"]) == migrate.USAGE


def test_a_dry_run_lists_and_writes_nothing(tmp_path: Path, capsys):
    assert migrate.main([str(STORES[0]), "--dry-run"]) == migrate.OK
    said = capsys.readouterr().out
    assert "[1/9] 'zone': 3 rows, 2 columns, 2024-10-25T22:00:00+00:00 to 2024-10-27T23:00:00+00:00" in said
    assert "9 of 9 series can be moved" in said and not list(tmp_path.iterdir())


def test_exit_codes(tmp_path: Path, capsys):
    for arguments, code in (
        ([str(tmp_path / "missing"), "--dry-run"], migrate.NO_INPUT),
        ([str(STORES[0]), "--brokers", "127.0.0.1:1", "--timeout", "1"], migrate.UNAVAILABLE),
        ([str(STORES[0]), "--out", str(STORES[0])], migrate.USAGE),
    ):
        assert migrate.main(arguments) == code, capsys.readouterr().err
    for arguments in ([], [str(STORES[0])], [str(STORES[0]), "--dry-run", "--out", "x"], [str(STORES[0]), "--dry-run", "--property", "x"]):
        with pytest.raises(SystemExit) as stopped:
            migrate.main(arguments)
        assert stopped.value.code == migrate.USAGE
    said = subprocess.run([sys.executable, "-m", "series_ingest.migrate", "-h"], capture_output=True, text=True, check=False)
    assert said.returncode == 0 and "examples:" in said.stdout and "exit codes:" in said.stdout


def test_file_names_are_safe_and_different():
    names = ["a", "A b", "../up", ".hidden", "a/b", "a%2Fb", "é", "x" * 1024, "x" * 1023 + "y", '"', "\n", "a\\b", "", "CON:"]
    made = [files.file_name(name) for name in names]
    assert len(set(made)) == len(names)
    assert all("/" not in name and not name.startswith(".") and len(name) < 240 for name in made)


def test_a_target_that_cannot_be_written_leaves_nothing(tmp_path: Path):
    wide = normalise(pd.DataFrame({"v": np.arange(3.0)}, index=pd.date_range("2024", periods=3)))
    defined = files.definition("s", wide, None, None, None)
    (tmp_path / "s.parquet").mkdir()
    with pytest.raises(OSError):
        files.write(tmp_path, wide, defined, parquet=True)
    assert [file.name for file in tmp_path.iterdir()] == ["s.parquet"]
