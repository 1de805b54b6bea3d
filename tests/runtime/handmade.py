"""Compiled models made by hand: the tables of runtime_c/tests/programs.h, compiled by cc and linked by link.py."""
from __future__ import annotations

import platform
import subprocess
from pathlib import Path

from lepton.codegen.link import link

ROOT = Path(__file__).parents[2]
RUNTIME = ROOT / "runtime_c"
TRIPLE = f"{platform.machine()}-unknown-linux-gnu"

_STATIC = "static const lpt_program linked = STATIC_PROGRAM(lpt_weights);"

# y = x for any element type, over bytes.
_COPY = """
#include <string.h>
static void copy(void *const *b, const int64_t *d, void *s, int64_t lo, int64_t hi) {
  (void)d, (void)s;
  memcpy((char *)b[1] + lo, (const char *)b[0] + lo, (size_t)(hi - lo));
}
static const char *const words[] = {"N", "3"};
static const lepton_port copy_in[] = {{"x", DTYPE, 2, {-1, 3}, words}}, copy_out[] = {{"y", DTYPE, 2, {-1, 3}, words}};
static const lpt_port_slots copy_slots[] = {{{2, 3}}};
static const int64_t copy_env[] = {0, 1, 0, 3, 0};
static void copy_shape(int64_t *env) { env[4] = env[2] * 3 * SIZE; }
static const lpt_symbol copy_symbols[] = {{2, 0, 0, 0, 0, 0}};
static const lpt_buffer copy_buffers[] = {{LPT_INPUT, 0, 0, 4, 0, 0, 0}, {LPT_OUTPUT, 0, 0, 4, 0, 0, 0}};
static const lpt_operand copy_operands[] = {{0, 0}, {1, 0}};
static const lpt_step copy_steps[] = {{copy, "copy", LPT_CALL, 0, 2, 0, 4, 0, 1, 0}};
static const lpt_program linked = {
  .target = "test", .metadata = "{}", .inputs = copy_in, .outputs = copy_out, .input_slots = copy_slots,
  .output_slots = copy_slots, .buffers = copy_buffers, .operands = copy_operands, .steps = copy_steps,
  .symbols = copy_symbols, .env = copy_env, .shape = copy_shape, .n_inputs = 1, .n_outputs = 1, .n_buffers = 2,
  .n_operands = 2, .n_steps = 1, .n_symbols = 1, .n_env = 5, .max_operands = 2,
};
"""

# The static program with a kernel that allocates.
_LEAKY = """
#include <stdlib.h>
void *lost;
static void leak(void *const *b, const int64_t *d, void *s, int64_t lo, int64_t hi) {
  lost = malloc(8);
  twice(b, d, s, lo, hi);
}
static const lpt_step leaky_steps[] = {
  {leak, "leak", LPT_CALL, 0, 2, 0, 2, 4, 1, 0}, {add, "add", LPT_CALL, 2, 3, 1, 2, 0, 1, 0},
};
#define static_steps leaky_steps
static const lpt_program linked = STATIC_PROGRAM(lpt_weights);
"""

# The static program with a kernel that says it is there, in x[1], and waits for x[0] to change; not for ever.
_WAITING = """
#include <time.h>
static void waiting(void *const *b, const int64_t *d, void *s, int64_t lo, int64_t hi) {
  volatile float *x = b[0];
  x[1] = -1;
  for (int i = 0; i < 1000 && x[0] == 0; i++) nanosleep(&(struct timespec){0, 10000000}, NULL);
  twice(b, d, s, lo, hi);
}
static const lpt_step waiting_steps[] = {
  {waiting, "waiting", LPT_CALL, 0, 2, 0, 2, 4, 2, 0}, {add, "add", LPT_CALL, 2, 3, 1, 2, 0, 1, 0},
};
#define static_steps waiting_steps
static const lpt_program linked = STATIC_PROGRAM(lpt_weights);
"""

_IMPOSSIBLE = """
static const lpt_program linked = {
  .target = "test-impossible", .cpu_features = (uint64_t)1 << 40, .metadata = "{}", .inputs = static_in,
  .outputs = static_out, .input_slots = static_slots, .output_slots = static_slots, .env = static_env, .n_inputs = 1,
  .n_outputs = 1, .n_env = LENGTH(static_env),
};
"""


def source(name: str, dtype: str = "F32", size: int = 4) -> str:
    """C source of an artifact's tables.

    `name`: static, dynamic, loop, late, copy (of a dtype), leaky, waiting or impossible.
    """
    linked = {"static": _STATIC, "copy": _COPY, "leaky": _LEAKY, "waiting": _WAITING, "impossible": _IMPOSSIBLE}.get(
        name, f"#define linked {name}_program")
    return f"""
#define DTYPE LEPTON_{dtype}
#define SIZE {size}
#include "programs.h"
extern const uint8_t lpt_weights[] __attribute__((visibility("hidden")));
{linked}
static const lpt_program *const programs[] = {{&linked}};
__attribute__((visibility("hidden"))) extern const lpt_artifact_table lpt_artifact;
const lpt_artifact_table lpt_artifact = {{programs, 1}};
"""


def compile_c(text: str, folder: Path, cc: str = "cc") -> bytes:
    """C -> object file."""
    (folder / "tables.c").write_text(text)
    flags = ["-std=gnu11", "-O1", "-fPIC", "-w", *(f"-I{RUNTIME / p}" for p in ("include", "src", "tests"))]
    subprocess.run([cc, *flags, "-c", "tables.c", "-o", "tables.o"], cwd=folder, check=True)
    return (folder / "tables.o").read_bytes()


def build(name: str, folder: Path, out: Path | None = None, weights: bytes = b"\x00\x00\xe0\x40", dtype: str = "F32",
          size: int = 4) -> Path:
    """An artifact in `folder`; the static one computes 2 * x + 7 with these weights."""
    out = out or folder / f"{name}.so"
    link([compile_c(source(name, dtype, size), folder)], [weights], out, TRIPLE)
    return out
