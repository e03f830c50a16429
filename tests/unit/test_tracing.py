"""Traces where they are wanted: of exceptions their kind alone; and nothing of it where they are not."""

from __future__ import annotations

import subprocess
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from recsite.environment import BASE_DIR, Environment, errors_of
from serving import tracing
from serving.log_context import context
from tests.lane_process import eventually
from tests.otlp_receiver import otlp_receiver

if TYPE_CHECKING:
    from pytest_django.fixtures import Settings


def test_span__nobody_wants_it__is_none(settings: Settings) -> None:
    settings.OTLP_ENDPOINT = None
    headers: dict[str, str] = {}
    with tracing.span("load.check", load=1) as own:
        tracing.send_along(headers)
    assert own is None
    assert headers == {}


def test_spans__one_in_the_other__and_of_an_exception_its_kind_alone(settings: Settings) -> None:
    with otlp_receiver() as receiver:
        settings.OTLP_ENDPOINT = f"{receiver.url}/"
        tracing._started.cache_clear()
        headers: dict[str, str] = {}
        said = ""
        with suppress(KeyError), tracing.span("load", load=7):
            with tracing.span("load.check"):
                tracing.send_along(headers)
            said = context.get()["trace_id"]
            raise KeyError("ana")
        assert "trace_id" not in context.get()
        with tracing.span("task", kind="consumer", parent=headers):
            pass
        with tracing.span("task", kind="consumer", parent={"traceparent": "nonsense"}):
            pass
        eventually(lambda: len(receiver.spans) == 4)
        step, load, task, alone = receiver.spans
        assert (load.attributes, load.has_failed) == ({"load": 7, "error.type": "KeyError"}, True)
        assert (step.trace_id, step.parent_id, step.has_failed) == (said, load.span_id, False)
        assert (task.trace_id, task.parent_id) == (said, step.span_id)
        assert (alone.trace_id != said, alone.parent_id) == (True, "")
        assert "ana" not in receiver.text
        tracing._started.cache_clear()


@pytest.mark.slow
def test_processes__nobody_wants_traces__load_nothing_of_them() -> None:
    program = """
import sys
import recsite.wsgi
import serving.management.commands.lane
names = ("opentelemetry.sdk", "opentelemetry.exporter")
print([name for name, module in sys.modules.items() if module is not None and name.startswith(names)])
"""
    command = [sys.executable, "-c", program]
    ended = subprocess.run(command, cwd=BASE_DIR, capture_output=True, text=True, check=True, timeout=60)
    assert ended.stdout == "[]\n"


def test_setting__without_the_library__is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recsite.environment.find_spec", lambda name: None)
    monkeypatch.setenv("RECSITE_OTLP_ENDPOINT", "http://collector:4318")
    env = Environment(_env_file=BASE_DIR / "tests" / "test.env")  # type: ignore[call-arg]  # pydantic-settings' own
    assert [found.id for found in errors_of(env)] == ["recsite.E004"]
