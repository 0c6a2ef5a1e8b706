"""Where everything of a run lies in its store. Keys are relative to the run's `output_uri`.

A key holds the first digits of a digest of what the work read and was made from (`sppo.store.lineage`). So what was
made with other settings lies beside it, and nothing is overwritten.
"""

from __future__ import annotations

CURRENT = "current.json"
"""Which configuration was started here last."""
CONFIGURATIONS = "configurations"
"""The folder of the configurations that were started here."""
PINS = "pins.json"
"""What models of hubs, and folders, a run has; see `sppo.preparing.pins`."""
PLACES = "places.json"
"""Where model folders of a run lie now that have moved since it began; see `sppo.preparing.pins`."""
HELD_OUT_FILE = "held-out.parquet"
RESPONSES_FILE = "responses.parquet"
PREFERENCES_FILE = "preferences.parquet"
PAIRS_FILE = "pairs.parquet"
INSTRUCTIONS_FILE = "instructions.parquet"
ANSWERS_FILE = "answers.parquet"
COMPARISONS_FILE = "comparisons.parquet"
VERDICT_FILE = "verdict.json"
BASE_FILE = "base.parquet"
TRAINING_LOG_FILE = "training_log.jsonl"
DISTRIBUTION_FILE = "probabilities.json"
REPORT_FILE = "report.html"
SUMMARY_FILE = "report.md"
BENCHMARK_FILE = "result.json"
BENCHMARK_ANSWERS_FILE = "answers.jsonl"

OLD = "prepared"
"""Where versions before 0.2 committed a run's configuration."""
DIGITS, OF_A_MODEL = 8, 16
"""Of a digest, in a key."""


def short(digest: str) -> str:
    """The digits of a digest that a key holds."""
    return digest[:DIGITS]


def configuration(digest: str) -> str:
    """A configuration that was started here, of the digest that its results have."""
    return f"{CONFIGURATIONS}/{short(digest)}.json"


def prepared(digest: str) -> str:
    """The tables of prompts."""
    return f"prepared-{short(digest)}"


def prompts_file(iteration: int) -> str:
    """File name, beside the tables of `prepared`, of the prompts that an iteration plays."""
    return f"iteration-{iteration}.parquet"


def responses(iteration: int, digest: str) -> str:
    """The folder of the responses to an iteration's prompts, which are committed by chunks of these."""
    return f"iteration-{iteration}/responses-{short(digest)}"


def response_chunk(iteration: int, digest: str, chunk: int) -> str:
    """Responses to one chunk of an iteration's prompts."""
    return f"{responses(iteration, digest)}/chunk-{chunk:05d}"


def preferences(iteration: int, digest: str) -> str:
    """The folder of an iteration's preferences and pairs, which are committed by shards."""
    return f"iteration-{iteration}/preferences-{short(digest)}"


def preferences_shard(iteration: int, digest: str, shard: int, shards: int) -> str:
    """Preferences and pairs of one shard."""
    return f"{preferences(iteration, digest)}/shard-{shard}-of-{shards}"


def checkpoints(iteration: int, digest: str) -> str:
    """The folder of an iteration's training checkpoints; empty again once the model is committed."""
    return f"iteration-{iteration}/checkpoints-{short(digest)}"


def base_logprobs(iteration: int, digest: str) -> str:
    """The base's log-probabilities of the responses that an iteration trains on, for the objectives that read them."""
    return f"iteration-{iteration}/base-{short(digest)}"


def model(iteration: int, digest: str) -> str:
    """The policy that an iteration trained, pi_{t+1}, with the log of its training."""
    return f"iteration-{iteration}/model-{short(digest)}"


def model_before(iteration: int, digest: str) -> str:
    """The manifest of a model whose weights were dropped, once it is to be trained again."""
    return f"iteration-{iteration}/model-{short(digest)}-before.json"


def evaluation(iteration: int, digest: str) -> str:
    """Comparisons and verdict of an iteration."""
    return f"iteration-{iteration}/evaluation-{short(digest)}"


def answers(model_digest: str, digest: str) -> str:
    """Answers of one model to the held-out prompts."""
    return f"answers/{model_digest[:OF_A_MODEL]}-{short(digest)}"


def instruction_answers(model_digest: str, digest: str) -> str:
    """Answers of one model to the prompts with verifiable instructions."""
    return f"instruction-answers/{model_digest[:OF_A_MODEL]}-{short(digest)}"


def published(digest: str) -> str:
    """The best model, as it is handed out."""
    return f"published-{short(digest)}"


def report(digest: str) -> str:
    """The report of a run."""
    return f"report-{short(digest)}"


def benchmark_answers(name: str, digest: str) -> str:
    """A model's answers to a benchmark."""
    return f"bench/{name}/answers-{short(digest)}"


def benchmark(name: str, digest: str) -> str:
    """The result of a benchmark, with the judgements behind it."""
    return f"bench/{name}/result-{short(digest)}"
