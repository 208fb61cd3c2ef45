"""Publishing a frame: the definition of its series, then its points, each acknowledged by Kafka."""

from __future__ import annotations

import os
import queue
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
from confluent_kafka import KafkaError, KafkaException, Producer

from . import messages
from .errors import PublishError
from .frames import TIME_WINDOW, Duplicates, TimeUnit, Wide, normalise
from .names import Label, checked_labels, checked_name

# The defaults of the worker's keys kafka.series_topic and kafka.points_topic.
SERIES_TOPIC = "time-series.series"
POINTS_TOPIC = "time-series.points"

# How long one call of the client library may delay a KeyboardInterrupt, in seconds.
_POLL_S = 0.1
# How long the answers to messages that were sent are waited for before giving up, in seconds.
_ANSWER_S = 2.0
# Requests on their way to a broker at a time: at most these many with an idempotent producer.
_REQUESTS = 5
# How long a topic that is created on request may take to appear, in seconds.
_TOPIC_S = 5.0

_DEFAULTS: dict[str, Any] = {
    "enable.idempotence": True,
    "acks": "all",
    "compression.type": "zstd",
    "linger.ms": 20,
    # Bounds the memory of messages that wait; the queue is then full, and publish waits.
    "queue.buffering.max.kbytes": 65_536,
    # And the number of reports that each call goes through.
    "queue.buffering.max.messages": 1000,
    # What the library would print by itself is the reason of the PublishError.
    "log_level": 0,
    # publish has the timeout: this one would end a message that only waits for others before it.
    "message.timeout.ms": 0,
}
_FIXED = {
    "bootstrap.servers": "it is the argument brokers",
    "metadata.broker.list": "it is the argument brokers",
    "enable.idempotence": "the producer's own retries would create duplicates without it",
    "acks": "a message is published when all replicas in sync have it",
    "request.required.acks": "a message is published when all replicas in sync have it",
    "message.timeout.ms": "it is the argument timeout",
    "delivery.timeout.ms": "it is the argument timeout",
    "transactional.id": "a frame is not published in a transaction",
    "delivery.report.only.error": "each message's report is counted",
    "on_delivery": "each message's report is counted",
    "dr_cb": "each message's report is counted",
    "error_cb": "it has the reason of a PublishError",
    "logger": "a callback in Python would lose an interrupt",
}
_NO_ANSWER = {KafkaError._TRANSPORT, KafkaError._TIMED_OUT, KafkaError._ALL_BROKERS_DOWN}
# Failures after which Kafka certainly does not have the message.
_NOT_WRITTEN = {
    KafkaError._UNKNOWN_TOPIC,
    KafkaError._UNKNOWN_PARTITION,
    KafkaError.MSG_SIZE_TOO_LARGE,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.INVALID_RECORD,
}


@dataclass(frozen=True)
class Published:
    """What was published; Kafka has acknowledged all of it.

    Attributes:
        series: the series' id.
        messages: the number of messages, with that of the definition.
        points: the number of points: of rows times columns.
        frame: the frame as `read` returns it once the worker has stored it, if the series had no other points: float64
            columns, sorted by time, with a DatetimeIndex of UTC in microseconds that is named as the time column.
        offsets: the highest offset of each topic and partition: what `read` takes as `fresh_as_of`, to see all of it.
    """

    series: str
    messages: int
    points: int
    frame: pd.DataFrame = field(repr=False)
    offsets: Mapping[tuple[str, int], int] = field(default_factory=dict, repr=False)


def publish(
    df: pd.DataFrame,
    series: str,
    brokers: str | None = None,
    *,
    name: str | None = None,
    description: str | None = None,
    labels: Mapping[str, Label] | None = None,
    columns: Sequence[str] | None = None,
    time_column: str | None = None,
    time_unit: TimeUnit = "s",
    truncate_times: bool = False,
    time_window: tuple[Any, Any] = TIME_WINDOW,
    allow_inexact: bool = False,
    duplicates: Duplicates = "fail",
    define: bool = True,
    series_topic: str | None = None,
    points_topic: str | None = None,
    properties: Mapping[str, Any] | None = None,
    timeout: float = 30.0,
    progress: Callable[[int, int], object] | None = None,
    max_message_bytes: int = messages.MAX_BYTES,
    max_message_points: int = messages.MAX_POINTS,
) -> Published:
    """Publishes a frame as a series, and returns when Kafka has acknowledged all of it.

    The frame is checked as a whole before anything is published. Values become doubles: integers up to 2**53, booleans as
    0 and 1, decimals rounded to the nearest double; None, NaN, NA and NaT are NULL. Times are stored in microseconds of UTC;
    times without a zone are UTC.

    Args:
        df: a frame with a DatetimeIndex, or with the times in a column.
        series: the series' id, also the Kafka key of its messages.
        brokers: host:port, separated by commas; default: the environment variable KAFKA_BROKERS.
        name: the series' name.
        description: its description.
        labels: its labels, at most 100; None leaves those that it has, an empty mapping removes them.
        columns: the value columns in their order; default: all columns except that of the times.
        time_column: the column with the times, or the name of those of the index; default: the index, by its own name or
            as "timestamp".
        time_unit: the unit of numeric times: s, ms, us or ns since the Unix epoch.
        truncate_times: truncate times finer than a microsecond towards the past, instead of raising an error.
        time_window: the first time that the worker accepts, and the first that is too late: its message.min_timestamp
            and message.max_timestamp.
        allow_inexact: round integers beyond 2**53 to the nearest double, instead of raising an error.
        duplicates: what to publish of rows with the same time: "first" or "last" one of them, "all" each, and "fail"
            raises an error.
        define: publish the definition, which replaces an earlier one; without it name, description and labels must be
            None.
        series_topic: the topic of the definition, the worker's kafka.series_topic; default: the environment variable
            SERIES_INGEST__KAFKA__SERIES_TOPIC, then "time-series.series".
        points_topic: the topic of the points, the worker's kafka.points_topic; default: the environment variable
            SERIES_INGEST__KAFKA__POINTS_TOPIC, then "time-series.points".
        properties: properties of librdkafka, for example security.protocol; those that the guarantee rests on are
            refused.
        timeout: seconds to wait without any acknowledgement before giving up.
        progress: called with the number of rows that are acknowledged, and of all rows.
        max_message_bytes: the size of a message, if brokers or worker accept less than 1,000,000 bytes; at least 32768.
        max_message_points: the points of a message, if the worker's message.max_points is below 100,000.

    Raises:
        TypeError: a column, a value, a name or the times are of a type that cannot be stored; the error has the row and
            the column.
        ValueError: a value, a time, a name or an argument cannot be used; so do duplicate times.
        PublishError: not all rows are acknowledged; the error has the numbers.
        KeyboardInterrupt: with the same numbers as its text; what was not sent yet is not published.
    """
    checked_name("the series", series)
    # The worker's own names in its environment.
    series_topic = series_topic or os.environ.get("SERIES_INGEST__KAFKA__SERIES_TOPIC") or SERIES_TOPIC
    points_topic = points_topic or os.environ.get("SERIES_INGEST__KAFKA__POINTS_TOPIC") or POINTS_TOPIC
    if name is not None:
        checked_name("the name", name, is_limited=False)
    if description is not None:
        checked_name("the description", description, is_limited=False)
    if not define and (name is not None or description is not None or labels is not None):
        raise ValueError("name, description and labels are part of the definition, which define=False does not publish")
    if not messages.MIN_BYTES <= max_message_bytes:
        raise ValueError(f"max_message_bytes={max_message_bytes}: expected at least {messages.MIN_BYTES}")
    if max_message_points < 1:
        raise ValueError(f"max_message_points={max_message_points}: expected at least 1")
    if not timeout > 0:
        raise ValueError(f"timeout={timeout}: expected more than 0 seconds")
    wide = normalise(
        df,
        columns=columns,
        time_column=time_column,
        time_unit=time_unit,
        truncate_times=truncate_times,
        allow_inexact=allow_inexact,
        duplicates=duplicates,
        time_window=time_window,
    )
    definition = None
    if define:
        checked = None if labels is None else checked_labels(labels)
        definition = messages.definition(
            series, name=name, description=description, time_column=wide.time_column, columns=wide.columns, labels=checked
        )
        if len(definition) > max_message_bytes:
            raise ValueError(
                f"the definition has {len(definition)} bytes, more than max_message_bytes={max_message_bytes}: "
                "the names of the columns, or the description, are too long for one message"
            )
    plan = messages.plan(wide, series, max_message_points, max_message_bytes)
    delivery = _Delivery(series, plan, define, brokers, properties or {}, timeout, progress)
    delivery.find_topics([*([series_topic] if definition is not None else []), *([points_topic] if plan.groups else [])])
    delivery.run(wide, definition, series_topic, points_topic)
    return Published(series, delivery.produced, wide.values.size, wide.frame(), delivery.offsets)


class _Delivery:
    """The messages of one frame on their way, and what became of each."""

    def __init__(
        self,
        series: str,
        plan: messages.Plan,
        defines: bool,
        brokers: str | None,
        properties: Mapping[str, Any],
        timeout: float,
        progress: Callable[[int, int], object] | None,
    ) -> None:
        brokers = brokers or os.environ.get("KAFKA_BROKERS")
        if not brokers:
            raise ValueError("brokers is missing, and the environment variable KAFKA_BROKERS is not set")
        for key in properties:
            if key in _FIXED:
                raise ValueError(f"properties: {key} cannot be set: {_FIXED[key]}")
        self.series = series
        self.plan = plan
        self.timeout = timeout
        self.progress = progress
        self.produced = 0
        # Callbacks only put what they get into a queue or a dict, by methods that are not functions in Python: an interrupt in
        # one would be lost. A report is the error, or None, and the message.
        self.errors: queue.SimpleQueue[KafkaError] = queue.SimpleQueue()
        self.reports: dict[int, dict[KafkaError | None, Any]] = {}
        self.offsets: dict[tuple[str, int], int] = {}
        # By the number of a message: its piece, None for the definition, and its size; those that are acknowledged are not in it.
        self.unacknowledged: dict[int, tuple[int | None, int]] = {}
        self.refused: set[int] = set()
        self.dropped: set[int] = set()
        self.acknowledged = [0] * (len(plan.pieces) - 1)
        self.acknowledged_rows = 0
        self.defines = defines
        self.failure: KafkaError | None = None
        self.complaint: KafkaError | None = None
        self.last_progress = time.monotonic()
        settings = {**_DEFAULTS, "bootstrap.servers": brokers, **properties, "error_cb": self.errors.put}
        self.settings = settings
        try:
            self.producer = Producer(settings)
        except KafkaException as error:
            raise ValueError(f"properties: {error.args[0].str()}") from None

    def _reason(self, what: str) -> str:
        return what if self.complaint is None else f"{what}; the last error was: {self.complaint.str()}"

    def find_topics(self, topics: list[str]) -> None:
        """Raises an error if no broker answers, or has no such topic, before anything is published."""
        for topic in topics:
            deadline = time.monotonic() + self.timeout
            # A broker that creates topics on request has it a moment later.
            created_by = time.monotonic() + min(self.timeout / 2, _TOPIC_S)
            while True:
                try:
                    found = self.producer.list_topics(topic, timeout=min(self.timeout, 1.0))
                except KafkaException as error:
                    if error.args[0].code() not in _NO_ANSWER:
                        raise self._error(error.args[0].str()) from None
                else:
                    missing = found.topics[topic].error
                    if missing is None:
                        break
                    if time.monotonic() > created_by:
                        raise self._error(f"the topic {topic} is not available: {missing.str()}")
                if time.monotonic() > deadline:
                    reason = self._reason(f"no broker answered within {self.timeout:g} s")
                    raise self._error(reason, is_unreachable=True)
                self._poll(_POLL_S)

    def run(self, wide: Wide, definition: bytes | None, series_topic: str, points_topic: str) -> None:
        """Publishes everything, and waits until it is acknowledged."""
        try:
            if definition is not None:
                self._produce(series_topic, definition, None)
            for batch in messages.batches(wide, self.series, self.plan):
                self._produce(points_topic, batch.payload, batch.piece)
            while self.reports:
                self._wait(_POLL_S)
        except KeyboardInterrupt:
            self._give_up()
            raise KeyboardInterrupt(str(self._error("interrupted"))) from None
        except BaseException:
            self._give_up()
            raise

    def _produce(self, topic: str, payload: bytes, piece: int | None) -> None:
        if not self.reports:
            self.last_progress = time.monotonic()
        report: dict[KafkaError | None, Any] = {}
        while True:
            try:
                self.producer.produce(
                    topic,
                    value=payload,
                    key=self.series.encode(),
                    headers={"series-ingest-version": b"1"},
                    on_delivery=report.setdefault,
                )
                break
            except BufferError:
                # The queue is full.
                self._wait(_POLL_S)
            except KafkaException as error:
                raise self._failed(error.args[0]) from None
        self.reports[self.produced] = report
        self.unacknowledged[self.produced] = (piece, len(payload))
        self.produced += 1
        self._wait(0)

    def _poll(self, seconds: float) -> None:
        """Lets the library report, and takes its reports."""
        events = self.producer.poll(seconds)
        while not self.errors.empty():
            # Such as a refused connection: the library goes on by itself, and the timeout has the last word.
            self.complaint = self.errors.get()
            if self.complaint.fatal():
                self.failure = self.complaint
        for number in [number for number, report in self.reports.items() if report] if events else ():
            ((error, message),) = self.reports.pop(number).items()
            self._on_delivery(error, message, number)

    def _on_delivery(self, error: KafkaError | None, message: Any, number: int) -> None:
        if error is not None:
            if error.code() in _NOT_WRITTEN:
                self.refused.add(number)
            elif error.code() == KafkaError._PURGE_QUEUE:
                self.dropped.add(number)
            if self.failure is None:
                self.failure = error
            return
        self.last_progress = time.monotonic()
        place = (message.topic(), message.partition())
        self.offsets[place] = max(message.offset(), self.offsets.get(place, 0))
        piece, _ = self.unacknowledged.pop(number)
        if piece is None:
            return
        self.acknowledged[piece] += 1
        if self.acknowledged[piece] == len(self.plan.groups):
            self.acknowledged_rows += self._rows(piece)

    def _rows(self, piece: int) -> int:
        return self.plan.pieces[piece + 1] - self.plan.pieces[piece]

    def _wait(self, seconds: float) -> None:
        before = self.acknowledged_rows
        self._poll(seconds)
        if self.progress is not None and self.acknowledged_rows != before:
            self.progress(self.acknowledged_rows, self.plan.pieces[-1])
        if self.failure is not None:
            raise self._failed(self.failure)
        if self.reports and time.monotonic() - self.last_progress > self.timeout:
            self._give_up()
            raise self._error(self._reason(f"nothing was acknowledged for {self.timeout:g} s"))

    def _failed(self, error: KafkaError) -> PublishError:
        self._give_up(waits=True)
        return self._error(error.str())

    def _give_up(self, *, waits: bool = False) -> None:
        """Drops what was not sent, and also what was, or waits a moment for the answers to that."""
        for in_flight in (False, True) if waits else (True,):
            if self.reports:
                self.producer.purge(in_queue=True, in_flight=in_flight, blocking=True)
            deadline = time.monotonic() + _ANSWER_S
            while self.reports and time.monotonic() < deadline:
                self._poll(_POLL_S)

    def _may_have_been_sent(self) -> set[int]:
        """The messages without an answer that a broker may have.

        A message that was dropped from the queue may have been sent before: after a lost connection it is put there again.
        Messages of one partition are sent in their order, and only some requests at a time, so those far enough after the
        first one without an answer were not sent.
        """
        if "partitioner" in self.settings:
            return set(self.unacknowledged) - self.refused
        requests = min(int(self.settings.get("max.in.flight", _REQUESTS)), _REQUESTS)
        requests = min(int(self.settings.get("max.in.flight.requests.per.connection", requests)), requests)
        most = int(self.settings.get("batch.num.messages", 10_000))
        most_bytes = int(self.settings.get("batch.size", 1_000_000))
        found: set[int] = set()
        batches, count, size = 1, 0, 0
        for number, (piece, length) in sorted(self.unacknowledged.items()):
            if number in self.refused:
                continue
            if piece is not None:
                if count and (count == most or size + length > most_bytes):
                    batches, count, size = batches + 1, 0, 0
                count, size = count + 1, size + length
            if batches <= requests or number not in self.dropped:
                found.add(number)
        return found

    def _error(self, reason: str, *, is_unreachable: bool = False) -> PublishError:
        maybe = self._may_have_been_sent()
        pieces = {self.unacknowledged[number][0] for number in maybe}
        uncertain = unsent = 0
        for piece, acknowledged in enumerate(self.acknowledged):
            if acknowledged == len(self.plan.groups):
                continue
            # A row with only some of its columns counts as uncertain, too.
            if acknowledged or piece in pieces:
                uncertain += self._rows(piece)
            else:
                unsent += self._rows(piece)
        if not self.defines:
            definition = "none"
        elif self.produced and 0 not in self.unacknowledged:
            definition = "acknowledged"
        else:
            definition = "uncertain" if 0 in maybe else "unsent"
        return PublishError(
            self.series,
            reason,
            acknowledged_rows=self.acknowledged_rows,
            uncertain_rows=uncertain,
            unsent_rows=unsent,
            definition=definition,
            is_unreachable=is_unreachable,
        )
