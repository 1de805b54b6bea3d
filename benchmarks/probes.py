"""What is measured in processes of their own: programs of a few lines, each of which prints lines of JSON."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

PLAN = """
import json, sys, onnx
from lepton.codegen.kernel import align
from lepton.codegen.memory import lower_bound
from lepton.codegen.program import Storage
from lepton.driver import Options, lower
((program, _),) = lower(sys.argv[1], Options.of({"target": sys.argv[2]})).programs
buffers = [b for b in program.buffers if b.storage is Storage.WORKSPACE]
least = lower_bound([align(b.size) for b in buffers], [(b.first, b.last) for b in buffers]) if program.is_static else 0
packed = sum({b.digest: b.size for b in program.buffers if b.storage is Storage.CONSTANT}.values())
graph = onnx.load(sys.argv[1]).graph
constants = (a.t for n in graph.node if n.op_type == "Constant" for a in n.attribute if a.name == "value")
weights = sum(onnx.numpy_helper.to_array(t).nbytes for t in (*graph.initializer, *constants))
print(json.dumps({"workspace": program.workspace, "least": least, "packed": packed, "weights": weights}))
"""

_START = """
import json, os, sys, time
import numpy as np
import lepton
lepton.load
from lepton.library import load
from lepton.inputs import make_inputs

def rows(file):
    found = (line.split() for line in open(file) if line.endswith("kB\\n"))
    return {row[0][:-1]: int(row[1]) / 1e3 for row in found}

def memory():
    return {**rows("/proc/self/smaps_rollup"), "Peak": rows("/proc/self/status")["VmHWM"]}

def inputs(model):
    return make_inputs(model.inputs, [], {}, 0)

def middle(times):
    return sorted(times)[len(times) // 2]

def timed(run, seconds):
    times, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 5:
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return times
"""

MEMORY = _START + """
open("/proc/self/clear_refs", "w").write("5")      # the peak counts from here
before = memory()
model = load(sys.argv[1], threads=1)
feeds = inputs(model)
outputs = model.run(feeds)
for _ in range(2):
    model.run(feeds, outputs)
print(json.dumps(before), flush=True)
sys.stdin.readline()                       # until all processes are this far
callers = sum(array.nbytes for array in (*feeds.values(), *outputs.values())) / 1e6
print(json.dumps({**memory(), "Callers": callers}), flush=True)
sys.stdin.readline()
"""

# Through Python, and by the C call alone: the difference is what Python adds. Then a loop of multiply-adds in registers
# that takes as long as a run: its jitter is the machine's.
TIMES = _START + """
from lepton._rt import lib
threads, seconds = int(sys.argv[2]), float(sys.argv[3])
os.sched_setaffinity(0, {int(core) for core in sys.argv[4].split(",")})
model = load(sys.argv[1], threads=threads)
feeds, session = inputs(model), model.session()
outputs = session.run(feeds)
call = lib.lpt_call_run, session._code.api, session._handle, session._inputs, session._outputs

def percentiles(times):
    times.sort()
    return {"p50": times[len(times) // 2], "p99": times[len(times) * 99 // 100]}

for _ in range(5):
    session.run(feeds)
through = percentiles(timed(lambda: session.run(feeds), seconds))
session.run(feeds, outputs)                # from here on the session's rows point at these arrays
within = percentiles(timed(lambda: call[0](*call[1:]), seconds))

from lepton.ceilings import peak_loop
from lepton.codegen.target import native

loop, _ = peak_loop(native())
loop()
turns = max(1, round(within["p50"] / min(timed(loop, 0.02))))

def loops():
    for _ in range(turns):
        loop()

machine = percentiles(timed(loops, seconds))
print(json.dumps({**through, "c50": within["p50"], "c99": within["p99"], "machine": machine["p99"] / machine["p50"]}))
"""

# One thread and all given cores in turns of a fiftieth of a second, so that both meet the same hours of a machine that
# others use too: the middle one of the turns' ratios. And what a loop of multiply-adds in registers gains, which is all
# that there is.
TURNS = _START + """
seconds, cores = float(sys.argv[2]), sys.argv[3].split(",")
os.sched_setaffinity(0, {int(core) for core in cores})
models = [load(sys.argv[1], threads=threads) for threads in (1, len(cores))]
feeds = inputs(models[0])
sessions = [model.session() for model in models]
outputs = [session.run(feeds) for session in sessions]
gains, end = [], time.perf_counter() + seconds
while time.perf_counter() < end or len(gains) < 5:
    one, more = (middle(timed(lambda: session.run(feeds, own), 0.02)) for session, own in zip(sessions, outputs))
    gains.append(one / more)

from lepton.ceilings import peak_loop, rate
from lepton.codegen.target import native

alone, together = (rate([peak_loop(native()) for _ in cores[:many]]) for many in (1, len(cores)))
print(json.dumps({"gain": middle(gains), "machine": together / alone}))
"""

THREADS = _START + """
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
before = len(os.listdir("/proc/self/task"))
model = load(sys.argv[1])
model.run(inputs(model))
print(json.dumps({"threads": 1 + len(os.listdir("/proc/self/task")) - before}))
"""

FIRST = _START + """
start = time.perf_counter()
model = load(sys.argv[1], threads=int(sys.argv[2]))
loaded = time.perf_counter() - start
feeds = inputs(model)
start = time.perf_counter()
model.run(feeds)
first = loaded + time.perf_counter() - start
print(json.dumps({"first": first, "run": middle(timed(lambda: model.run(feeds), 0.05))}))
"""

RUNTIME_FIRST = _START + """
import onnxruntime
feeds = inputs(load(sys.argv[2]))
options, threads = onnxruntime.SessionOptions(), int(sys.argv[3])
if threads:
    options.intra_op_num_threads = options.inter_op_num_threads = threads
start = time.perf_counter()
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
session.run(None, feeds)
print(json.dumps({"first": time.perf_counter() - start}))
"""


# numpy's threads spin for a tenth of a second after they are started, on the core that a first run needs too.
ALONE = {"OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def probe(code: str, *arguments: object) -> dict[str, Any]:
    """What the program prints last. Raises RuntimeError where it fails."""
    done = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True,
                          check=False, env={**os.environ, **ALONE})
    if done.returncode:
        raise RuntimeError(done.stderr)
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def together(code: str, *arguments: object) -> tuple[list[dict[str, float]], list[dict[str, float]]]:
    """Two processes of a program at the same time: what each prints first and, when both are that far, second."""
    processes = [subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], text=True,
                                  stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(2)]
    found: tuple[list[dict[str, float]], list[dict[str, float]]] = [], []
    for printed in found:
        for process in processes:
            assert process.stdout is not None
            printed.append(json.loads(process.stdout.readline()))
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
    for process in processes:
        process.wait()
    return found
