"""Rows of one BigQuery table through the Storage Read API: several Arrow streams, a bounded number of batches held."""

from __future__ import annotations

import threading
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime
from queue import Empty, Full, Queue

import pyarrow as pa
from google.cloud.bigquery_storage import BigQueryReadClient
from google.cloud.bigquery_storage_v1.reader import ReadRowsStream
from google.cloud.bigquery_storage_v1.types import DataFormat, ReadSession

from models_registry.loading.sources.bigquery_clients import STORAGE_RETRY, explained
from models_registry.loading.sources.confinement import TableName
from models_registry.loading.sources.port import SourceProblem

MAX_STREAMS = 4
# BigQuery sends at most 10 MiB at a time, so this holds at most 80 MiB.
MAX_BATCHES_HELD = 8
OPEN_TIMEOUT_SECONDS = 60.0
STALL_SECONDS = 300.0


def open_session(
    client: BigQueryReadClient, table: TableName, columns: Sequence[str], *, payer: str, snapshot_at: datetime | None
) -> ReadSession:
    """Open a table for reading.

    Args:
        client: of the Storage Read API.
        table: what to read.
        columns: at least one column.
        payer: the project that is billed.
        snapshot_at: the instant whose rows are wanted; None: now.
    """
    session = ReadSession(
        table=f"projects/{table.project}/datasets/{table.dataset}/tables/{table.table}",
        data_format=DataFormat.ARROW,
        read_options=ReadSession.TableReadOptions(selected_fields=list(columns)),
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


def session_schema(session: ReadSession) -> pa.Schema:
    """Give the schema of every batch of a session, without the server's notes on its columns."""
    return pa.schema([(field.name, field.type) for field in _wire_schema(session)])


def read_session(
    client: BigQueryReadClient, session: ReadSession, *, what: str, limit_seconds: float
) -> Generator[pa.RecordBatch, None, None]:
    """Give the rows of every stream of a session, in no order.

    Each stream has a thread that waits while `MAX_BATCHES_HELD` batches are not taken. Closing the iterator cancels
    the streams.

    Args:
        client: of the Storage Read API.
        session: as `open_session` gave it.
        what: how messages name the table.
        limit_seconds: how long a stream may take altogether; one that is silent for five minutes is given up earlier.

    Raises:
        SourceProblem: BigQuery fails, or is silent.
    """
    names = [stream.name for stream in session.streams]
    if not names:
        return
    schema = session_schema(session)
    streams = _Streams(client, _wire_schema(session), what, limit_seconds)
    with ThreadPoolExecutor(len(names), thread_name_prefix="bigquery") as pool:
        for name in names:
            # A thread that has ended is announced by its own future, which also carries what went wrong in it.
            pool.submit(streams.pump, name).add_done_callback(streams.put)
        running = len(names)
        try:
            while running:
                item = streams.arrived.get(timeout=STALL_SECONDS)
                if isinstance(item, Future):
                    item.result()
                    running -= 1
                else:
                    yield item.select(schema.names).cast(schema)
        except Empty:
            raise SourceProblem(f"BigQuery sent nothing of {what} for {STALL_SECONDS / 60:.0f} minutes.") from None
        except pa.ArrowException as error:
            raise SourceProblem(f"BigQuery sent rows of {what} that cannot be understood.") from error
        finally:
            streams.stop()


def _wire_schema(session: ReadSession) -> pa.Schema:
    return pa.ipc.read_schema(pa.py_buffer(session.arrow_schema.serialized_schema))


class _Streams:
    """The streams of one session and the bounded queue that their batches arrive in."""

    def __init__(self, client: BigQueryReadClient, schema: pa.Schema, what: str, limit_seconds: float) -> None:
        self.arrived: Queue[pa.RecordBatch | Future[None]] = Queue(MAX_BATCHES_HELD)
        self._client = client
        self._schema = schema
        self._what = what
        self._limit_seconds = limit_seconds
        self._stopped = threading.Event()
        self._opened: list[ReadRowsStream] = []

    def pump(self, name: str) -> None:
        """Read one stream to its end, or until `stop`."""
        with explained(self._what):
            stream = self._client.read_rows(name, retry=STORAGE_RETRY, timeout=self._limit_seconds)
            self._opened.append(stream)
            for response in stream:
                if self._stopped.is_set():
                    return
                raw = pa.py_buffer(response.arrow_record_batch.serialized_record_batch)
                self.put(pa.ipc.read_record_batch(raw, self._schema))

    def put(self, item: pa.RecordBatch | Future[None]) -> None:
        """Hand an item over, waiting for a place; after `stop` it is dropped."""
        while not self._stopped.is_set():
            try:
                self.arrived.put(item, timeout=0.2)
                return
            except Full:
                continue

    def stop(self) -> None:
        """Let every thread end soon."""
        self._stopped.set()
        for stream in list(self._opened):
            stream.cancel()
