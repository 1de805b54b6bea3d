"""Inputs made up on the command line: plausible by name and dtype, sized as told."""
from __future__ import annotations

import io
import warnings
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from lepton.inputs import bind_sizes, make_inputs, ports_of, random_array, read_arrays, symbols, telling_sizes
from lepton.ir.diagnostics import LeptonError, UsageError
from lepton.ir.parser import parse
from lepton.ports import Port


def _port(name: str, dtype: object, *shape: int | str) -> Port:
    return Port(name, np.dtype(dtype), shape)  # type: ignore[call-overload]


@pytest.mark.parametrize(("name", "dtype", "low", "high"), [
    ("attention_mask", np.int64, 1, 1), ("mask", np.float32, 1, 1), ("input_ids", np.int64, 0, 9),
    ("token_type_ids", np.int64, 0, 1), ("n", np.int32, 0, 1), ("flag", np.bool_, 0, 1), ("tokens", np.int32, 0, 9),
    ("x", np.float32, -6, 6), ("x", ml_dtypes.bfloat16, -6, 6), ("x", ml_dtypes.float8_e4m3fn, -6, 6),
    ("x", ml_dtypes.int4, 0, 1), ("x", np.uint8, 0, 1),
])
def test_random_elements(name: str, dtype: object, low: int, high: int) -> None:
    array = random_array(_port(name, dtype, 500), (500,), np.random.default_rng(0))
    assert array.dtype == np.dtype(dtype)  # type: ignore[call-overload]
    wide = array.astype(np.float64)
    assert (wide >= low).all()
    assert (wide <= high).all()
    assert low == high or len(np.unique(wide)) > 1


def test_complex_and_scales() -> None:
    rng = np.random.default_rng(0)
    assert np.iscomplex(random_array(_port("x", np.complex64, 9), (9,), rng)).all()
    scale = random_array(_port("s", ml_dtypes.float8_e8m0fnu, 9), (9,), rng)
    assert np.isfinite(scale.astype(np.float32)).all()


def test_strings() -> None:
    """Made up, they can be read as numbers; written, they are JSON or one word as it stands."""
    port = _port("words", object, "N")
    made = random_array(port, (50,), np.random.default_rng(0))
    assert made.dtype == object
    assert set(made) <= set("0123456789")
    assert make_inputs([port], ['words=["a","é \\"b"]'], {}, None)["words"].tolist() == ["a", 'é "b']
    assert make_inputs([port], ["words=plain text"], {"N": 2}, None)["words"].tolist() == ["plain text"] * 2
    assert make_inputs([port], ["words=[]"], {}, None)["words"].shape == (0,)
    for wrong in ("[1]", '["a"', '[["a"],["b","c"]]'):
        with pytest.raises(UsageError, match="-i words="):
            make_inputs([port], [f"words={wrong}"], {}, None)


def test_sizes_come_from_arrays_options_and_defaults() -> None:
    ports = [_port("ids", np.int64, "B", "seq_len"), _port("x", np.float32, "B", "H", "H//2")]
    assert symbols(ports) == {"B": True, "H": False, "seq_len": False}
    assert bind_sizes(ports, {}, {"H": 8}) == {"B": 1, "seq_len": 16, "H": 8}
    assert bind_sizes(ports, {"ids": np.zeros((3, 5), np.int64)}, {"H": 8}) == {"B": 3, "seq_len": 5, "H": 8}
    feeds = make_inputs(ports, [], {"H": 9}, 0)
    assert {n: a.shape for n, a in feeds.items()} == {"ids": (1, 16), "x": (1, 9, 4)}


@pytest.mark.parametrize(("given", "sizes", "words"), [
    ([], {}, "open dimension H of .* needs? a size|open dimension H of"),
    ([], {"Q": 1}, "no open dimension 'Q'"),
    (["n=2.5"], {"H": 1}, "it is no i64"),
    (["n=300000000000000000000"], {"H": 1}, "-i n="),
    (['n="a"'], {"H": 1}, "only numbers"),
    (["n={}"], {"H": 1}, "only numbers"),
    (["n=[[1],[2,3]]"], {"H": 1}, "-i n="),
    (["n=" + 5000 * "["], {"H": 1}, "-i n=.*recursion"),
])
def test_refuses(given: list[str], sizes: dict[str, int], words: str) -> None:
    ports = [_port("x", np.float32, 2, "H"), _port("n", np.int64)]
    with pytest.raises(UsageError, match=words):
        make_inputs(ports, given, sizes, 0)


def test_an_unknown_size_asks_for_the_array(tmp_path: Path) -> None:
    port = _port("x", np.float32, "?")
    with pytest.raises(UsageError, match="nothing says how large"):
        make_inputs([port], [], {}, 0)


def test_names_with_an_equals_sign(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.ones(2, np.float32))
    port = _port("a=b:0", np.float32, 2)
    assert make_inputs([port], [f"a=b:0=@{tmp_path}/a.npy"], {}, None)["a=b:0"].sum() == 2
    assert make_inputs([port], ["a=b:0=[3,4]"], {}, None)["a=b:0"].sum() == 7


def test_ports_of_a_graph() -> None:
    graph = parse("graph @g(%x: f32[N,3], %k: i64[]) {\n  %y = relu(%x) : f32[N,3]\n  return %y, %k\n}\n")
    assert [str(p) for p in ports_of(graph)] == ["x: f32[N,3]", "k: i64[]"]


def test_damaged_archives_are_said_to_be(tmp_path: Path) -> None:
    """Cut bytes of a compressed array, an array of more elements than there is memory, two of a name, no array."""
    x = np.random.default_rng(0).standard_normal(5000).astype(np.float32)
    np.savez_compressed(tmp_path / "torn.npz", x=x)
    torn = bytearray((tmp_path / "torn.npz").read_bytes())
    torn[200:202] = b"\xa5\x5a"
    (tmp_path / "torn.npz").write_bytes(torn)
    np.save(tmp_path / "huge.npy", x)
    huge = (tmp_path / "huge.npy").read_bytes().replace(b"(5000,), }" + b" " * 15, b"(1152921504606846976,), }")
    (tmp_path / "huge.npy").write_bytes(huge)
    member = io.BytesIO()
    np.save(member, x)
    with zipfile.ZipFile(tmp_path / "twice.npz", "w") as archive, warnings.catch_warnings(action="ignore"):
        archive.writestr("x.npy", member.getvalue())
        archive.writestr("x.npy", member.getvalue())
    with zipfile.ZipFile(tmp_path / "letter.npz", "w") as archive:
        archive.writestr("letter.txt", "hello")
    np.savez(tmp_path / "objects.npz", x=np.array([{}], object))
    for name, said in {"torn.npz": "decompressing|Bad CRC", "huge.npy": "Unable to allocate|array",
                       "twice.npz": "holds two arrays 'x'", "letter.npz": "'letter.txt' in it is no array",
                       "objects.npz": "Object arrays"}.items():
        with pytest.raises(UsageError, match=f"cannot read arrays from .*{name}: .*({said})"):
            read_arrays(tmp_path / name)


def test_sizes_that_nobody_gave_are_named_where_a_run_is_refused() -> None:
    ports = [_port("x", np.float32, "batch", "sequence"), _port("h", np.float32, "batch", 4)]

    def refused(given: list[str], sizes: dict[str, int]) -> str:
        with pytest.raises(LeptonError) as caught, telling_sizes(ports, given, sizes, {"sequence": "sequence length"}):
            raise LeptonError("no")
        return str(caught.value)

    assert "--dim batch=… --dim sequence=…" in refused([], {})
    assert "sequence is: --dim sequence=…" in refused(["h=@h.npy"], {})
    assert refused([], {"batch": 2, "sequence length": 512}) == "no"     # by the source's own name
    assert refused([], {"batch": 2, "sequence": 512}) == refused(["x=@x.npy"], {}) == refused(["@all.npz"], {}) == "no"
