"""Series as objects, saved and found by their ids."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from .database import Fresh, checked_dsn, reading, transaction
from .frames import TIME_WINDOW, Duplicates, normalise
from .names import checked_labels, checked_name
from .producer import publish
from .reader import Definition, definition_of, definitions, read_points
from .series import TimeSeries
from .tables import delete_series, replace_series, series_exists

if TYPE_CHECKING:
    from .database import Connection

_Result = TypeVar("_Result")


class TimeSeriesRepository:
    """Saves and finds series.

    Each call opens a connection, uses it in one transaction in a thread, and closes it. A call that is cancelled goes on in
    its thread, to its end.

    Without brokers `save` writes into the tables: it replaces the series and all of its points. With brokers it publishes
    them, and the worker writes: points that the series has already stay, and the series is found when the worker has
    written it. Everything else always uses the tables.

    Args:
        dsn: the database, as `read` has it.
        brokers: host:port, separated by commas; None writes into the tables.
        schema: the schema of the tables; default: that of the search path.
        series_topic: the topic of definitions; default: as in `publish`.
        points_topic: the topic of points; default: as in `publish`.
        properties: properties of librdkafka.
        timeout: seconds without any acknowledgement after which `save` gives up, with brokers.
        duplicates: what `find_by_id` and `find_all` return of points with the same column and time, as in `read`.
        time_window: the times that `save` accepts, as in `publish`.
        read_dsn: the database that `find_by_id`, `find_all` and `exists` read, such as a standby of the other; default: dsn.
        fresh_within: with brokers, how many seconds `find_by_id`, `find_all` and `exists` wait for what this object has
            saved; None does not wait.
        pipeline: the worker's key pipeline, whose progress says that.
    """

    def __init__(
        self,
        dsn: str | None = None,
        brokers: str | None = None,
        *,
        schema: str | None = None,
        series_topic: str | None = None,
        points_topic: str | None = None,
        properties: Mapping[str, Any] | None = None,
        timeout: float = 30.0,
        duplicates: Duplicates = "last",
        time_window: tuple[Any, Any] = TIME_WINDOW,
        read_dsn: str | None = None,
        fresh_within: float | None = None,
        pipeline: str = "default",
    ) -> None:
        self._dsn = checked_dsn(dsn)
        self._brokers = brokers
        self._schema = schema
        self._series_topic = series_topic
        self._points_topic = points_topic
        self._properties = properties
        self._timeout = timeout
        self._duplicates: Duplicates = duplicates
        self._time_window = time_window
        self._read_dsn = self._dsn if read_dsn is None else checked_dsn(read_dsn)
        self._fresh_within = fresh_within
        self._pipeline = pipeline
        # What this object has published: the highest offset of each topic and partition.
        self._offsets: dict[tuple[str, int], int] = {}
        self._offsets_lock = threading.Lock()

    async def save(self, series: TimeSeries) -> None:
        """Saves a series, with all of its points: see the class.

        Raises:
            TypeError, ValueError: the series cannot be stored: see `publish`.
            PublishError: with brokers, not all rows are acknowledged.
            psycopg.Error: without brokers, the database is not available, or refuses; nothing is changed then.
        """
        await asyncio.to_thread(self._publish if self._brokers is not None else self._replace, series)

    async def find_by_id(self, series_id: str) -> TimeSeries | None:
        """Returns a series, or None: a frame as that of `read`, with its times as its first column.

        Raises:
            NotFresh: the database that is read lacks what this object has saved, within `fresh_within`.
            psycopg.Error: the database is not available, or refuses.
        """
        return await asyncio.to_thread(self._find, series_id)

    async def find_all(self) -> list[TimeSeries]:
        """Returns all series, in the order of their creation, of one snapshot. All of their points are in memory.

        Raises:
            psycopg.Error: the database is not available, or refuses.
        """
        return await asyncio.to_thread(self._find_all)

    async def delete(self, series_id: str) -> bool:
        """Deletes a series with its points; returns whether there was one.

        Points that the worker writes later create it again.

        Raises:
            psycopg.Error: the database is not available, or refuses.
        """
        return await asyncio.to_thread(self._delete, series_id)

    async def exists(self, series_id: str) -> bool:
        """Returns whether there is a series with this id.

        Raises:
            psycopg.Error: the database is not available, or refuses.
        """
        return await asyncio.to_thread(self._exists, series_id)

    def _publish(self, series: TimeSeries) -> None:
        published = publish(
            series.data,
            series.id,
            self._brokers,
            name=series.name,
            description=series.description,
            labels=_labels(series),
            columns=series.value_columns,
            time_column=series.time_column,
            duplicates="all",
            time_window=self._time_window,
            series_topic=self._series_topic,
            points_topic=self._points_topic,
            properties=self._properties,
            timeout=self._timeout,
        )
        with self._offsets_lock:
            for place, offset in published.offsets.items():
                self._offsets[place] = max(offset, self._offsets.get(place, 0))

    def _reading(self, work: Callable[[Connection], _Result]) -> _Result:
        fresh = None
        if self._fresh_within is not None:
            with self._offsets_lock:
                fresh = Fresh(dict(self._offsets), self._fresh_within, self._pipeline)
        return reading(self._read_dsn, self._schema, work, fresh)

    def _replace(self, series: TimeSeries) -> None:
        checked_name("the series", series.id)
        for what, text in (("the name", series.name), ("the description", series.description)):
            if text is not None:
                checked_name(what, text, is_limited=False)
        labels = _labels(series)
        if labels is not None:
            labels = checked_labels(labels)
        wide = normalise(
            series.data,
            columns=series.value_columns,
            time_column=series.time_column,
            duplicates="all",
            time_window=self._time_window,
        )
        with transaction(self._dsn, self._schema, read_only=False) as connection:
            replace_series(connection, series, labels, wide)

    def _find(self, series_id: str) -> TimeSeries | None:
        def work(connection: Connection) -> TimeSeries | None:
            definition = definition_of(connection, series_id)
            return None if definition is None else self._series(connection, definition)

        return self._reading(work)

    def _find_all(self) -> list[TimeSeries]:
        return self._reading(lambda connection: [self._series(connection, one) for one in definitions(connection)])

    def _series(self, connection: Any, definition: Definition) -> TimeSeries:
        data = read_points(connection, definition, duplicates=self._duplicates).frame().reset_index(allow_duplicates=True)
        return TimeSeries(
            definition.id,
            data,
            definition.time_column,
            definition.value_columns,
            definition.name,
            definition.description,
            definition.labels,
        )

    def _delete(self, series_id: str) -> bool:
        with transaction(self._dsn, self._schema, read_only=False) as connection:
            return delete_series(connection, series_id)

    def _exists(self, series_id: str) -> bool:
        return self._reading(lambda connection: series_exists(connection, series_id))


def _labels(series: TimeSeries) -> Mapping[str, Any] | None:
    # The classes of other programs have the other attributes, and no labels.
    return getattr(series, "labels", None)
