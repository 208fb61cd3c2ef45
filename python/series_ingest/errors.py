"""The errors of this package; invalid arguments and frames are ValueError and TypeError."""

from __future__ import annotations


class PublishError(Exception):
    """Not every row was acknowledged by Kafka.

    The three numbers of rows add up to the frame's. Publishing the whole frame again would duplicate the acknowledged rows,
    unless the worker runs with `points.on_duplicate = "replace"` or `"ignore"`.

    Attributes:
        series: the series' id.
        acknowledged_rows: rows that Kafka has: the worker stores them.
        uncertain_rows: rows that were sent without an answer, or not with all of their columns: Kafka may have them.
        unsent_rows: rows that Kafka does not have.
        definition: the state of the definition's message: "acknowledged", "uncertain", "unsent", or "none" if none was
            to be published.
        reason: why, in the words of the client library.
        is_unreachable: whether no broker answered at all.
    """

    def __init__(
        self,
        series: str,
        reason: str,
        *,
        acknowledged_rows: int,
        uncertain_rows: int,
        unsent_rows: int,
        definition: str,
        is_unreachable: bool = False,
    ) -> None:
        total = acknowledged_rows + uncertain_rows + unsent_rows
        super().__init__(
            f"series {series!r}: {acknowledged_rows} of {total} rows are acknowledged, {uncertain_rows} are uncertain, "
            f"{unsent_rows} are not published; the definition is {definition}: {reason}"
        )
        self.series = series
        self.reason = reason
        self.acknowledged_rows = acknowledged_rows
        self.uncertain_rows = uncertain_rows
        self.unsent_rows = unsent_rows
        self.definition = definition
        self.is_unreachable = is_unreachable


class SeriesNotFound(KeyError):
    """The database has no series with this id."""

    def __init__(self, series: str) -> None:
        super().__init__(series)
        self.series = series

    def __str__(self) -> str:
        return f"there is no series {self.series!r}"


class NotFresh(Exception):
    """The database that is read does not have what must be seen, within the time given for it: a standby lags, or the worker
    has not written it.

    Attributes:
        topic: the topic of a message that is missing.
        partition: its partition.
        offset: its offset.
        next_offset: the offset up to which the partition is applied there; None if there is no progress of it.
    """

    def __init__(self, topic: str, partition: int, offset: int, next_offset: int | None, seconds: float) -> None:
        applied = "has no progress there" if next_offset is None else f"is applied there up to offset {next_offset}"
        super().__init__(
            f"the database that is read lacks the message {topic}:{partition}:{offset} after {seconds:g} s: the partition {applied}"
        )
        self.topic = topic
        self.partition = partition
        self.offset = offset
        self.next_offset = next_offset


class DuplicatePoints(ValueError):
    """Several rows of a frame have the same time, or several points of a series the same column and time.

    It is raised with `duplicates="fail"`: `publish` has that by default, `read` on request.
    """


class PickleRefused(ValueError):
    """A pickle is not one of series only. Nothing of it has run.

    Attributes:
        name: the name that it refers to, such as "posix.system"; None if something else is the reason.
    """

    def __init__(self, message: str, name: str | None = None) -> None:
        super().__init__(message)
        self.name = name
