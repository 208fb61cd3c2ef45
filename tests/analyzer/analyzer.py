"""The time series analyzer's storage class, on the tables of series-ingest: through SQLAlchemy 2 and asyncpg.

    analyzer.py create     make the tables as the analyzer's own migration does, with two series in them
    analyzer.py use        save, find_by_id, find_all, exists and delete, alongside a worker

DATABASE_URL names the database. With ANALYZER_NAIVE=1 the models are those of `create`: times without a zone, integer ids.
`use` expects that a worker has stored the columns a and b of the series "placed" at the seconds 0 and 60, and that it goes on
with points of the series "busy".
"""

import asyncio
import json
import os
import sys
from dataclasses import dataclass
from datetime import datetime, timezone

import pandas as pd
from sqlalchemy import (
    BigInteger, DateTime, Double, ForeignKey, Index, Integer, String, Text, delete, exists, func, select)
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

NAIVE = os.environ.get("ANALYZER_NAIVE") == "1"
TIME = DateTime(timezone=not NAIVE)


def now():
    time = datetime.now(timezone.utc)
    return time.replace(tzinfo=None) if NAIVE else time


class Base(DeclarativeBase):
    pass


class TimeSeriesMetadata(Base):
    __tablename__ = "time_series_metadata"

    id: Mapped[str] = mapped_column(String, primary_key=True)
    name: Mapped[str | None] = mapped_column(String)
    description: Mapped[str | None] = mapped_column(Text)
    time_column: Mapped[str] = mapped_column(String)
    value_columns: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(TIME, default=now)
    updated_at: Mapped[datetime] = mapped_column(TIME, default=now, onupdate=now)

    __table_args__ = (
        Index("idx_time_series_metadata_created_at", "created_at"),
        Index("idx_time_series_metadata_time_column", "time_column"),
    )


class TimeSeriesDataPoint(Base):
    __tablename__ = "time_series_data_points"

    id: Mapped[int] = mapped_column(Integer if NAIVE else BigInteger, primary_key=True, autoincrement=True)
    time_series_id: Mapped[str] = mapped_column(String, ForeignKey("time_series_metadata.id", ondelete="CASCADE"))
    timestamp: Mapped[datetime] = mapped_column(TIME)
    column_name: Mapped[str] = mapped_column(String)
    value: Mapped[float | None] = mapped_column(Double)

    __table_args__ = (
        Index("idx_time_series_data_points_series_time", "time_series_id", "timestamp"),
        Index("idx_time_series_data_points_series_column", "time_series_id", "column_name"),
        Index("idx_time_series_data_points_timestamp", "timestamp"),
    )


@dataclass
class TimeSeries:
    """A wide frame: one row a time, in the column `time_column`, and one column a value column."""

    id: str
    data: pd.DataFrame
    time_column: str
    value_columns: list[str]
    name: str | None = None
    description: str | None = None


class TimeSeriesRepository:
    def __init__(self, sessions):
        self.sessions = sessions

    async def save(self, series: TimeSeries) -> None:
        """Inserts a series, or replaces it, with all of its points."""
        async with self.sessions() as session, session.begin():
            row = await session.get(TimeSeriesMetadata, series.id)
            if row is None:
                row = TimeSeriesMetadata(id=series.id)
                session.add(row)
            else:
                await session.execute(
                    delete(TimeSeriesDataPoint).where(TimeSeriesDataPoint.time_series_id == series.id))
            row.name = series.name
            row.description = series.description
            row.time_column = series.time_column
            row.value_columns = json.dumps(series.value_columns)
            await session.flush()
            session.add_all(
                TimeSeriesDataPoint(
                    time_series_id=series.id,
                    timestamp=time.to_pydatetime(),
                    column_name=column,
                    value=None if pd.isna(value) else float(value))
                for column in series.value_columns
                for time, value in zip(series.data[series.time_column], series.data[column], strict=True))

    async def find_by_id(self, series_id: str) -> TimeSeries | None:
        async with self.sessions() as session:
            row = await session.get(TimeSeriesMetadata, series_id)
            if row is None:
                return None
            points = await session.execute(
                select(TimeSeriesDataPoint.timestamp, TimeSeriesDataPoint.column_name, TimeSeriesDataPoint.value)
                .where(TimeSeriesDataPoint.time_series_id == series_id)
                .order_by(TimeSeriesDataPoint.timestamp))
            columns = json.loads(row.value_columns)
            long = pd.DataFrame(points.all(), columns=["timestamp", "column_name", "value"])
            wide = long.pivot_table(
                index="timestamp", columns="column_name", values="value", aggfunc="last", dropna=False)
            wide = wide.reindex(columns=columns).rename_axis(columns=None)
            wide.index.name = row.time_column
            return TimeSeries(row.id, wide.reset_index(), row.time_column, columns, row.name, row.description)

    async def find_all(self) -> list[TimeSeries]:
        async with self.sessions() as session:
            ids = (await session.scalars(select(TimeSeriesMetadata.id).order_by(TimeSeriesMetadata.created_at))).all()
        found = [await self.find_by_id(series_id) for series_id in ids]
        return [series for series in found if series is not None]

    async def delete(self, series_id: str) -> bool:
        async with self.sessions() as session, session.begin():
            result = await session.execute(delete(TimeSeriesMetadata).where(TimeSeriesMetadata.id == series_id))
            return result.rowcount > 0

    async def exists(self, series_id: str) -> bool:
        async with self.sessions() as session:
            return bool(await session.scalar(select(exists().where(TimeSeriesMetadata.id == series_id))))


def frame(first: datetime, count: int, **columns) -> pd.DataFrame:
    times = pd.date_range(first, periods=count, freq="min", tz=None if NAIVE else "UTC")
    return pd.DataFrame({"when": times, **columns})


def assert_equal(found: TimeSeries | None, saved: TimeSeries) -> None:
    assert found is not None, f"{saved.id} is not found"
    assert (found.name, found.description) == (saved.name, saved.description), (found.name, found.description)
    assert (found.time_column, found.value_columns) == (saved.time_column, saved.value_columns)
    pd.testing.assert_frame_equal(found.data, saved.data, check_dtype=False, check_freq=False)


async def create(engine, repository: TimeSeriesRepository) -> None:
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    for number in range(2):
        data = frame(datetime(2024, 1, 1), 3, x=[1.0, None, 3.0])
        await repository.save(TimeSeries(f"before-{number}", data, "when", ["x"]))


async def use(repository: TimeSeriesRepository) -> None:
    placed = await repository.find_by_id("placed")
    assert placed is not None and placed.name is None and placed.time_column == "timestamp", placed
    assert placed.value_columns == ["a", "b"] and list(placed.data.columns) == ["timestamp", "a", "b"], placed
    assert placed.data["a"].tolist() == [1.0, 1.0] and len(placed.data) == 2, placed.data

    # Without a name, and without values.
    first = TimeSeries("own", frame(datetime(2024, 1, 1), 3, y=[1.0, 2.5, None], x=[None, 0.0, -1.0]), "when", ["y", "x"])
    assert not await repository.exists("own")
    await repository.save(first)
    assert await repository.exists("own")
    assert_equal(await repository.find_by_id("own"), first)
    again = TimeSeries(
        "own", frame(datetime(2024, 2, 1), 2000, z=[float(n) for n in range(2000)]), "when", ["z"], "Own", "described")
    await repository.save(again)
    assert_equal(await repository.find_by_id("own"), again)

    # A series of the worker's, replaced and deleted while it writes points of it.
    replaced = 0
    while replaced < 10:
        try:
            await repository.save(
                TimeSeries("busy", frame(datetime(1990, 1, 1), 5, own=[1.0] * 5), "when", ["own"], "Busy"))
        except IntegrityError:
            # The class asks whether the series is there and inserts it then: a placeholder came in between.
            continue
        replaced += 1
        busy = await repository.find_by_id("busy")
        assert busy is not None and busy.name == "Busy" and busy.time_column == "when", busy
        assert busy.value_columns[0] == "own" and set(busy.value_columns) <= {"own", "c"}, busy.value_columns
        if replaced < 10:
            assert await repository.delete("busy")
    await repository.save(TimeSeries("gone", frame(datetime(2024, 1, 1), 3, c=[1.0, 2.0, 3.0]), "when", ["c"], "Gone"))
    assert await repository.delete("gone")
    assert not await repository.exists("gone") and not await repository.delete("gone")
    assert await repository.find_by_id("gone") is None
    async with repository.sessions() as session:
        points = select(func.count()).where(TimeSeriesDataPoint.time_series_id == "gone")
        assert await session.scalar(points) == 0, "its points are deleted with it"

    ids = {series.id for series in await repository.find_all()}
    assert {"placed", "own"} <= ids and "gone" not in ids, ids


async def main() -> None:
    url = os.environ["DATABASE_URL"].replace("postgresql://", "postgresql+asyncpg://", 1)
    engine = create_async_engine(url)
    repository = TimeSeriesRepository(async_sessionmaker(engine, expire_on_commit=False))
    await (create(engine, repository) if sys.argv[1:] == ["create"] else use(repository))
    await engine.dispose()


if __name__ == "__main__":
    asyncio.run(main())
