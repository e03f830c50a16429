"""Rows of one BigQuery table through the Storage Read API: several Arrow streams, a bounded number of batches held."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime
from queue import Empty, Full, Queue

import pyarrow as pa
from google.cloud.bigquery_storage import BigQueryReadClient
from google.cloud.bigquery_storage_v1.types import DataFormat, ReadSession

from models_registry.loading.sources.bigquery_clients import STORAGE_RETRY, explained
from models_registry.loading.sources.confinement import TableName
from models_registry.loading.sources.port import SourceProblem
from models_registry.models import ProblemCode

MAX_STREAMS = 4
# BigQuery sends at most 10 MiB at a time, so this holds at most 80 MiB.
MAX_BATCHES_HELD = 8
OPEN_TIMEOUT_SECONDS = 60.0
STALL_SECONDS = 300.0
# How soon a waiting thread notices that the reading has ended.
WAIT_SECONDS = 0.2


def open_session(
    client: BigQueryReadClient,
    table: TableName,
    columns: Sequence[str],
    *,
    payer: str,
    snapshot_at: datetime | None,
    rows: str = "",
) -> ReadSession:
    """Open at least one column of a table for reading; the project `payer` is billed.

    The rows wanted are those of an instant (None: now) that meet the condition `rows` (empty: all).
    """
    session = ReadSession(
        table=f"projects/{table.project}/datasets/{table.dataset}/tables/{table.table}",
        data_format=DataFormat.ARROW,
        read_options=ReadSession.TableReadOptions(selected_fields=list(columns), row_restriction=rows),
    )
    if snapshot_at is not None:
        session.table_modifiers = ReadSession.TableModifiers(snapshot_time=snapshot_at)
    with explained(f"the table “{table}”"):
        return client.create_read_session(
            parent=f"projects/{payer}",
            read_session=session,
            max_stream_count=MAX_STREAMS,
            retry=STORAGE_RETRY,
            timeout=OPEN_TIMEOUT_SECONDS,
        )


class SessionRows:
    """The rows of every stream of a session, in no order; can be gone through once.

    Each stream has a thread that waits while `MAX_BATCHES_HELD` batches are not taken. It may take `limit_seconds`
    altogether; one that is silent for five minutes is given up earlier. Messages name the table by `what`.
    """

    def __init__(self, client: BigQueryReadClient, session: ReadSession, *, what: str, limit_seconds: float) -> None:
        self._wire_schema = pa.ipc.read_schema(pa.py_buffer(session.arrow_schema.serialized_schema))
        # Names and types alone, without what the server notes on them.
        self.schema = pa.schema([(field.name, field.type) for field in self._wire_schema])
        self._names = [stream.name for stream in session.streams]
        self._client = client
        self._what = what
        self._limit_seconds = limit_seconds
        self._pool = ThreadPoolExecutor(max(1, len(self._names)), thread_name_prefix="bigquery")
        # A thread that has ended is announced by its own future, which also carries what went wrong in it.
        self._arrived: Queue[pa.RecordBatch | Future[None]] = Queue(MAX_BATCHES_HELD)
        self._closed = threading.Event()

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        """Yield the batches.

        Raises:
            SourceProblem: BigQuery fails or is silent, or this was closed.
        """
        for name in self._names:
            self._pool.submit(self._pump, name).add_done_callback(self._put)
        running = len(self._names)
        try:
            while running:
                item = self._take()
                if isinstance(item, Future):
                    item.result()
                    running -= 1
                else:
                    yield item.select(self.schema.names).cast(self.schema)
        except pa.ArrowException as error:
            raise SourceProblem(f"BigQuery sent rows of {self._what} that could not be decoded.") from error

    def close(self) -> None:
        """End the reading, from whatever thread, and wait for the streams' threads. The client is closed with it."""
        self._closed.set()
        # Breaks off every call, also one that waits for its first rows.
        self._client.transport.close()
        self._pool.shutdown()

    def _take(self) -> pa.RecordBatch | Future[None]:
        give_up_at = time.monotonic() + STALL_SECONDS
        while time.monotonic() < give_up_at:
            if self._closed.is_set():
                raise SourceProblem(f"Reading {self._what} was interrupted.", ProblemCode.SOURCE_UNAVAILABLE)
            try:
                return self._arrived.get(timeout=WAIT_SECONDS)
            except Empty:
                continue
        raise SourceProblem(
            f"BigQuery sent no rows of {self._what} for {STALL_SECONDS / 60:.0f} minutes.",
            ProblemCode.SOURCE_UNAVAILABLE,
        )

    def _put(self, item: pa.RecordBatch | Future[None]) -> None:
        while not self._closed.is_set():
            try:
                self._arrived.put(item, timeout=WAIT_SECONDS)
                return
            except Full:
                continue

    def _pump(self, name: str) -> None:
        with explained(self._what):
            for response in self._client.read_rows(name, retry=STORAGE_RETRY, timeout=self._limit_seconds):
                if self._closed.is_set():
                    return
                raw = pa.py_buffer(response.arrow_record_batch.serialized_record_batch)
                self._put(pa.ipc.read_record_batch(raw, self._wire_schema))
