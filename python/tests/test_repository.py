"""The repository, alongside the analyzer's own class through SQLAlchemy on the same tables."""

from __future__ import annotations

import asyncio
import importlib.util
import sys

import numpy as np
import pandas as pd
import psycopg
import pytest
from conftest import ROOT, until
from pandas.testing import assert_frame_equal
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine

from series_ingest import TimeSeries, TimeSeriesRepository

_spec = importlib.util.spec_from_file_location("its_analyzer", ROOT / "tests" / "analyzer" / "analyzer.py")
assert _spec is not None and _spec.loader is not None
analyzer = importlib.util.module_from_spec(_spec)
sys.modules["its_analyzer"] = analyzer
_spec.loader.exec_module(analyzer)

FIELDS = ("id", "time_column", "value_columns", "name", "description")


def wide(rows: int, first: str = "2024-01-01", **columns) -> pd.DataFrame:
    times = pd.date_range(first, periods=rows, freq="min", tz="UTC", unit="us")
    return pd.DataFrame({"when": times, **columns})


def assert_same(found, expected, **how) -> None:
    assert found is not None
    assert [getattr(found, field) for field in FIELDS] == [getattr(expected, field) for field in FIELDS]
    assert_frame_equal(found.data, expected.data, check_freq=False, **how)


@pytest.fixture
def repository(servers) -> TimeSeriesRepository:
    # As the analyzer's settings have it.
    return TimeSeriesRepository(servers.url.replace("postgresql://", "postgresql+asyncpg://", 1))


def by_sqlalchemy(servers, use):
    """Uses the analyzer's own repository."""

    async def run():
        engine = create_async_engine(servers.url.replace("postgresql://", "postgresql+asyncpg://", 1))
        try:
            return await use(analyzer.TimeSeriesRepository(async_sessionmaker(engine, expire_on_commit=False)))
        finally:
            await engine.dispose()

    return asyncio.run(run())


def test_a_series_is_saved_found_replaced_and_deleted(servers, series, repository):
    async def use() -> None:
        first = TimeSeries(series, wide(3, y=[1.0, 2.5, np.nan], x=[np.nan, 0.0, -1.0]), "when", ["y", "x"])
        assert not await repository.exists(series) and await repository.find_by_id(series) is None
        await repository.save(first)
        assert await repository.exists(series)
        assert_same(await repository.find_by_id(series), first)
        second = TimeSeries(series, wide(2000, z=np.arange(2000.0)), "when", ["z"], "Own", "described", {"site": "a"})
        await repository.save(second)
        found = await repository.find_by_id(series)
        assert_same(found, second)
        assert found.labels == {"site": "a"}
        points = "select count(*) from time_series_data_points where time_series_id = %s"
        assert servers.query(points, series) == [(2000,)], "those of the first are deleted"
        assert series in {one.id for one in await repository.find_all()}
        assert await repository.delete(series) and not await repository.delete(series)
        assert not await repository.exists(series) and await repository.find_by_id(series) is None

    asyncio.run(use())
    assert servers.query("select count(*) from time_series_data_points where time_series_id = %s", series) == [(0,)]


def test_both_classes_find_what_the_other_has_saved(servers, series, repository):
    data = wide(500, y=np.random.default_rng(1).normal(size=500), x=[np.nan, *range(499)])
    ours = TimeSeries(series, data, "when", ["y", "x"], "Ours")
    asyncio.run(repository.save(ours))
    found = by_sqlalchemy(servers, lambda its: its.find_by_id(series))
    assert_same(found, ours, check_dtype=False)
    assert by_sqlalchemy(servers, lambda its: its.exists(series))

    theirs = analyzer.TimeSeries(series, data.assign(z=1.0), "when", ["z", "y"], None, "theirs")
    by_sqlalchemy(servers, lambda its: its.save(theirs))
    found = asyncio.run(repository.find_by_id(series))
    theirs.data = theirs.data[["when", "z", "y"]]
    assert_same(found, theirs)
    # The analyzer's own object is saved, too.
    theirs.name = "saved by ours"
    asyncio.run(repository.save(theirs))
    assert_same(by_sqlalchemy(servers, lambda its: its.find_by_id(series)), theirs, check_dtype=False)

    assert by_sqlalchemy(servers, lambda its: its.delete(series))
    assert not asyncio.run(repository.exists(series))


def test_all_series_are_found_in_the_order_of_their_creation(servers, series, repository):
    async def use() -> list[str]:
        for number in range(3):
            await repository.save(TimeSeries(f"{series}-{number}", wide(2, v=[number, number]), "when", ["v"]))
        return [one.id for one in await repository.find_all() if one.id.startswith(f"{series}-")]

    assert asyncio.run(use()) == [f"{series}-{number}" for number in range(3)]


def test_a_series_is_saved_by_the_worker(servers, series):
    repository = TimeSeriesRepository(servers.url, servers.brokers, **servers.topics)
    saved = TimeSeries(series, wide(100, b=np.arange(100.0), a=[True] * 100), "when", ["b", "a"], "Name", "text", {"n": 1})

    async def use() -> None:
        await repository.save(saved)

    asyncio.run(use())
    points = "select count(*) from time_series_data_points where time_series_id = %s"
    until("the points are there", lambda: servers.query(points, series) == [(200,)])
    named = "select 1 from time_series_metadata where id = %s and name is not null"
    until("the definition is there", lambda: servers.query(named, series))
    found = asyncio.run(repository.find_by_id(series))
    assert_same(found, saved, check_dtype=False)
    assert found.labels == {"n": 1}
    assert asyncio.run(repository.delete(series))


def test_a_series_that_cannot_be_saved_changes_nothing(servers, series, repository):
    async def use() -> None:
        saved = TimeSeries(series, wide(2, v=[1.0, 2.0]), "when", ["v"])
        await repository.save(saved)
        for broken, error in (
            (TimeSeries(series, wide(2, v=["x", "y"]), "when", ["v"]), TypeError),
            (TimeSeries(series, wide(2, v=[1, 2**53 + 1]), "when", ["v"]), ValueError),
            (TimeSeries(series, wide(2, v=[1, 2]), "other", ["v"]), ValueError),
            (TimeSeries(series, wide(2, v=[1, 2]), "when", ["v"], name="\0"), ValueError),
            (TimeSeries(series, wide(2, v=[1, 2]), "when", ["v"], labels={"a": None}), TypeError),
            (TimeSeries("", wide(2, v=[1, 2]), "when", ["v"]), ValueError),
        ):
            with pytest.raises(error):
                await repository.save(broken)
        assert_same(await repository.find_by_id(series), saved)
        # The server refuses it after the old points are deleted: they are there again.
        with psycopg.connect(servers.url, autocommit=True) as connection:
            connection.execute("alter table time_series_data_points add constraint no_42 check (value <> 42) not valid")
            try:
                with pytest.raises(psycopg.errors.CheckViolation):
                    await repository.save(TimeSeries(series, wide(2, v=[1, 42]), "when", ["v"], "Changed"))
            finally:
                connection.execute("alter table time_series_data_points drop constraint no_42")
        assert_same(await repository.find_by_id(series), saved)

    asyncio.run(use())


def test_duplicates_are_saved_and_the_last_one_is_found(series, repository):
    data = wide(1, v=[1.0])
    both = pd.concat([data, data.assign(v=np.nan), data.assign(v=3.0)], ignore_index=True)
    asyncio.run(repository.save(TimeSeries(series, both, "when", ["v"])))
    found = asyncio.run(repository.find_by_id(series))
    assert found is not None and found.data["v"].tolist() == [3.0]


def test_calls_run_side_by_side(series, repository):
    async def use() -> None:
        every = [TimeSeries(f"{series}-{number}", wide(50, v=range(50)), "when", ["v"]) for number in range(8)]
        await asyncio.gather(*(repository.save(one) for one in every))
        found = await asyncio.gather(*(repository.find_by_id(one.id) for one in every))
        for one, saved in zip(found, every):
            assert_same(one, saved, check_dtype=False)

    asyncio.run(use())
