"""Where everything of a run lies in its store. Keys are relative to the run's `output_uri`."""

from __future__ import annotations

PREPARED = "prepared"
CONFIG_FILE = "config.json"
PINS_FILE = "pins.json"
FOLDERS_FILE = "folders.json"
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
TRAINING_LOG_FILE = "training_log.jsonl"
DISTRIBUTION_FILE = "probabilities.json"
REPORT_FILE = "report.html"
SUMMARY_FILE = "report.md"
BENCHMARK_FILE = "result.json"
BENCHMARK_ANSWERS_FILE = "answers.jsonl"
PUBLISHED = "published"
PUBLISHED_MODEL = "published/model"
PUBLISHED_REPORT = "published/report"


def prompts_file(iteration: int) -> str:
    """File name, inside `PREPARED`, of the prompts that an iteration plays."""
    return f"iteration-{iteration}.parquet"


def response_chunk(iteration: int, chunk: int) -> str:
    """Responses to one chunk of an iteration's prompts."""
    return f"iteration-{iteration}/responses/chunk-{chunk:05d}"


def preferences(iteration: int, shard: int, shards: int) -> str:
    """Preferences and pairs of one shard."""
    return f"iteration-{iteration}/preferences/shard-{shard}-of-{shards}"


def checkpoints(iteration: int) -> str:
    """The folder of an iteration's training checkpoints; empty again once the model is committed."""
    return f"iteration-{iteration}/checkpoints"


def model(iteration: int) -> str:
    """The policy that an iteration trained, pi_{t+1}, with the log of its training."""
    return f"iteration-{iteration}/model"


def answers(model_digest: str) -> str:
    """Answers of one model to the held-out prompts."""
    return f"answers/{model_digest[:16]}"


def instruction_answers(model_digest: str) -> str:
    """Answers of one model to the prompts with verifiable instructions."""
    return f"instruction-answers/{model_digest[:16]}"


def evaluation(iteration: int) -> str:
    """Comparisons, verdict and report of an iteration."""
    return f"iteration-{iteration}/evaluation"


def benchmark_answers(name: str) -> str:
    """A model's answers to a benchmark."""
    return f"bench/{name}/answers"


def benchmark(name: str) -> str:
    """The result of a benchmark, with the judgements behind it."""
    return f"bench/{name}/result"
