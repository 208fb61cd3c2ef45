"""The servers of the tests: a broker, a database with the tables, and a worker that writes from the one into the other.

`make test` names them in the environment. Without them the tests that need them are skipped.
"""

from __future__ import annotations

import itertools
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import series_ingest
from series_ingest.producer import Published

ROOT = Path(__file__).parents[2]
_numbers = itertools.count()

# A shell starts what runs in its background with SIGINT ignored, and processes of such a process ignore it, too.
signal.signal(signal.SIGINT, signal.default_int_handler)


def until(what: str, fact: Callable[[], Any], seconds: float = 60.0) -> Any:
    """Waits until a fact holds, and fails after a deadline."""
    deadline = time.monotonic() + seconds
    while True:
        found = fact()
        if found:
            return found
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.05)


@dataclass
class Servers:
    brokers: str
    url: str
    series_topic: str
    points_topic: str

    @property
    def topics(self) -> dict[str, str]:
        return {"series_topic": self.series_topic, "points_topic": self.points_topic}

    def publish(self, df: pd.DataFrame, series: str, **arguments: Any) -> Published:
        """Publishes a frame to the worker's topics."""
        return series_ingest.publish(df, series, self.brokers, **{**self.topics, **arguments})

    def read(self, series: str, **arguments: Any) -> pd.DataFrame:
        return series_ingest.read(series, self.url, **arguments)

    def query(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        import psycopg

        with psycopg.connect(self.url, autocommit=True) as connection:
            return connection.execute(sql.encode(), parameters).fetchall()

    def query_only(self, sql: str) -> None:
        """Runs a statement that returns no rows, outside a transaction."""
        import psycopg

        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(sql.encode())

    def until_stored(self, published: Published, points: int | None = None, define: bool = True) -> None:
        """Waits until the worker has written what was published, or this number of points."""
        count = "select count(*) from time_series_data_points where time_series_id = %s"
        expected = published.points if points is None else points
        letters = "select reason, detail from ingest_dead_letter where key = %s"

        def is_stored() -> bool:
            rejected = self.query(letters, published.series.encode())
            assert not rejected, rejected
            return self.query(count, published.series)[0][0] == expected

        until(f"{expected} points of {published.series!r} are stored", is_stored)
        if define:
            defined = "select 1 from ingest_series where series_id = %s and message_time is not null"
            until(f"{published.series!r} is defined", lambda: self.query(defined, published.series))


@pytest.fixture(scope="session")
def servers() -> Servers:
    names = ("KAFKA_BROKERS", "DATABASE_URL", "SERIES_INGEST__KAFKA__SERIES_TOPIC", "SERIES_INGEST__KAFKA__POINTS_TOPIC")
    found = [os.environ.get(name, "") for name in names]
    if not all(found):
        assert os.environ.get("SERIES_INGEST_TESTS") != "required", f"these are not all set: {', '.join(names)}"
        pytest.skip("no servers: make test has them")
    return Servers(*found)


@pytest.fixture
def series() -> str:
    """An id that no other test has."""
    return f"series-{os.getpid()}-{next(_numbers)}"


@pytest.fixture
def topic(servers: Servers) -> Iterator[Callable[..., str]]:
    """Creates topics, which are deleted after the test."""
    from confluent_kafka.admin import AdminClient, NewTopic

    admin = AdminClient({"bootstrap.servers": servers.brokers})
    made: list[str] = []

    def create(**settings: str) -> str:
        name = f"{servers.points_topic}.{os.getpid()}.{next(_numbers)}"
        admin.create_topics([NewTopic(name, 1, 1, config=settings)])[name].result(30)
        made.append(name)
        return name

    yield create
    if made:
        for future in admin.delete_topics(made).values():
            future.result(30)


def messages_of(servers: Servers, topic: str) -> list[bytes]:
    """The payloads of all messages of a topic with one partition, whatever else was tried."""
    from confluent_kafka import Consumer, TopicPartition

    consumer = Consumer({"bootstrap.servers": servers.brokers, "group.id": "nobody", "enable.auto.commit": False})
    try:
        partition = TopicPartition(topic, 0)
        _, end = consumer.get_watermark_offsets(partition, timeout=30)
        consumer.assign([TopicPartition(topic, 0, 0)])
        found: list[bytes] = []

        def is_read() -> bool:
            for message in consumer.consume(1000, timeout=1.0):
                assert message.error() is None, message.error()
                found.append(message.value())
            return consumer.position([partition])[0].offset >= end if end else True

        until(f"{end} messages of {topic} are read", is_read)
        return found
    finally:
        consumer.close()
