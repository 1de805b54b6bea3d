"""Trials by optuna, remembered in a file: a search that was stopped goes on where it was."""
from __future__ import annotations

import fcntl
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from lepton.compress.quantize import Recipe, recipe_of
from lepton.compress.sensitivity import Damage, ladder
from lepton.ir.diagnostics import LeptonError, NotInstalledError, ResourceError, UsageError

if TYPE_CHECKING:
    from lepton.compress.searching import Plan, Point, Search

KINDS = ["static", "dynamic", "weights", "float"]
FORMS = ["plain", "channels", "16x1", "16x4", "factors"]     # what happens to the graph before it is quantised
PLAIN: dict[str, Any] = {
    "kind": "static", "ranges": "mse", "care": 0.0, "depthwise": True, "least": 0, "rounding": "nearest",
    "equalize": False, "form": "plain", "shared": 0.0}
CAREFUL = {**PLAIN, "ranges": "percentile", "rounding": "adaround"}   # tried where plain int8 is outside the budget
FIRST: tuple[dict[str, Any], ...] = (                # after int8: one of each kind
    {"depthwise": False, "least": 16}, {"form": "channels", "channels": 0.1, "whole": 0.3},
    {"form": "16x4", "zeros": 0.5, "whole": 0.3}, {"form": "factors", "factors": 0.003, "whole": 0.2},
    {"kind": "float", "form": "16x1", "zeros": 0.6, "whole": 0.2}, {"kind": "weights", "bits": 8, "rounding": "gptq"},
    {"kind": "weights", "bits": 4, "rounding": "gptq"})
NEAR = 0.03         # cares so near to each other are one
LAST = 3            # trials that the end takes as long as: one more, the certificate, the artifact
OUTSIDE = 10.0   # added to the value of a point outside the budget


class Study:
    """An optuna study of one search, and what its trials found."""

    def __init__(self, search: Search, study: Any) -> None:
        self.search, self.study = search, study
        self.points: list[Point] = [_point(t.user_attrs["point"]) for t in study.trials if "point" in t.user_attrs]

    @classmethod
    @contextmanager
    def open(cls, search: Search) -> Iterator[Study]:
        """A new study, or the one in the file, which is nobody else's meanwhile. Raises NotInstalledError without
        optuna, UsageError where the file is of another search, or one under way has it."""
        try:
            import optuna
        except ImportError as error:
            raise NotInstalledError("searching needs optuna, which is not installed",
                                    help="pip install 'lepton-compiler[compress]'") from error
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        logging.getLogger("optuna").setLevel(logging.ERROR)
        path = Path(search.plan.study)
        with Lock(path) if search.plan.study else nullcontext() as lock:
            yield cls(search, _made(search, path, lock))

    def remembered(self, name: str, make: Callable[[], Any]) -> Any:
        """Something that takes long to find out, once for a study."""
        if name not in self.study.user_attrs:
            found = json.dumps(make())
            with self.writing():
                self.study.set_user_attr(name, found)
        return json.loads(self.study.user_attrs[name])

    def run(self, ranked: Sequence[Damage], least: float) -> None:
        """Trials until there are as many as planned, or too little time for another (one at least)."""
        plan, times = self.search.plan, [0.0]
        while len(self.points) < plan.trials and (self.search.left() > LAST * median(times) or not self.points):
            start = time.monotonic()
            self.search.tell(f"trial {len(self.points) + 1}/{plan.trials}")
            with self.writing():
                if plan.method != "grid":
                    self.enqueue(len(ranked), least)
                trial = self.study.ask()
                recipe = self.recipe(trial, ranked)
            known = next((p for p in self.points if p.recipe == recipe), None)
            point = known or self.search.point(recipe)
            value = point.value(plan.objective) + (OUTSIDE + least - point.score if point.score < least else 0.0)
            with self.writing():
                trial.set_user_attr("point", json.dumps(asdict(point)))
                self.study.tell(trial, value)
            self.points.append(point)
            times.append(time.monotonic() - start)

    def enqueue(self, layers: int, least: float) -> None:
        """What is tried before the sampler chooses: int8, with as little care as suffices, then FIRST, on top of the
        best of these."""
        from optuna.trial import TrialState

        if self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            return
        if (change := self.next_int8(layers, least)) is not None:
            self.study.enqueue_trial(change)
        elif "begun" not in self.study.user_attrs:
            self.study.set_user_attr("begun", True)
            base = self.best_int8(least)
            for change in FIRST:
                self.study.enqueue_trial({**base, **change})

    def next_int8(self, layers: int, least: float) -> dict[str, Any] | None:
        """Int8 to try next, None at the end. It is read off the trials, so that a search may stop in between."""
        for known in (PLAIN, CAREFUL):
            score = self.scores(known).get(0.0)
            if score is None:
                return known
            if score >= least:
                return None
        base = max((PLAIN, CAREFUL), key=lambda known: self.scores(known)[0.0])
        care = halfway(self.scores(base), least, max(NEAR, 1 / max(layers, 1)))
        return None if care is None else {**base, "care": care}

    def scores(self, base: Mapping[str, Any]) -> dict[float, float]:
        """Of the trials that are `base` but for the care that is taken, by that."""
        done = zip((t for t in self.study.trials if "point" in t.user_attrs), self.points, strict=True)
        return {trial.params["care"]: point.score for trial, point in done
                if all(trial.params.get(k, v) == v for k, v in base.items() if k != "care")}

    def best_int8(self, least: float) -> dict[str, Any]:
        """Parameters of the best trial up to now that is within the budget; PLAIN where none is."""
        done = zip((t for t in self.study.trials if "point" in t.user_attrs), self.points, strict=True)
        within = [(point.value(self.search.plan.objective), trial.params) for trial, point in done
                  if point.score >= least]
        best = min(within, key=lambda pair: pair[0])[1] if within else {}
        return {key: best.get(key, value) for key, value in PLAIN.items()}

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Raises ResourceError where the study cannot be written, or is gone; what was tried before is kept."""
        path = Path(self.search.plan.study)
        if self.search.plan.study and not path.exists():
            raise ResourceError(f"the study {path} was removed while the search ran", help="start the search again")
        with _writing(path):
            yield

    def recipe(self, trial: Any, ranked: Sequence[Damage]) -> Recipe:
        """What a trial's parameters stand for: `care` is how far up the ladder from int8 to f32 it goes; depthwise
        layers and those that sum over few numbers stay in f32 if it says so."""
        kind = trial.suggest_categorical("kind", KINDS)
        ranges = trial.suggest_categorical("ranges", ["mse", "minmax", "percentile"])
        care = trial.suggest_float("care", 0.0, 1.0)
        depthwise = trial.suggest_categorical("depthwise", [True, False])
        least = trial.suggest_categorical("least", [0, 16, 64])
        rounding = trial.suggest_categorical("rounding", ["nearest", "adaround", "gptq"])
        equalize = trial.suggest_categorical("equalize", [False, True])
        facts = self.search.layer_facts()
        steps = ladder(ranked)
        steps = steps[:round(care * len(steps))]
        skip = {layer for layer, what in steps if what == "f32"}
        skip |= {n for n, (deep, width) in facts.items() if (deep and not depthwise) or 0 < width < least}
        form = self.form(trial, ranked, set(facts) - skip if kind == "static" else set())
        if kind == "float":
            return recipe_of({"kind": kind, **form})
        if kind == "dynamic":
            return recipe_of({"kind": kind, "skip": sorted(n for n in skip if facts[n][1]), **form})
        if kind == "weights":
            bits = trial.suggest_categorical("bits", [8, 4])
            return recipe_of({"kind": kind, "bits": bits, "block": 32 if bits == 4 else 0, "rounding": rounding,
                              "skip": sorted(n for n in skip if facts[n][1]), **form})
        wide = {layer for layer, what in steps if what == "wide"} - skip
        return recipe_of({"kind": kind, "ranges": ranges, "skip": sorted(skip), "wide": sorted(wide),
                          "rounding": rounding, "equalize": equalize, **form})

    def form(self, trial: Any, ranked: Sequence[Damage], levels: set[str]) -> dict[str, Any]:
        """What happens before quantisation: channels go, zeros come, or layers become factors. Kernels of `levels` skip
        zeros of four inputs at once; blocks of one are for the other layers. The `whole` share of the layers, those
        that pruning hurts most, is left alone."""
        form = trial.suggest_categorical("form", FORMS)
        fields: dict[str, Any] = {}
        if self.search.plan.objective != "latency":
            fields["share"] = trial.suggest_categorical("shared", [0.0, 1e-3])
        if form == "plain":
            return fields
        hurt = sorted(ranked, key=lambda d: -d.pruned)
        whole = {d.layer for d in hurt[:round(trial.suggest_float("whole", 0.0, 0.8) * len(hurt))]}
        match form:
            case "channels":
                fields |= {"prune": trial.suggest_float("channels", 0.02, 0.5), "pattern": "channels"}
            case "factors":
                fields["factors"] = trial.suggest_float("factors", 1e-4, 0.05, log=True)
            case _:
                fields |= {"prune": trial.suggest_float("zeros", 0.3, 0.9), "pattern": form}
                whole |= levels if form == "16x1" else set()
        return {**fields, "whole": sorted(whole)}


def halfway(scores: Mapping[float, float], least: float, near: float) -> float | None:
    """The care to try next: halfway between the largest that was outside the budget and the least that was within it, 1
    at first, until they are `near`. A sampler, each of whose trials changes many things, takes far more of them to get
    there."""
    low = max((value for value, score in scores.items() if score < least), default=0.0)
    high = min((value for value, score in scores.items() if score >= least and value > low), default=1.0)
    return None if high - low <= near else (low + high) / 2


class Lock:
    """A search has its study to itself as long as it runs: another one would take its trials, and remove the file at
    last. The system lets go of it when a process is killed; what optuna takes otherwise is a file beside the study that
    stays then, and is waited for."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> Lock:
        """Raises UsageError where no study can be, or another search has it; ResourceError."""
        _check(self.path)
        with _writing(self.path):
            self.file = self.path.open("ab")
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self.file.close()
            raise UsageError(f"another search is at the study {self.path}",
                             help="wait for it, or name another file with --study") from error
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def acquire(self) -> bool:
        """For optuna, before each line it writes."""
        return True

    def release(self) -> None:
        """For optuna, after each line."""


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Raises ResourceError where the study cannot be written; what was tried before is kept."""
    try:
        yield
    except OSError as error:
        raise ResourceError(f"cannot write the study {path}: {error.strerror}",
                            help="the same command goes on from the trials before, once it can be written") from error


def _made(search: Search, path: Path, lock: Any) -> Any:
    """Optuna's study of the search: in the file if there is a lock on it, in memory otherwise."""
    import optuna
    from optuna.storages.journal import JournalFileBackend

    try:
        with _writing(path):
            if lock is not None:
                _drop_half_line(path)
            storage = optuna.storages.JournalStorage(JournalFileBackend(str(path), lock)) if lock is not None else None
            others = [s.study_name for s in storage.get_all_studies()] if storage else []
            if others and search.fingerprint not in others:
                raise UsageError(f"the study in {path} is of another model, data set, metric, objective or target",
                                 help="-O and --threads count too; name another file with --study, or delete this one")
            return optuna.create_study(storage=storage, study_name=search.fingerprint, sampler=_sampler(search.plan),
                                       direction="minimize", load_if_exists=True)
    except (ValueError, KeyError, TypeError, AssertionError) as error:     # what optuna makes of other files
        raise UsageError(f"{path} is no study", help="name another file with --study") from error


def _check(path: Path) -> None:
    """Raises UsageError where no study can be."""
    if not path.parent.is_dir():
        raise UsageError(f"cannot keep the study in {path}: there is no folder {path.parent}")
    if path.exists() and not path.is_file():
        raise UsageError(f"cannot keep the study in {path}: it is no regular file")


def _drop_half_line(path: Path) -> None:
    """What a kill or a full disk left of a study's last line: the next one would be written behind it, on the same
    line. Files that are no studies stay as they are."""
    if not path.is_file():
        return
    with path.open("rb+") as file:
        text = file.read()
        whole = text.rfind(b"\n") + 1
        if text.startswith(b'{"op_code"') and whole < len(text):
            file.truncate(whole)


def _sampler(plan: Plan) -> Any:
    """Who chooses the parameters of trials."""
    import optuna

    if plan.method == "tpe":
        return optuna.samplers.TPESampler(seed=plan.seed, n_startup_trials=6)
    if plan.method == "random":
        return optuna.samplers.RandomSampler(seed=plan.seed)
    space: dict[str, Any] = {
        "kind": ["static", "dynamic", "float"], "ranges": ["mse", "percentile"], "care": [0.0, 0.1, 0.3],
        "depthwise": [True, False], "least": [0], "rounding": ["nearest", "adaround"],
        "equalize": [False], "form": ["plain", "channels"], "channels": [0.1, 0.25], "whole": [0.3], "shared": [0.0]}
    return optuna.samplers.GridSampler(space, seed=plan.seed)


def _point(text: str) -> Point:
    from lepton.compress.searching import Point

    fields = json.loads(text)
    try:
        return Point(**{**fields, "recipe": recipe_of(fields["recipe"])})
    except (TypeError, KeyError, LeptonError) as error:
        raise UsageError("the study is of another version of Lepton", help="name another file with --study") from error
