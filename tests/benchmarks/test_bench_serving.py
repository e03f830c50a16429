"""The smallest benchmark there can be, whole: it ends, it checked every answer, it says what it found."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.options import PARTS, read_options

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_bench_serving__lane_and_a_limit__ends_with_checked_answers_and_figures(tmp_path: Path) -> None:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("a benchmark needs two cores")
    command = [sys.executable, "-m", "benchmarks", "serving", "--folder", str(tmp_path), "--players", "20000"]
    command += ["--rounds", "1", "--seconds", "0.3", "--contenders", "lane", "empty", "--parts", "table"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    said = done.stdout
    assert "recsite lane: 1,000 answers are the generator's" in said
    assert "What it is to reach:" in said
    assert "the server under test has core" in said
    figures = json.loads((tmp_path / "serving.json").read_text())
    cases = {(row["contender"], row["tokens"], row["block_cache"]) for row in figures["rows"]}
    shared, own = "one shared token", "a token per player, each used once"
    assert cases == {
        *(("lane", tokens, cache) for tokens in (shared, own) for cache in (False, True)),
        ("empty", shared, False),
    }
    assert all(row["rate"] > 0 and row["cpu_us"] > 0 for row in figures["rows"])
    assert figures["answers"]["lane"]["right"] > 4_000
    missing = {target["words"] for target in figures["targets"] if target["is_met"] is None}
    assert any("against Go" in words for words in missing)


def test_options__quick__is_one_short_round_of_everything() -> None:
    options = read_options(["serving", "--quick"])
    assert (options.players, options.rounds, options.seconds) == (100_000, 1, 1.0)
    assert options.parts == PARTS
    assert not options.write_docs


def test_options__none__are_at_least_three_rounds() -> None:
    options = read_options(["serving"])
    assert options.rounds == 3


@pytest.mark.parametrize(
    "arguments",
    [
        ["--contenders", "lane", "rust"],
        ["--parts", ""],
        ["--players", "x"],
    ],
)
def test_options__unknown__are_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        read_options(["serving", *arguments])
    assert arguments[0] in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["serving", "--players", "999"], "must be 1,000 to 5,000,000, not 999"),
        (["serving", "--players", "1e6"], "“1e6” is not a whole number"),
        (["serving", "--rounds", "0"], "must be 1 to 20, not 0"),
        (["serving", "--seconds", "nan"], "must be 0.2 to 30.0, not nan"),
        (["loading", "--rows", "-1"], "must be 1,000 to 5,000,000, not -1"),
        (["loading", "--large-rows", "50000001"], "must be 1,000 to 50,000,000, not 50000001"),
        (["loading", "--seconds", "soon"], "“soon” is not a number"),
    ],
)
def test_options__out_of_bounds__are_refused_in_words(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        read_options(arguments)
    assert f"argument {arguments[1]}: {words}" in capsys.readouterr().err
