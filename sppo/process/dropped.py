"""Models whose weights are dropped (`publish.keep`), and which of them a run trains again because it needs them."""

from __future__ import annotations

from collections.abc import Collection, Set
from typing import NamedTuple

from sppo.config.sections.section import Stage
from sppo.models.fetch import policy_digest
from sppo.store import keys
from sppo.store.lineage import Lineage


class Work(NamedTuple):
    """What a stage commits: of an iteration, or, as iteration 0, of the whole run."""

    stage: Stage
    iteration: int = 0


def dropped_weights(
    lineage: Lineage, there: Collection[Work], missing: Set[Work]
) -> tuple[frozenset[int], frozenset[int]]:
    """The iterations of whose models the weights are dropped, and those of them that are trained again.

    Args:
        lineage: of the run.
        there: what is committed.
        missing: what is not.
    """
    digests: dict[int, str] = {}
    for t in sorted(t for stage, t in there if stage == "train"):
        manifest = lineage.store.manifest(lineage.model_key(t))
        if manifest is not None and manifest.dropped:
            digests[t] = policy_digest(f"{lineage.store.uri}/{lineage.model_key(t)}")
    if not digests:
        return frozenset(), frozenset()
    best = _best(lineage)
    silent = {t for t, digest in digests.items() if not _answered(lineage, digest, t == best or lineage.is_last(t))}
    return frozenset(digests), trained_again(digests.keys(), missing, silent, best)


def trained_again(dropped: Collection[int], missing: Set[Work], silent: Set[int], best: int) -> frozenset[int]:
    """The iterations whose dropped weights something that is missing needs, be it another one's training.

    Which model is published of iterations that are not evaluated yet nobody knows: if its weights are dropped, publish
    says so, and the next plan has them trained again.

    Args:
        dropped: iterations of whose models the weights are dropped.
        missing: what is to be done.
        silent: iterations whose models have not given all the answers that an evaluation reads.
        best: the iteration whose model is to be published, as far as iterations are evaluated; 0 for none of them.
    """
    again: set[int] = set()
    for t in sorted(dropped, reverse=True):
        readers = {Work("generate", t + 1), Work("train", t + 1)}
        readers |= {Work("evaluate", t), Work("evaluate", t + 1)} if t in silent else set()
        if t == best:  # whichever evaluation turns out to be the last one asks it the questions at the end
            readers |= {Work("publish"), *(work for work in missing if work.stage == "evaluate" and t in silent)}
        if readers & missing or t + 1 in again:
            again.add(t)
    return frozenset(again)


def _answered(lineage: Lineage, digest: str, at_the_end: bool) -> bool:
    """Whether the model of a digest has given all the answers that an evaluation reads, those at the end too or not."""
    answers, wanted = [keys.answers(digest, lineage.answers())], lineage.config.evaluate.instructions
    for count in (wanted.count, wanted.final if at_the_end else 0):
        if count:
            answers.append(keys.instruction_answers(digest, lineage.instructions(count)))
    return all(lineage.store.manifest(key) is not None for key in answers)


def _best(lineage: Lineage) -> int:
    evaluated = lineage.evaluated()
    verdict = lineage.verdict(evaluated[-1]) if evaluated else None
    return int(verdict["best_iteration"]) if verdict else 0
