"""The tuning cache: what counts where, and what becomes of files that are damaged or something else."""
from __future__ import annotations

import json
import os
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from lepton.codegen.schedule import Schedule
from lepton.codegen.target import CUDA_TARGETS, TARGETS
from lepton.ir.diagnostics import UsageError
from lepton.ir.files import replacing
from lepton.tuning import cache
from lepton.tuning.cache import HEADER, Cache, Row

ROW = Row(cache.cpu(), cache.compiler(), "x86-avx2", 1, "gemm=matmul m=1", "gemm tile 1x4 block 1x2 by rows", 1e-6,
          "gemm tile 1x2 block 1x2 by rows", 2e-6, 5)


def written(path: Path, *rows: Row) -> Path:
    kept = Cache.open(path)
    kept.rows |= {r.place: r for r in rows}
    kept.save()
    return path


def test_rows_come_back_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = written(tmp_path / "deep" / "t.jsonl", ROW, replace(ROW, kernel="other"))
    assert list(Cache.open(path).rows.values()) == [ROW, replace(ROW, kernel="other")]
    assert [p.name for p in path.parent.iterdir()] == ["t.jsonl"]


@pytest.mark.parametrize("change", [{"cpu": "another"}, {"compiler": "another"}, {"target": "x86-sse4"},
                                    {"threads": 2}])
def test_rows_of_elsewhere_do_not_count(tmp_path: Path, change: dict[str, object]) -> None:
    path = written(tmp_path / "t.jsonl", replace(ROW, **change))  # type: ignore[arg-type]
    assert ROW.kernel not in cache.schedules("x86-avx2", 1, str(path))
    written(path, ROW)
    assert cache.schedules("x86-avx2", 1, str(path))[ROW.kernel] == Schedule.parse(ROW.schedule)
    assert len(Cache.open(path).rows) == 2, "the row of elsewhere is kept for elsewhere"


def test_what_is_known_for_any_number_of_threads_counts_for_each(tmp_path: Path) -> None:
    path = written(tmp_path / "t.jsonl", replace(ROW, threads=0))
    assert ROW.kernel in cache.schedules("x86-avx2", 3, str(path))
    other = "gemm tile 1x1 block 1x2 by rows"
    written(path, replace(ROW, threads=3, schedule=other))
    assert str(cache.schedules("x86-avx2", 3, str(path))[ROW.kernel]) == other


def test_it_is_as_readable_as_other_files(tmp_path: Path) -> None:
    old = os.umask(0o022)
    try:
        Cache(tmp_path / "t.jsonl", {ROW.place: ROW}).save()
    finally:
        os.umask(old)
    assert (tmp_path / "t.jsonl").stat().st_mode & 0o777 == 0o644
    assert [f.name for f in tmp_path.iterdir()] == ["t.jsonl"]


def test_two_writers_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    first, second = Cache.open(path), Cache.open(path)
    for kept, kernel in ((first, "a"), (second, "b")):
        row = replace(ROW, kernel=kernel)
        kept.rows[row.place] = row
        kept.save()
    assert {r.kernel for r in Cache.open(path).rows.values()} == {"a", "b"}


@pytest.mark.parametrize("text", ["hello", "{}", '{"lepton_tunin": 1}', "[1]", "\x00\xff", " \n", '"lepton_tuning"',
                                  json.dumps(asdict(ROW))])
def test_other_files_are_refused_and_left_alone(tmp_path: Path, text: str) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text(text)
    with pytest.raises(UsageError, match="is no tuning cache"):
        Cache.open(path)
    with pytest.raises(UsageError, match="is no tuning cache"):
        Cache(path, {ROW.place: ROW}).save()
    assert path.read_text() == text


def test_another_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text('{"lepton_tuning": 2}\n')
    with pytest.raises(UsageError, match="of another version"):
        Cache.open(tmp_path / "t.jsonl")


@pytest.mark.parametrize("bad", [
    b"\xff\xfe", b"{", b"[]", b"3", b"{}", b"[" * 100_000, json.dumps({**asdict(ROW), "tried": "5"}).encode(),
    json.dumps({**asdict(ROW), "more": 1}).encode(), json.dumps({**asdict(ROW), "schedule": "gemm"}).encode(),
    json.dumps({**asdict(ROW), "threads": True}).encode(), json.dumps(asdict(ROW)).encode()[:-9]])
def test_damaged_lines_are_left_out(tmp_path: Path, bad: bytes) -> None:
    path = tmp_path / "t.jsonl"
    path.write_bytes(b"\n".join((json.dumps(HEADER).encode(), bad, json.dumps(asdict(ROW)).encode(), b"")))
    found = Cache.open(path)
    assert (found.damaged, list(found.rows.values())) == (1, [ROW])
    found.save()
    assert Cache.open(path).damaged == 0


def test_an_empty_file_is_an_empty_cache(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").touch()
    assert Cache.open(tmp_path / "t.jsonl").rows == {}
    assert written(tmp_path / "t.jsonl", ROW).stat().st_size > 100


def test_places_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read the tuning cache"):
        Cache.open(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"cannot (read|write) the tuning cache"):
        Cache(tmp_path / "file" / "t.jsonl", {ROW.place: ROW}).save()


def test_devices_are_neither_read_nor_replaced(tmp_path: Path) -> None:
    """A pipe in place of /dev/null, which all programs lose where a file is put in its place."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match="pipe: it is no regular file"):
        Cache.open(tmp_path / "pipe")
    with pytest.raises(UsageError, match="pipe: it is no regular file"), replacing(tmp_path / "pipe") as partial:
        partial.touch()
    assert (tmp_path / "pipe").is_fifo()
    assert len(list(tmp_path.iterdir())) == 1


def test_where_results_go(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.default_path() == tmp_path / "lepton" / "tuning.jsonl"


def test_defaults_are_sound() -> None:
    """Each names a target of the table; one answer for a kernel; a schedule that differs from the model's."""
    rows = cache.defaults()
    assert {r.target for r in rows} <= {*TARGETS, *CUDA_TARGETS}
    assert {r.threads for r in rows} <= {0}
    assert len({(r.target, r.kernel) for r in rows}) == len(rows)
    assert all(r.schedule != r.model and r.seconds < r.model_seconds for r in rows)
