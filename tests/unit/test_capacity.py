"""What an installation needs: the arithmetic, the command, and the examples of docs/capacity.md."""

from __future__ import annotations

import re
import shlex
from dataclasses import fields
from io import StringIO

import pytest
from django.core.management import CommandError, call_command

from recsite.capacity import UnitCosts, Workload, plan
from recsite.environment import BASE_DIR
from recsite.management.commands.capacity import Command

EXAMPLES = re.findall(
    r"```text\n\$ python manage.py (capacity .*)\n((?:.*\n)+?)```", (BASE_DIR / "docs" / "capacity.md").read_text()
)


def _said(*arguments: str) -> str:
    out = StringIO()
    call_command("capacity", *arguments, stdout=out)
    return out.getvalue()


def test_docs__have_examples() -> None:
    assert len(EXAMPLES) == 3


@pytest.mark.parametrize(("command", "printed"), EXAMPLES)
def test_docs__show_what_the_command_prints(command: str, printed: str) -> None:
    assert _said(*shlex.split(command)[1:]) == printed


def test_options__every_figure_can_be_given() -> None:
    parser = Command().create_parser("manage.py", "capacity")
    options = {action.dest for action in parser._actions if action.metavar == "N"}
    assert options == {field.name for of in (Workload, UnitCosts) for field in fields(of)}


def test_plan__twice_the_requests__twice_the_lanes() -> None:
    once, twice = (plan(Workload(players=1, requests=requests), UnitCosts()) for requests in (500_000, 1_000_000))
    assert (once.lane_pods, twice.lane_pods) == (23, 46)  # 500,000 × 27.4 µs / 60 % = 22.8 cores


def test_plan__few_requests__lanes_for_three_zones() -> None:
    assert plan(Workload(players=1, requests=1), UnitCosts()).lane_pods == 3


def test_plan__memory__of_all_tables_that_are_there_while_all_load() -> None:
    needed = plan(Workload(players=1_000_000_000, versions=1), UnitCosts(row_bytes=10))
    # The served one, two to go back to, and the one that is being written.
    assert needed.redis_gb == 40.0
    assert (needed.redis_nodes, needed.redis_node_gb) == (1, 50)


def test_plan__loaders__do_all_within_the_time() -> None:
    work = Workload(players=600_000_000, versions=10, load_minutes=60)
    needed = plan(work, UnitCosts(rows_a_second=1_000_000))
    assert needed.load_seconds == 600
    assert needed.loaders == 2  # ten of ten minutes each, in an hour


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--players", "0"],
        ["--players", "1e"],
        ["--players", "1.5"],
        ["--players", "nan"],
        ["--players", "1", "--busy-share", "2"],
        ["--players", "1", "--versions", "-1"],
    ],
)
def test_command__what_is_no_such_number__refused(arguments: list[str]) -> None:
    with pytest.raises(CommandError):
        _said(*arguments)
