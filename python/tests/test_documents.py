"""The lines of Python in README.md and the documents, as they stand there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from conftest import ROOT, Servers

import series_ingest


def blocks(document: str) -> list[str]:
    """The blocks of Python in a document."""
    return re.findall(r"^```python\n(.*?)^```$", (ROOT / document).read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


@pytest.fixture
def names(servers: Servers, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What a reader has: the environment of the servers, and the folder of the repository."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("KAFKA_BROKERS", servers.brokers)
    monkeypatch.setenv("DATABASE_URL", servers.url)
    monkeypatch.setenv("SERIES_INGEST__KAFKA__SERIES_TOPIC", servers.series_topic)
    monkeypatch.setenv("SERIES_INGEST__KAFKA__POINTS_TOPIC", servers.points_topic)
    return {}


def test_the_lines_of_the_readme_publish_and_read(servers, names, capsys):
    publishing, reading = blocks("README.md")
    exec(compile(publishing, "README.md", "exec"), names)
    printed = capsys.readouterr().out.strip()
    assert f"print(published)  # {printed}\n" in publishing, "what it prints is what README says"
    servers.until_stored(names["published"])
    exec(compile(reading, "README.md", "exec"), names)
    assert len(names["stored"]) == 1461


def test_the_lines_of_messages_publish(servers, names, monkeypatch):
    """Its broker is one of everybody's machine: the test's own answers instead."""
    (publishing,) = blocks("docs/messages.md")
    its_own = series_ingest.publish
    published = []

    def publish(df: pd.DataFrame, series: str, brokers: str, **arguments: Any) -> None:
        assert brokers == "localhost:9092"
        published.append(its_own(df, f"{series} of messages", servers.brokers, **arguments))

    monkeypatch.setattr(series_ingest, "publish", publish)
    exec(compile(publishing, "messages.md", "exec"), names)
    servers.until_stored(published[0])
    assert servers.read("seattle-weather of messages")["wind"].isna().tolist() == [False, True]


def test_the_lines_of_the_python_page_run_in_their_order(servers, names):
    for block in blocks("docs/python.md"):
        exec(compile(block, "python.md", "exec"), names)
        # A reader waits as well until the worker has written what was published.
        if "published" in names and names["published"] is not None:
            servers.until_stored(names.pop("published"))


def test_the_version_is_that_of_the_worker():
    cargo = (ROOT / "Cargo.toml").read_text(encoding="utf-8")
    assert f'version = "{series_ingest.__version__}"' in cargo.split("[dependencies]")[0]


def test_every_public_item_is_documented():
    page = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    for item in series_ingest.__all__:
        assert getattr(series_ingest, item).__doc__, item
        assert f"`{item}" in page or f".{item}(" in page, item
    assert (Path(series_ingest.__file__).with_name("py.typed")).exists()
