"""What a studio may read: files below a root, objects below a prefix, tables in a dataset."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from models_registry.loading.sources import Confinement, SourceProblem
from models_registry.loading.sources import confinement as rules
from models_registry.loading.sources.confinement import Referenced
from models_registry.loading.sources.parquet import open_parquet

DATASETS = ["studio.games"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return an allowed folder beside one that is not."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret.parquet").write_bytes(b"not for them")
    (tmp_path / "allowed" / "deep").mkdir(parents=True)
    return tmp_path / "allowed"


def refusal(location: str, root: Path) -> str:
    with (
        pytest.raises(SourceProblem) as problem,
        open_parquet(location, Confinement((), (), (str(root),)), ["key"], gcs_endpoint=None),
    ):
        pass
    return str(problem.value)


# --- Local files ----------------------------------------------------------------------------------------------------


def test_local__no_root_allowed__is_refused_and_says_who_allows() -> None:
    with pytest.raises(SourceProblem, match="platform staff have not allowed any folder"):
        rules.local_folder("/srv/tables/a.parquet", [])


@pytest.mark.parametrize(
    "location", ["tables/a.parquet", "a.parquet", "file:///srv/a.parquet", "~/a.parquet", "s3://b/a"]
)
def test_local__not_an_absolute_path__is_refused(location: str) -> None:
    with pytest.raises(SourceProblem, match="neither an absolute path nor a gs:// address"):
        rules.local_folder(location, ["/"])


@pytest.mark.parametrize(
    "tail",
    ["../outside/secret.parquet", "deep/../../outside/*", "./a.parquet", "deep//a.parquet", "deep/", "a\\b", "a\0b"],
)
def test_local__dots_and_empty_parts__are_refused(root: Path, tail: str) -> None:
    assert "is not a plain path" in refusal(f"{root}/{tail}", root)


def test_local__neighbour_that_begins_alike__is_refused(root: Path) -> None:
    neighbour = root.with_name("allowed-not")
    neighbour.mkdir()
    assert "not in a folder that platform staff have allowed" in refusal(f"{neighbour}/*.parquet", root)


def test_local__refusal__is_the_same_whether_the_file_exists(root: Path) -> None:
    there = refusal(f"{root.parent}/outside/secret.parquet", root)
    missing = refusal(f"{root.parent}/outside/nobody.parquet", root)
    assert there.replace("secret", "nobody") == missing


def test_local__symlink_to_a_file_outside__is_refused(root: Path) -> None:
    (root / "innocent.parquet").symlink_to(root.parent / "outside" / "secret.parquet")
    for location in (f"{root}/innocent.parquet", f"{root}/*.parquet", f"{root}/**/*.parquet", str(root)):
        assert "not in a folder that platform staff have allowed" in refusal(location, root)


def test_local__symlink_to_a_folder_outside__is_refused(root: Path) -> None:
    (root / "door").symlink_to(root.parent / "outside")
    for location in (
        f"{root}/door/secret.parquet",
        f"{root}/door/*",
        f"{root}/*/secret.parquet",
        f"{root}/**/secret.parquet",
    ):
        assert "not in a folder that platform staff have allowed" in refusal(location, root)


def test_local__link_inside_the_root__is_followed(root: Path) -> None:
    (root / "deep" / "real.parquet").write_bytes(b"?")
    (root / "latest").symlink_to(root / "deep")
    folder, pattern = rules.local_folder(f"{root}/latest/*.parquet", [str(root)])
    assert (folder, pattern) == (root / "deep", ("*.parquet",))


def test_local__root_that_is_itself_a_link__covers_what_it_points_to(root: Path) -> None:
    alias = root.with_name("alias")
    alias.symlink_to(root)
    assert rules.check_local(root / "deep", [str(alias)], "x") == root / "deep"
    assert rules.check_local(alias / "deep", [str(root)], "x") == root / "deep"


def test_local__relative_or_empty_root__allows_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    for useless in ("", ".", "deep"):
        with pytest.raises(SourceProblem):
            rules.check_local(root / "deep", [useless], "x")


def test_local__fifo__is_refused_and_not_waited_for(root: Path) -> None:
    os.mkfifo(root / "pipe.parquet")
    assert "is not a file" in refusal(f"{root}/*.parquet", root)


# --- Cloud Storage --------------------------------------------------------------------------------------------------


def test_gs__no_prefix_allowed__is_refused_and_says_who_allows() -> None:
    with pytest.raises(SourceProblem, match="platform staff have not allowed any gs:// address"):
        rules.gs_folder("gs://bucket/a.parquet", [])


@pytest.mark.parametrize(
    ("location", "prefix"),
    [
        ("gs://bucket/fo/a.parquet", "gs://bucket/fo"),
        ("gs://bucket/fo/a.parquet", "gs://bucket/fo/"),
        ("gs://bucket/fo/*/x-?.parquet", "gs://bucket/fo"),
        ("gs://bucket/fo/**", "gs://bucket/fo"),
        ("gs://bucket/fo/deeper/*", "gs://bucket"),
        ("gs://bucket/fo/deeper/*", "gs://bucket/"),
    ],
)
def test_gs__below_an_allowed_prefix__is_allowed(location: str, prefix: str) -> None:
    folder, _ = rules.gs_folder(location, ["gs://another/", prefix])
    assert f"gs://{folder}/".startswith(prefix)


@pytest.mark.parametrize(
    ("location", "prefix"),
    [
        ("gs://bucket/foo/a.parquet", "gs://bucket/fo"),
        ("gs://bucket/fo*/a.parquet", "gs://bucket/fo"),
        ("gs://bucket/f[o]/a.parquet", "gs://bucket/fo"),
        ("gs://bucket/*/a.parquet", "gs://bucket/fo"),
        ("gs://bucket/**/fo/a.parquet", "gs://bucket/fo"),
        ("gs://bucket2/fo/a.parquet", "gs://bucket"),
        ("gs://bucket/FO/a.parquet", "gs://bucket/fo"),
        ("gs://bucket/fo", "gs://bucket/fo"),
        ("gs://bucket/fo/a.parquet", "bucket/fo"),
        ("gs://bucket/fo/a.parquet", "gs://"),
        ("gs://bucket/fo/a.parquet", "gs:///"),
        ("gs://bucket/fo/a.parquet", "gs://*"),
        ("gs://bucket/fo/a.parquet", "gs://other/../bucket"),
        ("gs://bucket/fo/a.parquet", ""),
    ],
)
def test_gs__not_covered_to_a_path_boundary__is_refused(location: str, prefix: str) -> None:
    with pytest.raises(SourceProblem, match="it is not under a gs:// address that platform staff have allowed"):
        rules.gs_folder(location, [prefix])


@pytest.mark.parametrize(
    "location",
    [
        "gs://bucket/fo/../bar/a.parquet",
        "gs://bucket/./a.parquet",
        "gs://bucket//a.parquet",
        "gs://bucket/fo/",
        "gs://bucket",
        "gs://buck*/fo/a.parquet",
        "gs://../bucket/a.parquet",
        "gs:///fo/a.parquet",
        "gs://bucket@host/fo/a.parquet",
    ],
)
def test_gs__no_plain_address__is_refused(location: str) -> None:
    with pytest.raises(SourceProblem, match=r"is not a plain path|is not an address of the form"):
        rules.gs_folder(location, ["gs://bucket/fo"])


# --- Patterns -------------------------------------------------------------------------------------------------------

TREE = {
    "in": ["day=1/", "day=2/", "_temporary/", ".hidden/", "top.parquet", "notes.txt"],
    "in/day=1": ["a.parquet", "b.parquet", "_SUCCESS", ".a.parquet.crc"],
    "in/day=2": ["c.parquet", "deep/"],
    "in/day=2/deep": ["d.parquet"],
    "in/_temporary": ["half.parquet"],
    "in/.hidden": ["h.parquet"],
}


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("top.parquet", ["in/top.parquet"]),
        ("*.parquet", ["in/top.parquet"]),
        ("*/*.parquet", ["in/day=1/a.parquet", "in/day=1/b.parquet", "in/day=2/c.parquet"]),
        ("day=[2]/?.parquet", ["in/day=2/c.parquet"]),
        ("day=1", ["in/day=1/a.parquet", "in/day=1/b.parquet"]),
        ("day=1/*", ["in/day=1/a.parquet", "in/day=1/b.parquet"]),
        ("day=1/_SUCCESS", ["in/day=1/_SUCCESS"]),
        ("_temporary/*", ["in/_temporary/half.parquet"]),
        (
            "**/*.parquet",
            [
                "in/day=1/a.parquet",
                "in/day=1/b.parquet",
                "in/day=2/c.parquet",
                "in/day=2/deep/d.parquet",
                "in/top.parquet",
            ],
        ),
        ("day=2/**", ["in/day=2/c.parquet", "in/day=2/deep/d.parquet"]),
        ("*", ["in/notes.txt", "in/top.parquet"]),
        ("nothing/*", []),
    ],
)
def test_pattern__matches_within_names_and_passes_over_markers(pattern: str, found: list[str]) -> None:
    def listing(folder: str) -> list[tuple[str, bool]]:
        return [(name.rstrip("/"), name.endswith("/")) for name in TREE.get(folder, [])]

    folder, segments = rules.split_glob(f"in/{pattern}", pattern)
    assert sorted(rules.expand(folder, segments, listing)) == found


def test_pattern__two_double_stars__are_refused() -> None:
    with pytest.raises(SourceProblem, match="more than once"):
        rules.split_glob("/srv/**/a/**/b", "/srv/**/a/**/b")


def test_files__more_than_ten_thousand__are_refused() -> None:
    with pytest.raises(SourceProblem, match="more than 10,000 files"):
        rules.at_most_max_files((f"/srv/{number}" for number in range(10_001)), "/srv/*")


# --- BigQuery tables ------------------------------------------------------------------------------------------------


def test_table__in_an_allowed_dataset__is_named() -> None:
    name = rules.bigquery_table(" studio.games.offers_2026 ", DATASETS)
    assert (name.project, name.dataset, name.table) == ("studio", "games", "offers_2026")
    assert rules.bigquery_table("example.com:studio.games.offers", ["example.com:studio.games"]).dataset == "games"


@pytest.mark.parametrize(
    "location", ["studio.other.offers", "studio.games2.offers", "studio.GAMES.offers", "rival.games.offers"]
)
def test_table__in_another_dataset__is_refused_by_name(location: str) -> None:
    with pytest.raises(SourceProblem, match="platform staff have not allowed the dataset"):
        rules.bigquery_table(location, DATASETS)


@pytest.mark.parametrize(
    "location",
    [
        "games.offers",
        "studio.games.offers_*",
        "studio.games.offers$20261101",
        "studio.games.offers@-3600000",
        "studio.games.a.b",
        "`studio.games.offers`",
        "studio.games.offers; DROP TABLE x",
        "studio.games./../../tables/x",
        "SELECT 1",
        "x" * 500,
        "",
    ],
)
def test_table__not_three_names__is_refused(location: str) -> None:
    with pytest.raises(SourceProblem, match=r"not of the form project\.dataset\.table"):
        rules.bigquery_table(location, DATASETS)


def test_bigquery__no_dataset_allowed__is_refused_and_says_who_allows() -> None:
    with pytest.raises(SourceProblem, match="platform staff have not allowed any dataset"):
        rules.bigquery_table("studio.games.offers", [])
    with pytest.raises(SourceProblem, match="platform staff have not allowed any dataset"):
        rules.check_referenced(Referenced("SELECT", (("studio.games", "“t”"),), 1), [])


# --- BigQuery queries -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "word"),
    [
        ("SELECT * FROM EXTERNAL_QUERY('eu.pg', 'SELECT 1')", "EXTERNAL_QUERY"),
        ("select * from external_query ('eu.pg', 'SELECT 1')", "EXTERNAL_QUERY"),
        (r"SELECT * FROM `EXTERNAL\x5fQUERY`('eu.pg', '')", "EXTERNAL_QUERY"),
        (r"SELECT * FROM `external\137query`('eu.pg', '')", "EXTERNAL_QUERY"),
        (r"SELECT * FROM `\u0045xternal_query`('eu.pg', '')", "EXTERNAL_QUERY"),
        ("SELECT * FROM `region-eu`.INFORMATION_SCHEMA.JOBS", "INFORMATION_SCHEMA"),
        ("SELECT * FROM `studio.games.__TABLES__`", "__TABLES"),
        ("SELECT * FROM ML/**/.PREDICT(MODEL `rival.games.secret`, TABLE t)", "ML functions"),
    ],
)
def test_query__way_to_read_what_bigquery_does_not_list__is_refused(query: str, word: str) -> None:
    with pytest.raises(SourceProblem, match=word):
        rules.check_query_text(query)


def test_query__plain_words__pass() -> None:
    rules.check_query_text(
        "SELECT player_id, model, REGEXP_EXTRACT(name, r'\\d+') AS external FROM `studio.games.offers` -- no query\n"
    )


@pytest.mark.parametrize("statement", ["SCRIPT", "INSERT", "CREATE_TABLE_AS_SELECT", "EXPORT_DATA", "CALL", ""])
def test_query__anything_but_one_select__is_refused(statement: str) -> None:
    with pytest.raises(SourceProblem, match="one SELECT statement"):
        rules.check_referenced(Referenced(statement, (("studio.games", "“t”"),), 1), DATASETS)


def test_query__every_table_allowed__passes() -> None:
    rules.check_referenced(Referenced("SELECT", (("studio.games", "“a”"), ("studio.games", "“b”")), 2), DATASETS)


def test_query__one_table_of_many_elsewhere__is_refused_by_name() -> None:
    referenced = Referenced("SELECT", (("studio.games", "“a”"), ("rival.games", "“rival.games.b”")), 2)
    with pytest.raises(SourceProblem, match=r"may not read “rival\.games\.b”"):
        rules.check_referenced(referenced, DATASETS)


def test_query__no_table_listed__is_refused() -> None:
    with pytest.raises(SourceProblem, match="does not say which tables"):
        rules.check_referenced(Referenced("SELECT", (), 0), DATASETS)


def test_query__as_many_tables_as_bigquery_lists__is_refused_because_there_may_be_more() -> None:
    things = tuple(("studio.games", f"“{number}”") for number in range(50))
    rules.check_referenced(Referenced("SELECT", things[:49], 49), DATASETS)
    with pytest.raises(SourceProblem, match="does not list more than that"):
        rules.check_referenced(Referenced("SELECT", things, 50), DATASETS)
