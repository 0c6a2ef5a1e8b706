"""What a run will do: what is there already, what each changed value redoes, and what is left."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from sppo.config.identity import PARTS, readers
from sppo.config.run import PreparedConfig, RunConfig
from sppo.config.sections.section import OF_A_RUN, Free, FreeIf, Stage
from sppo.preparing.chunks import chunk_counts, shard_count
from sppo.preparing.pins import recorded_pins, renamed
from sppo.preparing.recorded import configuration, current
from sppo.process.dropped import Work, dropped_weights
from sppo.store import keys
from sppo.store.base import Store
from sppo.store.lineage import GOES_ON, Lineage

OF_AN_ITERATION: tuple[Stage, ...] = ("generate", "rank", "train", "evaluate")
AT_THE_END: tuple[Stage, ...] = ("publish", "report")
_WHOLE: Mapping[Stage, Stage] = {part: whole for whole, parts in PARTS.items() for part in parts}


class Changed(NamedTuple):
    """A value that differs from that of the run which was played here last."""

    key: str
    before: Any
    now: Any

    def line(self, iterations: int) -> str:
        """What it was, what it is and what it redoes."""
        values = f"{self.before} -> {self.now}" if self.before != self.now else f"{self.now} holds something else"
        return f"{self.key}: {values}: {in_words(follows(self.key, iterations), iterations)}"


@dataclass(frozen=True)
class Plan:
    """What becomes of a run that is started now."""

    place: str
    iterations: int
    """Those that may be played."""
    changed: tuple[Changed, ...]
    """Against what was played here last."""
    there: frozenset[Work]
    missing: frozenset[Work]
    dropped: frozenset[int] = frozenset()
    """Iterations of whose models the weights are dropped."""
    again: frozenset[int] = frozenset()
    """Those of them that are trained again, as something that is missing needs them."""

    def tell(self, asked: bool = False) -> None:
        """Print the plan; where the place is empty and nobody asked for it, there is nothing to tell."""
        if asked or self.there or self.changed:
            for line in self.lines():
                print(line, flush=True)

    def lines(self) -> Iterator[str]:
        """The plan for people."""
        for each in self.changed:
            yield f"changed: {each.line(self.iterations)}"
        yield f"there already: {in_words(self.there, self.iterations) or 'nothing'}"
        yield f"to do: {in_words(self.missing, self.iterations) or 'nothing'}"
        if self.changed and Work("prepare") in self.missing:
            yield "an iteration whose prompts and values prepare finds as they were is kept"
        evaluated_anew = {t for stage, t in self.missing if stage == "evaluate"}
        if any(Work("generate", t + 1) in self.there for t in evaluated_anew):
            yield "an iteration after one whose gate decides otherwise is played anew"
        if self.dropped:
            yield f"weights dropped: {_of(self.dropped)}"
        if self.again:
            yield f"trained again, because what is to be done needs the dropped weights: {_of(self.again)}"


def plan(config: PreparedConfig, store: Store) -> Plan:
    """What a run will do that is started, or resumed, with a configuration.

    Args:
        config: with what its values name.
        store: the run's.
    """
    last = configuration(store, current(store))
    lineage = Lineage(config, store)
    works = dict(_works(config, lineage))
    missing = {work for work, done in works.items() if not done}
    dropped, again = dropped_weights(lineage, works.keys() - missing, missing)
    missing |= {Work("train", t) for t in again}
    changed = tuple(_changed(last, config)) if last else ()
    there = frozenset(works.keys() - missing)
    return Plan(store.uri, config.iterations, changed, there, frozenset(missing), dropped, again)


def plan_from_afar(config: RunConfig, store: Store) -> Plan:
    """What a run will do whose models and prompts lie elsewhere: these are taken to be as they were when it began.

    Args:
        config: as somebody gave it.
        store: the run's.
    """
    last = configuration(store, current(store))
    if last is None:
        return plan(PreparedConfig(**config.asked()), store)
    became = recorded_pins(store)
    pinned = renamed(config, lambda uri: became.get(uri, uri))
    return plan(PreparedConfig(**pinned.asked(), contents=last.contents_for(pinned)), store)


def _changed(before: PreparedConfig, now: PreparedConfig) -> Iterator[Changed]:
    old, new = before.read_by(*OF_A_RUN), now.read_by(*OF_A_RUN)
    names = RunConfig.read_by(before, *OF_A_RUN), RunConfig.read_by(now, *OF_A_RUN)
    for key in {**old, **new}:
        if old.get(key) != new.get(key):
            yield Changed(key, *(each.get(key) for each in names))


def _works(config: RunConfig, lineage: Lineage) -> Iterator[tuple[Work, bool]]:
    """Everything that the run commits, as far as its gates are known to go on, and whether it is committed."""
    store = lineage.store
    yield Work("prepare"), store.manifest(lineage.prepared_key) is not None
    of_iterations = chunk_counts(config, lineage)
    shards = shard_count(config, of_iterations)
    for t, chunks in enumerate(of_iterations, start=1):
        generated, ranked = lineage.generate(t), lineage.rank(t)
        pieces = {keys.response_chunk(t, generated, index) for index in range(chunks)}
        yield Work("generate", t), bool(chunks) and pieces <= store.committed(keys.responses(t, generated))
        pieces = {keys.preferences_shard(t, ranked, shard, shards) for shard in range(shards)}
        yield Work("rank", t), bool(chunks) and pieces <= store.committed(keys.preferences(t, ranked))
        yield Work("train", t), store.manifest(lineage.model_key(t)) is not None
        verdict = lineage.verdict(t)
        yield Work("evaluate", t), verdict is not None
        if verdict is not None and verdict["decision"] != GOES_ON:
            break
    yield Work("publish"), store.manifest(lineage.published_key) is not None
    yield Work("report"), store.manifest(lineage.report_key) is not None


def follows(key: str, iterations: int) -> frozenset[Work]:
    """What a changed value redoes: the stages that read it, and what is made from what these make."""
    by = readers(RunConfig)[key]
    stages = () if isinstance(by, Free) else by.stages if isinstance(by, FreeIf) else by
    return followers((_WHOLE.get(stage, stage) for stage in stages if stage in OF_A_RUN), iterations)


def followers(stages: Iterable[Stage], iterations: int) -> frozenset[Work]:
    """Some stages of every iteration, and all that follows from them.

    A later iteration follows from the training before it. It does not from the evaluation, as long as the gate decides
    the same.
    """
    chosen = set(stages)
    if "prepare" in chosen:
        return frozenset([Work("prepare"), *_iterations(OF_AN_ITERATION, iterations), *map(Work, AT_THE_END)])
    found: set[Work] = set()
    for number, stage in enumerate(OF_AN_ITERATION):
        if stage in chosen:
            found |= _iterations(OF_AN_ITERATION[number:], iterations)
            if stage != "evaluate":
                found |= {Work(each, t) for each in OF_AN_ITERATION for t in range(2, iterations + 1)}
    if found or "publish" in chosen:
        found |= set(map(Work, AT_THE_END))
    if "report" in chosen:
        found.add(Work("report"))
    return frozenset(found)


def _iterations(stages: Iterable[Stage], iterations: int) -> set[Work]:
    return {Work(stage, t) for stage in stages for t in range(1, iterations + 1)}


def in_words(works: Iterable[Work], iterations: int) -> str:
    """Works in the order in which they are done, such as "train, evaluate of iteration 1, all of 2 and 3, publish"."""
    found = set(works)
    parts = ["prepare"] if Work("prepare") in found else []
    of = {t: tuple(stage for stage in OF_AN_ITERATION if Work(stage, t) in found) for t in range(1, iterations + 1)}
    t = 1
    while t <= iterations:
        last = t
        while last < iterations and of[last + 1] == of[t]:
            last += 1
        if of[t]:
            many = ("iteration" if last == t else "iterations") + f" {_range(t, last)}"
            parts.append(f"{'all' if of[t] == OF_AN_ITERATION else ', '.join(of[t])} of {many}")
        t = last + 1
    # The report is written by publish: people know no step of that name.
    parts += ["publish"] if Work("publish") in found else ["report"] if Work("report") in found else []
    return "; ".join(parts)


def _of(iterations: Iterable[int]) -> str:
    found = sorted(iterations)
    return ("iteration" if len(found) == 1 else "iterations") + f" {', '.join(map(str, found))}"


def _range(first: int, last: int) -> str:
    if first == last:
        return str(first)
    return f"{first} and {last}" if last == first + 1 else f"{first} to {last}"
