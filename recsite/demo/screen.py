"""What the demo shows: its steps, the loads as they run, and the screen at the end. Plain lines off a terminal."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn

from recsite.demo.demo_file import DemoCredential, DemoFile, read_demo_file

PLAIN_LINE_EVERY_SECONDS = 2.0


class Screen:
    """Prints for the person in front of the demo."""

    def __init__(self) -> None:
        self.console = Console(highlight=False, soft_wrap=True)

    def say(self, text: str) -> None:
        """Print a line (or several), exactly as it is."""
        self.console.print(text, markup=False)

    @contextmanager
    def step(self, text: str) -> Iterator[None]:
        """Show what is being done while it is done, then how long it took."""
        begun = time.monotonic()
        if self.console.is_terminal:
            with self.console.status(f"{text} …"):
                yield
        else:
            self.say(f"{text} …")
            yield
        self.say(f"✓ {text} ({time.monotonic() - begun:.1f} s)")

    @contextmanager
    def loads(self) -> Iterator[LoadDisplay]:
        """Yield a display of loads that run at the same time."""
        display = LoadDisplay(self)
        with display.progress:
            yield display


class LoadDisplay:
    """A bar for each load on a terminal; elsewhere a line now and then."""

    def __init__(self, screen: Screen) -> None:
        self.screen = screen
        self.progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[count]}  {task.fields[note]}"),
            console=screen.console,
            disable=not screen.console.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}
        self._said: dict[str, tuple[str, str, float]] = {}

    def show(self, name: str, *, state: str, rows: int, rows_expected: int | None, seconds: float) -> None:
        """Show where one load is. `state` in words, `seconds` since it began to work."""
        rate = f"{rows / seconds:,.0f} rows/s" if rows and seconds > 0.2 else ""
        note = " · ".join(part for part in (state.lower(), rate) if part)
        if not self.screen.console.is_terminal:
            self._say_news(name, state, f"  {name}: {note}" + (f", {rows:,} rows" if rows else ""))
            return
        if name not in self._tasks:
            self._tasks[name] = self.progress.add_task(name, count="", note="")
        count = f"{rows:,} of {rows_expected:,} rows" if rows_expected else f"{rows:,} rows"
        self.progress.update(self._tasks[name], completed=rows, total=rows_expected, count=count, note=note)

    def _say_news(self, name: str, state: str, line: str) -> None:
        """Print a line if it says something new: at once where the state is new, else every two seconds."""
        said_state, said_line, said_at = self._said.get(name, ("", "", 0.0))
        now = time.monotonic()
        if state != said_state or (line != said_line and now - said_at > PLAIN_LINE_EVERY_SECONDS):
            self._said[name] = (state, line, now)
            self.screen.say(line)


# --- The end ----------------------------------------------------------------------------------------------------------


def curl_commands(content: DemoFile, credential: DemoCredential) -> tuple[str, str]:
    """Return two commands that work when pasted into a shell, at any time: each gets a token, then asks with it.

    The first answers JSON, the second the same bit-packed, as hex. Both say the HTTP status on standard error.
    """
    query = "&".join(f"{name}={value}" for name, value in credential["sample_keys"][0].items())
    client = shlex.quote(f"{credential['client_id']}:{credential['client_secret']}")
    token = (
        f"$(curl -s {content['dashboard_url']}/api/v1/token -u {client} -d grant_type=client_credentials"
        r""" | sed 's/.*"access_token": *"\([^"]*\)".*/\1/')"""
    )
    ask = f"""curl -s -w '%{{stderr}}\\nHTTP %{{http_code}}\\n' -H "Authorization: Bearer {token}" """
    address = shlex.quote(f"{content['lane_url']}/v1/recommendations?{query}")
    return f"{ask}{address}", f"{ask}-H 'Accept: application/vnd.recsite.bits' {address} | od -An -tx1"


def final_screen(content: DemoFile, demo_file: Path) -> str:
    """Return the screen at the end."""
    json_command, bits_command = curl_commands(content, content["credentials"][0])
    people = [("platform staff", content["admin"]), ("product manager", content["product_manager"])]
    people.append(("studio admin", content["studio"]))
    sign_in = "\n".join(f"               {p['username']:<16}{p['password']}  ({role})" for role, p in people)
    prometheus = f"\n  Prometheus   {content['prometheus_url']}/" if "prometheus_url" in content else ""
    return f"""
recsite is running.

  Dashboard    {content["dashboard_url"]}/
  Sign in as
{sign_in}
  Serving      {content["lane_url"]}/v1/recommendations{prometheus}

One player's recommendation as JSON:

{json_command}

The same, bit-packed (shown as hex):

{bits_command}

All addresses, people, credentials and 100 keys of each model: {demo_file}
Logs: {demo_file.parent / "log"}
Stop: Ctrl-C. The data stays; `make demo` goes on with it, `make demo-reset` starts anew.
"""


def print_already_running(pid: str, demo_file: Path) -> None:
    """Say that a demo runs already, and its screen once more."""
    screen = Screen()
    screen.say(f"The demo is running already (process {pid}). Stop it with Ctrl-C in its terminal, or: kill {pid}")
    content = read_demo_file(demo_file)
    if content["credentials"]:
        screen.say(final_screen(content, demo_file))
