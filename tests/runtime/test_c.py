"""The runtime's own C tests, under sanitizers; the example program; no allocation while a model runs."""
from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx.parser
import pytest

import lepton
from tests.runtime.handmade import RUNTIME


def _make(build: Path, *arguments: str) -> str:
    done = subprocess.run(["make", "-C", str(RUNTIME), f"BUILD={build}", *arguments], capture_output=True, text=True,
                          timeout=600)
    assert done.returncode == 0, f"{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout


def _has_sanitizer(name: str, folder: Path) -> bool:
    """Whether the toolchain can link and run a program under it."""
    (folder / "try.c").write_text("int main(void) { return 0; }\n")
    command = f"cc -fsanitize={name} try.c -o try && ./try"
    return subprocess.run(["sh", "-c", command], cwd=folder, capture_output=True).returncode == 0


def test_c_tests_pass(tmp_path: Path) -> None:
    words = _make(tmp_path, "test")
    assert words.count(" ok\n") > 30
    assert "FAILED" not in words


@pytest.mark.slow
@pytest.mark.parametrize("sanitizer", ["address", "undefined", "thread"])
def test_c_tests_pass_under(sanitizer: str, tmp_path: Path) -> None:
    if not _has_sanitizer(sanitizer, tmp_path):
        pytest.skip(f"this toolchain has no {sanitizer} sanitizer")
    assert "FAILED" not in _make(tmp_path, "test", f"SAN={sanitizer}")


@pytest.mark.slow
@pytest.mark.parametrize("sanitizer", ["address", "undefined", "thread"])
def test_the_sanitizers_would_see_something(sanitizer: str, tmp_path: Path) -> None:
    """The same flags on a program that is wrong: a green run above must mean something."""
    if not _has_sanitizer(sanitizer, tmp_path):
        pytest.skip(f"this toolchain has no {sanitizer} sanitizer")
    wrong = {
        "address": "int main(void) { char *p = malloc(4); free(p); return p[n]; }",
        "undefined": "int main(void) { n += 2147483647; return 0; }",
        "thread": "void *f(void *p) { n++; return p; } int main(void) { pthread_t t; pthread_create(&t, 0, f, 0); n++; "
                  "pthread_join(t, 0); return 0; }",
    }[sanitizer]
    n = {"address": "volatile int n = 0;", "undefined": "volatile int n = 1;", "thread": "volatile int n;"}[sanitizer]
    (tmp_path / "wrong.c").write_text(f"#include <stdlib.h>\n#include <pthread.h>\n{n}\n{wrong}\n")
    flags = f"-O1 -fsanitize={sanitizer} -fno-sanitize-recover=all"
    subprocess.run(f"cc {flags} wrong.c -lpthread -o wrong", shell=True, cwd=tmp_path, check=True)
    done = subprocess.run(["./wrong"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode != 0
    assert "Sanitizer" in done.stderr or "runtime error" in done.stderr


def test_the_example_runs_a_model_from_c(artifact: Callable[..., Path], tmp_path: Path) -> None:
    _make(tmp_path, "example")
    x = np.array([1, 2, 3, 4], np.float32)
    x.tofile(tmp_path / "x.raw")
    done = subprocess.run([tmp_path / "run_model", artifact("static"), "-o", "y.raw", "x.raw"], cwd=tmp_path,
                          capture_output=True, text=True)
    assert done.stdout.splitlines() == ["target test", "input x: f32[4]", "output y: f32[4]", "y [4] = 9 11 13 15"]
    np.testing.assert_array_equal(np.fromfile(tmp_path / "y.raw", np.float32), 2 * x + 7)
    done = subprocess.run([tmp_path / "run_model", artifact("dynamic"), "-d", "N=3", "-d", "M=5"],
                          capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == "run_model: run: node 'halve': M must be even (1 against 0)\n"
    done = subprocess.run([tmp_path / "run_model", artifact("dynamic"), "-d", "N=3", "-d", "M=6"],
                          capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1] == "y [3,6] = 0 0 0 0 0 0 0 0 ..."
    for words, said in ((("-d", "K=3"), "K=3: names no open dimension"), (("-d", "N"), "N: is not NAME=SIZE"),
                        (("-d", "N=x"), "N=x: is not NAME=SIZE"), (("-q",), "-q: is no option"), (("-d",), "-d: ")):
        done = subprocess.run([tmp_path / "run_model", artifact("dynamic"), *words], capture_output=True, text=True)
        assert done.returncode != 0
        assert said in done.stderr
    done = subprocess.run([tmp_path / "run_model", tmp_path / "x.raw"], capture_output=True, text=True)
    assert done.returncode == 1


@pytest.mark.slow
def test_the_example_reads_and_writes_lines(tmp_path: Path) -> None:
    _make(tmp_path, "example")
    model = onnx.parser.parse_model("""<ir_version: 10, opset_import: ["" : 20]>
        g (string[N] x) => (string[N, K] y) { y = StringSplit<delimiter="-">(x) }""")
    lepton.compile_to(model, tmp_path / "split.so")
    (tmp_path / "x.txt").write_text("a-b\n\ncé")
    done = subprocess.run([tmp_path / "run_model", "split.so", "-d", "N=3", "-o", "y.txt", "x.txt"], cwd=tmp_path,
                          capture_output=True, text=True)
    assert done.stdout.splitlines()[1:] == ["input x: string[N]", "output y: string[N,pieces]",
                                            "y [3,2] = 'a' 'b' '' '' 'cé' ''"]
    assert (tmp_path / "y.txt").read_text() == "a\nb\n\n\ncé\n\n"


@pytest.fixture(scope="module")
def malloc_trap(tmp_path_factory: pytest.TempPathFactory) -> Path:
    program = tmp_path_factory.mktemp("trap") / "malloc_trap"
    source = Path(__file__).with_name("malloc_trap.c")
    flags = ["-std=gnu11", "-O1", "-w", f"-I{RUNTIME / 'include'}"]
    subprocess.run(["cc", *flags, source, "-ldl", "-o", program], check=True)
    return program


@pytest.mark.parametrize("threads", ["1", "3"])
@pytest.mark.parametrize("name", ["static", "dynamic", "loop"])
def test_runs_allocate_nothing(artifact: Callable[..., Path], malloc_trap: Path, name: str, threads: str) -> None:
    done = subprocess.run([malloc_trap, artifact(name), threads, "N=100", "M=40"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "0\n"), done.stderr


@pytest.mark.slow
def test_runs_over_strings_allocate_nothing(malloc_trap: Path, tmp_path: Path) -> None:
    """Once the session's table has seen as many: cut, put together, printed, read, ranked and in another case."""
    model = onnx.parser.parse_model("""<ir_version: 10, opset_import: ["" : 21]>
        g (string[N] x) => (string[A, B] pieces, string[C] different, int64[N] firsts, string[N] all) {
            pieces, n = StringSplit<delimiter=",">(x)
            high = StringNormalizer<case_change_action="UPPER", stopwords=["2 WORDS,4"], is_case_sensitive=1>(x)
            both = StringConcat(high, high)
            different, at, inverse, counts = Unique(both)
            zero = Constant<value_ints=[0]>()
            firsts_text = StringSplit<delimiter=" ", maxsplit=1>(x)
            flat = Gather<axis=1>(firsts_text, zero)
            shape = Constant<value_ints=[-1]>()
            first = Reshape(flat, shape)
            firsts = Cast<to=7>(first)
            printed = Cast<to=8>(firsts)
            all = StringConcat(printed, x)
        }""")
    lepton.compile_to(model, tmp_path / "strings.so")
    for count in ("N=3", "N=700"):
        done = subprocess.run([malloc_trap, tmp_path / "strings.so", "2", count], capture_output=True, text=True)
        assert (done.returncode, done.stdout.strip()) == (0, "0"), done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("threads", ["1", "2"])
def test_rounds_of_loops_allocate_nothing(malloc_trap: Path, tmp_path: Path, threads: str) -> None:
    """Once memory has grown to what the rounds need: a carried tensor that grows, a branch of sizes of its own, a size
    that is found in each round, values collected without a limit, a loop in the loop."""
    model = onnx.parser.parse_model("""<ir_version: 10, opset_import: ["" : 21]>
        g (float[N] x, bool go) => (float[A] last, int64[B] lengths, float[C, N] rows) {
            none = Identity ("")
            limit = Constant<value_int=9223372036854775807>()
            start = Identity(x)
            last, lengths, rows = Loop(limit, go, start)<body = body (int64 i, bool on, float[K] kept) => (
                    bool again, float[L] grown, int64 length, float[N] row) {
                one = Constant<value_int=1>()
                forty = Constant<value_int=40>()
                two = Constant<value_int=2>()
                rest = Mod(i, two)
                odd = Equal(rest, one)
                number = Cast<to=1>(i)
                minus = Constant<value_ints=[-1]>()
                new = Reshape(number, minus)
                more = If(odd)<then_branch = t () => (float[P] a) { a = Concat<axis=0>(kept, new) },
                               else_branch = e () => (float[Q] b) { b = Neg(kept) }>
                found = NonZero(more)
                many = Shape(found)
                last_of = Constant<value_ints=[1]>()
                size = Gather(many, last_of)
                length = Squeeze(size)
                three = Constant<value_int=3>()
                sure = Constant<value_ints=[1]>()
                yes = Cast<to=9>(one)
                total = Loop(three, yes, x)<body = inner (int64 j, bool go_on, float[N] sum)
                    => (bool go_in, float[N] next) {
                    go_in = Identity(go_on)
                    next = Add(sum, x)
                }>
                row = Identity(total)
                grown = Identity(more)
                again = Less(i, forty)
            }>
        }""".replace('none = Identity ("")', ""))
    lepton.compile_to(model, tmp_path / "rounds.so")
    for count in ("N=3", "N=700"):
        done = subprocess.run([malloc_trap, tmp_path / "rounds.so", threads, count], capture_output=True, text=True)
        assert (done.returncode, done.stdout.strip()) == (0, "0"), done.stderr


def test_the_trap_sees_allocations(artifact: Callable[..., Path], malloc_trap: Path) -> None:
    """A model whose kernel allocates is caught."""
    done = subprocess.run([malloc_trap, artifact("leaky"), "1"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "100\n"), done.stderr
