"""What is published is acknowledged, or raises an error that says what is not."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator

import numpy as np
import pandas as pd
import pytest
from conftest import Servers, messages_of, until
from proxy import Proxy

import series_ingest
from series_ingest import PublishError


def frame(rows: int, columns: int = 1) -> pd.DataFrame:
    values = np.random.default_rng(rows).normal(size=(rows, columns))
    index = pd.date_range("2024-01-01", periods=rows, freq="s", tz="UTC", name="when")
    return pd.DataFrame(values, index=index, columns=[f"c{number}" for number in range(columns)])


@pytest.fixture
def proxy(servers: Servers) -> Iterator[Proxy]:
    proxy = Proxy(servers.brokers)
    yield proxy
    proxy.close()


def rows_in(servers: Servers, topic: str) -> list[int]:
    """The times of all messages of a topic."""
    return [time for payload in messages_of(servers, topic) for time in json.loads(payload)["timestamps"]]


def test_a_series_is_published_with_its_definition(servers, series, topic):
    series_topic, points_topic = topic(), topic()
    progress: list[tuple[int, int]] = []
    published = series_ingest.publish(
        frame(10, 2),
        series,
        servers.brokers,
        name='A "name"',
        description="line\nline",
        labels={"site": "a", "floor": 3},
        series_topic=series_topic,
        points_topic=points_topic,
        progress=lambda done, total: progress.append((done, total)),
    )
    assert (published.messages, published.points, published.series) == (2, 20, series)
    (definition,) = map(json.loads, messages_of(servers, series_topic))
    assert definition == {
        "type": "series-create",
        "id": series,
        "name": 'A "name"',
        "description": "line\nline",
        "time_column": "when",
        "value_columns": ["c0", "c1"],
        "labels": {"site": "a", "floor": 3},
    }
    assert len(rows_in(servers, points_topic)) == 10 and progress[-1] == (10, 10)


def test_without_a_definition_only_points_are_published(servers, series, topic):
    series_topic, points_topic = topic(), topic()
    topics = {"series_topic": series_topic, "points_topic": points_topic}
    assert series_ingest.publish(frame(3), series, servers.brokers, define=False, **topics).messages == 1
    assert not messages_of(servers, series_topic) and len(rows_in(servers, points_topic)) == 3
    # And of a frame without rows only the definition.
    assert series_ingest.publish(frame(0), series, servers.brokers, **topics).messages == 1
    assert len(messages_of(servers, series_topic)) == 1 and len(rows_in(servers, points_topic)) == 3


def test_a_full_queue_waits(servers, series, topic):
    points_topic = topic()
    published = series_ingest.publish(
        frame(5000),
        series,
        servers.brokers,
        define=False,
        points_topic=points_topic,
        properties={"queue.buffering.max.messages": 2, "linger.ms": 0},
        max_message_points=50,
    )
    assert published.messages == 100
    assert rows_in(servers, points_topic) == (published.frame.index.asi8).tolist()


def test_a_broker_that_is_not_there_raises_an_error_and_publishes_nothing(series):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = "127.0.0.1:%d" % listener.getsockname()[1]
    with pytest.raises(PublishError, match="0 of 10 rows are acknowledged, 0 are uncertain, 10 are not published") as error:
        series_ingest.publish(frame(10), series, address, timeout=2)
    assert error.value.is_unreachable and "no broker answered within 2 s" in error.value.reason
    assert (error.value.acknowledged_rows, error.value.uncertain_rows, error.value.unsent_rows) == (0, 0, 10)


def test_a_broker_that_does_not_answer_raises_an_error(series):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        with pytest.raises(PublishError, match="no broker answered within 2 s") as error:
            series_ingest.publish(frame(10), series, "127.0.0.1:%d" % silent.getsockname()[1], timeout=2)
    assert error.value.is_unreachable


def test_a_topic_that_is_not_there_raises_an_error_or_is_created(servers, series):
    name = f"{servers.points_topic}.missing"
    try:
        series_ingest.publish(frame(3), series, servers.brokers, define=False, points_topic=name, timeout=2)
    except PublishError as error:
        assert name in error.reason and error.unsent_rows == 3 and not error.is_unreachable
    else:
        assert len(rows_in(servers, name)) == 3, "this broker creates topics"


@pytest.mark.parametrize("how", ["cut", "freeze"])
def test_a_broker_that_goes_away_raises_an_error_with_exact_numbers(how, servers, series, topic, proxy):
    points_topic = topic()

    def break_after(done: int, total: int) -> None:
        getattr(proxy, how)()

    df = frame(20_000)
    with pytest.raises(PublishError, match="nothing was acknowledged for 6 s") as raised:
        series_ingest.publish(
            df,
            series,
            proxy.address,
            define=False,
            points_topic=points_topic,
            timeout=6,
            progress=break_after,
            max_message_points=100,
            # Several requests, one after the other.
            properties={"linger.ms": 0, "batch.num.messages": 3, "max.in.flight": 1},
        )
    error = raised.value
    assert error.acknowledged_rows + error.uncertain_rows + error.unsent_rows == len(df)
    assert error.acknowledged_rows > 0 and error.unsent_rows > 0 and not error.is_unreachable
    proxy.cut()
    there = rows_in(servers, points_topic)
    assert len(there) == len(set(there)), "there are no duplicates"
    # What is acknowledged is there, and what is not published is not.
    assert error.acknowledged_rows <= len(there) <= error.acknowledged_rows + error.uncertain_rows
    assert there == df.index.as_unit("us").asi8[: len(there)].tolist()
    # In five requests of three messages at most.
    assert error.uncertain_rows <= 1500
    if how == "freeze":
        assert error.uncertain_rows > 0 and len(there) > error.acknowledged_rows, "the broker has what it could not confirm"


def test_a_broker_that_comes_back_gets_each_row_once(servers, series, topic, proxy):
    points_topic = topic()
    cuts: list[int] = []

    def cut_twice(done: int, total: int) -> None:
        if len(cuts) < 2:
            cuts.append(done)
            proxy.cut()
            threading.Timer(0.5, proxy.restore).start()

    published = series_ingest.publish(
        frame(20_000),
        series,
        proxy.address,
        define=False,
        points_topic=points_topic,
        progress=cut_twice,
        max_message_points=100,
        properties={"linger.ms": 0, "batch.num.messages": 3, "reconnect.backoff.max.ms": 500},
    )
    assert len(cuts) == 2 and published.messages == 200
    assert rows_in(servers, points_topic) == published.frame.index.asi8.tolist()


def test_a_message_that_the_broker_refuses_raises_an_error(servers, series, topic):
    points_topic = topic(**{"max.message.bytes": "2000"})
    df = frame(3000)
    arguments = {"define": False, "points_topic": points_topic, "properties": {"compression.type": "none", "linger.ms": 0}}
    with pytest.raises(PublishError, match="larger|too large|size") as raised:
        series_ingest.publish(df, series, servers.brokers, max_message_points=1000, **arguments)
    assert raised.value.acknowledged_rows == 0 and raised.value.uncertain_rows + raised.value.unsent_rows == 3000
    assert not rows_in(servers, points_topic)
    series_ingest.publish(df, series, servers.brokers, max_message_points=20, **{**arguments, "properties": {"batch.num.messages": 1}})
    assert len(rows_in(servers, points_topic)) == 3000


def test_rows_of_a_wide_frame_are_certain_only_with_all_of_their_columns(servers, series, topic):
    points_topic = topic(**{"max.message.bytes": "20000"})
    df = frame(10, 300)
    # The second half of the columns has long names: its message is too large, and that of the first half is not.
    df.columns = [f"{number:03}" if number < 150 else f"{number:03}" + "x" * 200 for number in range(300)]
    with pytest.raises(PublishError) as raised:
        series_ingest.publish(
            df,
            series,
            servers.brokers,
            define=False,
            points_topic=points_topic,
            max_message_points=160,
            properties={"compression.type": "none", "batch.num.messages": 1, "linger.ms": 0, "queue.buffering.max.messages": 1},
        )
    there = messages_of(servers, points_topic)
    assert there, "messages of the first columns are there"
    assert raised.value.acknowledged_rows == 0 and raised.value.uncertain_rows >= 1
    assert raised.value.uncertain_rows + raised.value.unsent_rows == 10


def test_an_interrupt_says_what_is_published(servers, series, topic):
    points_topic = topic()

    def interrupt(done: int, total: int) -> None:
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt, match=r"\d+ of 20000 rows are acknowledged, .*: interrupted"):
        series_ingest.publish(
            frame(20_000),
            series,
            servers.brokers,
            define=False,
            points_topic=points_topic,
            progress=interrupt,
            max_message_points=100,
            properties={"linger.ms": 0, "batch.num.messages": 3},
        )
    there = rows_in(servers, points_topic)
    assert 0 < len(there) < 20_000 and len(there) == len(set(there))


def test_a_process_that_is_interrupted_while_the_broker_is_silent_ends_at_once(servers, series, topic, proxy):
    program = f"""if True:
        import pandas as pd, series_ingest
        df = pd.DataFrame({{"a": range(1000)}}, index=pd.date_range("2024", periods=1000))
        series_ingest.publish(df, {series!r}, {proxy.address!r}, define=False, points_topic={topic()!r}, timeout=600,
            max_message_points=10, properties={{"linger.ms": 0, "batch.num.messages": 1}}, progress=lambda *_: print("on its way", flush=True))
    """
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "on its way\n"
    proxy.freeze()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode not in (0, None) and "KeyboardInterrupt: series" in errors, errors


def test_properties_that_the_guarantee_rests_on_are_refused(series, monkeypatch):
    for key in ("enable.idempotence", "acks", "message.timeout.ms", "transactional.id", "on_delivery", "bootstrap.servers"):
        with pytest.raises(ValueError, match=f"properties: {key} cannot be set"):
            series_ingest.publish(frame(1), series, "127.0.0.1:1", properties={key: False})
    with pytest.raises(ValueError, match="properties: No such configuration property"):
        series_ingest.publish(frame(1), series, "127.0.0.1:1", properties={"no.such": 1})
    monkeypatch.delenv("KAFKA_BROKERS", raising=False)
    with pytest.raises(ValueError, match="brokers is missing"):
        series_ingest.publish(frame(1), series)


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"series": ""}, ValueError, "the series '' has 0 bytes"),
        ({"series": 1}, TypeError, "the series 1 is of type int"),
        ({"series": "a\0"}, ValueError, r"contains U\+0000"),
        ({"name": "a\0"}, ValueError, r"the name 'a\\x00' contains U\+0000"),
        ({"description": 1}, TypeError, "the description 1 is of type int"),
        ({"timeout": 0}, ValueError, "timeout=0"),
        ({"max_message_bytes": 1}, ValueError, "max_message_bytes=1: expected at least 32768"),
        ({"max_message_points": 0}, ValueError, "max_message_points=0"),
        ({"define": False, "labels": {}}, ValueError, "name, description and labels are part of the definition"),
        ({"labels": {"a": None}}, TypeError, "the label 'a' is of type NoneType"),
        ({"description": "x" * 1_000_000}, ValueError, "the definition has 10000.. bytes"),
        ({"time_unit": "min"}, ValueError, "time_unit='min': expected one of s, ms, us, ns"),
    ],
)
def test_arguments_are_checked_before_anything_is_published(arguments, error, said):
    with pytest.raises(error, match=said):
        series_ingest.publish(frame(1), **{"series": "s", "brokers": "127.0.0.1:1", **arguments})


def test_a_million_rows_are_published_with_bounded_memory(servers, topic):
    """In its own process, whose memory at its highest is compared with that after the frame was made."""
    points_topic = topic()
    program = f"""if True:
        import resource, numpy as np, pandas as pd, series_ingest
        from series_ingest.frames import normalise
        df = pd.DataFrame({{"a": np.random.default_rng(1).normal(size=1_000_000)}}, index=pd.date_range("2024", periods=1_000_000, freq="s"))
        normalise(df).frame()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        published = series_ingest.publish(df, "million", {servers.brokers!r}, define=False, points_topic={points_topic!r})
        assert published.points == 1_000_000
        print(published.messages, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
    """
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=os.environ, check=False)
    assert said.returncode == 0, said.stderr
    messages, mib = map(int, said.stdout.split())
    # The queue has 64 MiB; all messages together have more than 34 MB.
    assert mib < 120, f"{mib} MiB"
    assert len(messages_of(servers, points_topic)) == messages
    until("the topic has all rows", lambda: len(rows_in(servers, points_topic)) == 1_000_000)
