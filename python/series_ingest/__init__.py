"""Publish frames of pandas as time series of series-ingest, and read them back.

`publish` writes to Kafka, from where the worker writes into the database; `read` and `TimeSeriesRepository` use the
database's tables. `python -m series_ingest.migrate` moves a pickle of series.
"""

from .errors import DuplicatePoints, NotFresh, PickleRefused, PublishError, SeriesNotFound
from .producer import Published, publish
from .reader import read
from .repository import TimeSeriesRepository
from .series import TimeSeries

__all__ = [
    "DuplicatePoints",
    "NotFresh",
    "PickleRefused",
    "PublishError",
    "Published",
    "SeriesNotFound",
    "TimeSeries",
    "TimeSeriesRepository",
    "publish",
    "read",
]
__version__ = "0.1.0"
