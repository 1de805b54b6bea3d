"""How good a model's answers are, as one number: more is better.

    top1          share of the samples whose largest element is at the label
    f1            macro F1 of the same classes
    cosine        cosine of the angle between the answers and the uncompressed model's, mean over the runs
    correlation   Pearson's, of all answers and the uncompressed model's
    psnr          of the uncompressed model's answers, in dB, at most 100
    FILE.py       its function `metric(outputs, reference, labels)`: lists with an entry for each run, of dicts of
                  arrays by output and of label arrays (None where the data has none)

top1 and f1 take the uncompressed model's own answers for labels where the data has none."""
from __future__ import annotations

import inspect
import math
import runpy
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lepton.artifact import Model
from lepton.compress.data import Run
from lepton.ir.diagnostics import UsageError, line_in
from lepton.ir.tensor import Array

Outputs = Sequence[dict[str, Array]]
Labels = Sequence[Array | None]
Score = Callable[[Outputs, Outputs, Labels], float]
HIGHEST_PSNR = 100.0
HUGE = 1e30
WORST = -1e30        # score of a point whose answers no number can be made of
SECONDS = 120.0      # that a metric may take for all answers


class NoNumberError(UsageError):
    """A metric gives NaN or infinity."""


@dataclass(frozen=True)
class Metric:
    """A named score; `source` tells it from others of that name."""

    name: str
    score: Score
    source: str = ""

    def __call__(self, outputs: Outputs, reference: Outputs, labels: Labels) -> float:
        """Raises UsageError where the metric fails, NoNumberError where it gives none. What it is given it cannot
        change: the same reference and labels judge the next point."""
        got, want = ([{k: _fixed(a) for k, a in one.items()} for one in some] for some in (outputs, reference))
        try:
            with limited(self.name):
                found = float(self.score(got, want, [None if a is None else _fixed(a) for a in labels]))
        except (UsageError, KeyboardInterrupt):
            raise
        except BaseException as error:  # whatever a user's code raises; sys.exit would end the search without a word
            at = line_in(error, Path(self.name))
            raise UsageError(f"metric {self.name}{at} fails: {type(error).__name__}: {error}") from error
        if not math.isfinite(found):
            raise NoNumberError(f"metric {self.name} gives {'NaN' if math.isnan(found) else found}",
                                help="the answers or the labels hold NaN, or something is divided by 0")
        return found


class _TooLongError(BaseException):
    """No Exception: what a metric catches of its own is not this."""


@contextmanager
def limited(name: str) -> Iterator[None]:
    """Raises UsageError where a metric's Python takes longer than SECONDS; in a thread other than the main one, which
    gets no signals, it may."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: object) -> None:
        raise _TooLongError

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, SECONDS, 1.0)   # again, where the first is caught
    try:
        yield
    except _TooLongError:
        raise UsageError(f"metric {name} takes longer than {SECONDS:g} s",
                         help="it is asked for every trial; fewer samples, or less work for each") from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _fixed(array: Array) -> Array:
    """The same elements, not to be written."""
    view = array.view()
    view.flags.writeable = False
    return view


def metric_of(name: str | Callable[..., float]) -> Metric:
    """A metric by name, by the path of a Python file, or a function. Raises UsageError."""
    if callable(name):
        return Metric(getattr(name, "__name__", "metric"), name, _source(name))
    if name in METRICS:
        return Metric(name, METRICS[name])
    if not name.endswith(".py"):
        raise UsageError(f"unknown metric {name!r}", help=f"one of {', '.join(METRICS)}, or a file own.py")
    if not Path(name).is_file():
        raise UsageError(f"no file {name}", help="it defines metric(outputs, reference, labels)")
    try:
        with limited(name):
            score = runpy.run_path(name).get("metric")
    except UsageError:
        raise
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # whatever the file does
        at = line_in(error, Path(name))
        raise UsageError(f"cannot load the metric in {name}{at}: {type(error).__name__}: {error}") from error
    if not callable(score):
        raise UsageError(f"{name} defines no function metric", help="def metric(outputs, reference, labels): ...")
    return Metric(name, score, Path(name).read_text(encoding="utf-8", errors="replace"))


def _source(function: Callable[..., float]) -> str:
    try:
        return inspect.getsource(function)
    except (OSError, TypeError):    # typed into a prompt, compiled, or an object that can be called
        return ""


def answers(model: Model, runs: Sequence[Run]) -> list[dict[str, Array]]:
    """The model's outputs for each run."""
    return [model.run_ports(run.feeds) for run in runs]


def _classes(outputs: Outputs, reference: Outputs, labels: Labels) -> tuple[Array, Array]:
    """Predicted and true class of every sample, by the first output."""
    found, true = [], []
    for got, want, label in zip(outputs, reference, labels, strict=True):
        first = next(iter(got.values()))
        if first.ndim == 0 or not first.size:
            raise UsageError(f"top1 and f1 need scores, the first output is {first.dtype}{list(first.shape)}")
        predicted = first.argmax(-1).reshape(-1)
        wanted = next(iter(want.values())).argmax(-1) if label is None else label
        if wanted.size != predicted.size:
            raise UsageError(f"{wanted.size} labels for {predicted.size} answers")
        _check_classes(wanted, first.shape[-1])
        found.append(predicted)
        true.append(wanted.reshape(-1))
    return np.concatenate(found), np.concatenate(true)


def _check_classes(labels: Array, kinds: int) -> None:
    """Raises UsageError for labels that are no numbers of classes."""
    if labels.dtype.kind not in "iubf":
        raise UsageError(f"the labels are {labels.dtype}, top1 and f1 need numbers of classes")
    wrong = labels[~((labels >= 0) & (labels < kinds) & (labels == np.floor(labels)))] if labels.size else labels
    if wrong.size:
        raise UsageError(f"label {wrong.reshape(-1)[0]}: the model tells {kinds} classes apart, 0 to {kinds - 1}")


def top1(outputs: Outputs, reference: Outputs, labels: Labels) -> float:
    found, true = _classes(outputs, reference, labels)
    return float((found == true).mean())


def f1(outputs: Outputs, reference: Outputs, labels: Labels) -> float:
    found, true = _classes(outputs, reference, labels)
    scores = []
    for kind in np.unique(true):
        hits = float(((found == kind) & (true == kind)).sum())
        scores.append(2 * hits / float((found == kind).sum() + (true == kind).sum()))
    return float(np.mean(scores))


def _flat(outputs: dict[str, Array]) -> Array:
    """All numbers; strings count for nothing."""
    floats = [_numbers(a).reshape(-1) for a in outputs.values() if a.dtype.kind not in "OSU"]
    return np.concatenate(floats) if floats else np.zeros(0)


def _numbers(array: Array) -> Array:
    return np.ascontiguousarray(array, np.complex128).view(np.float64) if array.dtype.kind == "c" else \
        array.astype(np.float64)


def _compared(outputs: Outputs, reference: Outputs) -> list[tuple[Array, Array]]:
    """Each run's numbers, the uncompressed model's beside them. Raises UsageError where there are none to compare."""
    pairs = [(_flat(a), _flat(b)) for a, b in zip(outputs, reference, strict=True)]
    if not any(b.size for _, b in pairs):
        raise UsageError("there are no numbers among the answers to compare", help="give a metric of your own")
    if wrong := next(((a, b) for a, b in pairs if a.size != b.size), None):
        raise NoNumberError(f"{wrong[0].size} numbers in answers where the uncompressed model has {wrong[1].size}")
    return pairs


def distance(outputs: Outputs, reference: Outputs) -> float:
    """Of all answers: the square of their 2-norm distance over that of the reference's size, at most HUGE."""
    pairs = [(_flat(a), _flat(b)) for a, b in zip(outputs, reference, strict=True)]
    if any(a.size != b.size for a, b in pairs):        # sizes may come of the answers
        return HUGE
    found = sum(float(((a - b) ** 2).sum()) for a, b in pairs) / max(sum(float((b * b).sum()) for _, b in pairs), 1e-30)
    return found if found < HUGE else HUGE         # NaN, too


def cosine(outputs: Outputs, reference: Outputs, labels: Labels) -> float:
    found = []
    for a, b in _compared(outputs, reference):
        size = float(np.linalg.norm(a) * np.linalg.norm(b))
        found.append(float(a @ b) / size if size else float(np.array_equal(a, b)))
    return float(np.mean(found))


def correlation(outputs: Outputs, reference: Outputs, labels: Labels) -> float:
    a, b = (np.concatenate(some) for some in zip(*_compared(outputs, reference), strict=True))
    a, b = a - a.mean(), b - b.mean()
    size = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / size if size else float(np.array_equal(a, b))


def psnr(outputs: Outputs, reference: Outputs, labels: Labels) -> float:
    a, b = (np.concatenate(some) for some in zip(*_compared(outputs, reference), strict=True))
    error = float(np.mean((a - b) ** 2))
    peak = float(np.abs(b).max(initial=0.0))
    if not math.isfinite(error):
        return math.nan     # min(100, NaN) is 100
    if error == 0 or peak == 0:
        return HIGHEST_PSNR if error == 0 else 0.0
    return min(HIGHEST_PSNR, 10 * math.log10(peak * peak / error))


METRICS: dict[str, Score] = {"top1": top1, "f1": f1, "cosine": cosine, "correlation": correlation, "psnr": psnr}


@dataclass(frozen=True)
class Budget:
    """The least score allowed: `floor`, or the uncompressed model's score less `drop`."""

    text: str
    drop: float | None = None
    floor: float | None = None

    @classmethod
    def of(cls, text: str) -> Budget:
        """"-0.5%" (a score may drop by 0.005) or ">=0.98". Raises UsageError."""
        words, number = str(text).strip(), math.nan
        floor = words.startswith(">=")
        if floor or (words.endswith("%") and words[0] in "+-0123456789"):
            with suppress(ValueError):
                number = float(words[2:] if floor else words[:-1])
        if math.isfinite(number):
            if not floor and number > 0 and words[0] != "+":  # most who write 1% mean that so much may be lost
                raise UsageError(f"the budget {text!r} has no sign",
                                 help=f'"-{words}": so much less; "+{words}": so much more')
            return cls(text, floor=number) if floor else cls(text, drop=-number / 100)
        raise UsageError(f"cannot read the budget {text!r}", help='"-0.5%": half a point less; ">=0.98": a least score')

    def least(self, baseline: float) -> float:
        """The least score allowed, above WORST whatever was asked for."""
        return max(self.floor if self.floor is not None else baseline - (self.drop or 0.0), WORST / 2)
