"""Reading from a streaming standby, which the environment names; tests/integration/replicas.rs has one."""

from __future__ import annotations

import asyncio
import os
import threading
from typing import Any

import pandas as pd
import pytest
from conftest import Servers, until

import series_ingest
from series_ingest import NotFresh, TimeSeries, TimeSeriesRepository


@pytest.fixture
def standby(servers: Servers) -> str:
    url = os.environ.get("STANDBY_URL", "")
    if not url:
        pytest.skip("no standby: tests/integration/replicas.rs has one")
    return url


def ask(url: str, sql: str) -> Any:
    import psycopg

    with psycopg.connect(url, autocommit=True) as connection:
        return connection.execute(sql.encode()).fetchone()


@pytest.fixture
def paused(standby: str):
    """Nothing that is written is applied by the standby until it goes on."""
    ask(standby, "select pg_wal_replay_pause()")
    until("the standby is paused", lambda: ask(standby, "select pg_get_wal_replay_pause_state()")[0] == "paused")
    yield lambda: ask(standby, "select pg_wal_replay_resume()")
    ask(standby, "select pg_wal_replay_resume()")


def frame(value: float) -> pd.DataFrame:
    index = pd.date_range("2024-01-01", periods=3, tz="UTC", name="time")
    return pd.DataFrame({"v": [value, value + 1, value + 2]}, index=index)


def test_what_was_published_is_read_from_the_standby(servers, standby, series):
    for number in range(5):
        published = servers.publish(frame(number), f"{series}-{number}")
        found = series_ingest.read(published.series, standby, fresh_as_of=published)
        pd.testing.assert_frame_equal(found, published.frame)


def test_a_standby_that_lags_is_given_up(servers, standby, paused, series):
    published = servers.publish(frame(1.0), series)
    servers.until_stored(published)
    with pytest.raises(NotFresh, match="lacks the message") as caught:
        series_ingest.read(series, standby, fresh_as_of=published, fresh_within=0.5)
    assert (caught.value.topic, caught.value.partition) in published.offsets
    assert len(servers.read(series, fresh_as_of=published.offsets)) == 3, "the primary has it"
    paused()
    assert len(series_ingest.read(series, standby, fresh_as_of=published)) == 3


def test_the_next_host_is_read_if_the_first_is_gone(servers, standby, series):
    published = servers.publish(frame(1.0), series)
    both = f"{standby.replace('@', '@127.0.0.1:1,')}?connect_timeout=2"
    assert len(series_ingest.read(series, both, fresh_as_of=published)) == 3


def test_a_repository_finds_what_it_has_saved(servers, standby, series):
    repository = TimeSeriesRepository(
        servers.url, servers.brokers, read_dsn=standby, fresh_within=30.0, **servers.topics
    )
    data = frame(1.0).reset_index()
    asyncio.run(repository.save(TimeSeries(series, data, "time", ["v"])))
    assert asyncio.run(repository.exists(series))
    found = asyncio.run(repository.find_by_id(series))
    assert found is not None and found.data["v"].tolist() == [1.0, 2.0, 3.0]
    assert asyncio.run(repository.delete(series)), "changes go to the primary"


def test_a_read_that_the_standby_interrupts_is_repeated(servers, standby, series):
    """Rows that the standby's reads still see are removed by VACUUM, which the standby applies at once."""
    index = pd.date_range("2024-01-01", periods=20_000, freq="s", tz="UTC", name="time")
    many = pd.DataFrame({f"c{number}": 1.0 * number for number in range(4)}, index=index)
    published = servers.publish(many, series)
    servers.until_stored(published)
    name = f"junk_{os.getpid()}"
    servers.query_only(f"create table {name} as select 1 as a")
    interrupted = "select sum(confl_snapshot) from pg_stat_database_conflicts"
    before = ask(standby, interrupted)[0]
    ended = threading.Event()

    def vacuum() -> None:
        while not ended.is_set() and ask(standby, interrupted)[0] == before:
            servers.query_only(f"update {name} set a = a + 1")
            servers.query_only(f"vacuum {name}")

    thread = threading.Thread(target=vacuum)
    thread.start()
    try:
        for _ in range(200):
            read = series_ingest.read(series, standby, fresh_as_of=published)
            pd.testing.assert_frame_equal(read, published.frame)
            if ask(standby, interrupted)[0] > before:
                break
        else:
            raise AssertionError("no read was interrupted")
    finally:
        ended.set()
        thread.join()
