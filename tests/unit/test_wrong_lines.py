"""Whatever is typed, the command line answers with one line, or with how it is used, and touches nothing."""

import random
import traceback
from pathlib import Path

import pytest

from sppo.config.run import all_keys

LINES = 300
ODD = (
    "", " ", "-", "--", "=", "==", "'", '"', "\\", "\n", "a\nb", "\t", "\x1b[31m", "\x1b]0;x\x07", "\x9b2J", "\u202e",
    "\udcff", "é", "🙂", "x" * 5000, "../..", "$HOME", "~", "%s", "{}", "[red]", "[", "*", ":", "@", "#", "--no-such",
    "-x", "None",
)  # fmt: skip
VALUES = (
    *ODD, "nan", "inf", "-1", "0", "1e999", "1.5", "{a: b}", "{1: 2}", "null", "true", "[1, 2]", "[[[]]]", "0x10",
    "&a [*a]", "!!python/object/apply:os.getcwd []", "!!binary x", "2026-01-01", "9" * 30, "9" * 5000, "a: b: c", "? x",
    "[null]", "{model: x}", "[{model: x, weight: y}]", "hf://none/none", "/none", "package:sppo",
)  # fmt: skip
PLACES = (
    "/none", "none", "/dev/null", "/proc/none", "s3://", "s3:///x", "s3://a b/x", "s3://Bucket_/x", "ftp://host/x",
    "hf://", "hf:///", "hf://none/none", "hf://a/b/c@d", "hf://none/none@", "package:", "package:no.such",
    "package:../x", "package:sppo", "file:///none", "http://host", "mlflow:", "mlflow:none", "openai:", "openai:x",
    "openai:x@ftp://host", "openai:@", "rules:", "rules:none:none", "rules:a:b:c", "vllm:/none", "transformers:",
    "transformers:/none", "mixture", "https://[::1", "http://host:port", "http://u:p@host", "s3://b/" + "x" * 2000,
    *ODD,
)  # fmt: skip
STAGES = ("report", "resume", "generate", "rank", "train", "evaluate", "publish")
FLAGS = (
    "--preset", "--config", "--wait", "--keep-going", "--junit", "--host", "--iteration", "--shard", "--shards",
    "--follow", "--max-iterations", "--profile", "--images", "--dry-run", "--namespace", "--benchmarks", "--judge",
    "--output", "--benchmark", "--times", "--hours", "--html", "--markdown", "--fail-if-worse", "--seed", "--help-me",
)  # fmt: skip


class Lines:
    """Command lines at random, each of them wrong in one place at least."""

    def __init__(self, seed: int, files: list[str]) -> None:
        self.random = random.Random(seed)
        self.files, self.keys = files, all_keys()

    def one(self) -> list[str]:
        """The words of a line, without the command's own name."""
        pick = self.random.choice
        kinds = (self.unknown, self.config, self.play, self.stage, self.compile, self.compared, self.judge, self.fit,
                 self.cluster, self.bench)  # fmt: skip
        return pick(kinds)()

    def place(self) -> str:
        return self.random.choice((*PLACES, *self.files))

    def number(self) -> str:
        return self.random.choice(("-1", "x", "", "1.5", "99", "9" * 30, "0", "nan"))

    def override(self) -> str:
        pick = self.random.choice
        key = pick((*self.keys, *self.keys, *ODD, "train", "judge.", ".", "train.eta.x", "no.such", "SEED"))
        equals = pick(("=",) * 9 + ("",))
        return f"{key}{equals}{pick((*VALUES, *PLACES, *self.files))}"

    def several(self, piece, most: int = 3) -> list[str]:
        return [piece() for _ in range(self.random.randrange(most + 1))]

    def flag(self) -> list[str]:
        name = self.random.choice(FLAGS)
        return [name, self.random.choice((self.place(), self.number()))] if self.random.random() < 0.8 else [name]

    def flags(self) -> list[str]:
        return self.flag() if self.random.random() < 0.3 else []

    def unknown(self) -> list[str]:
        return [self.random.choice((*ODD, "runn", "RUN", "run ")), *self.several(self.place)]

    def config(self) -> list[str]:
        action = self.random.choice(("show", "show", "show", "shows", ""))
        return ["config", action, *self.several(self.override, 4), *self.flags()]

    def play(self) -> list[str]:
        verb = self.random.choice(("run", "prepare"))
        wrong = self.random.choice(("prompts=", "base_model=", "preference_model="))
        return [verb, *self.several(self.override), f"{wrong}/none/none.jsonl", *self.flags()]

    def stage(self) -> list[str]:
        shown = ["--shard", self.number()] if self.random.random() < 0.2 else []
        return [self.random.choice(STAGES), self.place(), *shown, *self.flags()]

    def compile(self) -> list[str]:
        name, value = self.random.choice(
            (("--profile", self.place()), ("-o", self.place()), ("--images", self.place()), ("--max-iterations", "-1"))
        )
        return ["compile", "-o", self.place(), name, value, *self.flags()]

    def compared(self) -> list[str]:
        return ["compare", self.place(), self.place(), *self.flags()]

    def judge(self) -> list[str]:
        return ["judge", self.place(), *self.several(self.override), "--judge", self.place(), *self.flags()]

    def fit(self) -> list[str]:
        return ["train-preference", *self.several(self.override), "--train", self.place(), "--output", self.place()]

    def cluster(self) -> list[str]:
        verb = self.random.choice(
            (["submit"], ["logs", "none"], ["logs", self.place()], ["keep-going"], ["resume", "x"])
        )
        host = self.random.choice((*PLACES, "http://127.0.0.1:9"))
        return [*verb, "--host", host, *self.flags(), *(self.several(self.override) if verb == ["submit"] else ())]

    def bench(self) -> list[str]:
        return ["bench", self.place(), *self.several(self.override), *self.flags()]


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """Files that are not what they are taken for, outside of the current folder."""
    folder = tmp_path / "files"
    (folder / "empty").mkdir(parents=True)
    contents = {
        "text.yaml": b"no mapping", "list.yaml": b"- 1", "open.yaml": b"a: [", "bytes.yaml": b"\xff\xfe\x00",
        "keys.yaml": b"{1: 2, [a]: b}", "empty.jsonl": b"", "text.jsonl": b"x\n", "list.jsonl": b"[1]\n",
        "gzip.jsonl.gz": b"x", "table.parquet": b"PAR1", "other.jsonl": b'{"a": 1}\n', "prompts.csv": b"\xff",
    }  # fmt: skip
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return [str(folder / name) for name in ("empty", *contents)]


def fault(result) -> str:
    """What is wrong with the answer, if anything is."""
    if result.code not in {2, 3, 4, 5}:
        return f"exit code {result.code}"
    if set(result.out + result.err) & set("\x1b\x07\x9b\u202e\udcff"):
        return "steers the terminal"
    if result.err.startswith("error: "):
        return "" if result.err.count("\n") == 1 else "several lines"
    return "" if "For full helptext, " in result.err else "neither one line nor the usage"


def test_every_wrong_line_is_answered(run_sppo, files, tmp_path, monkeypatch):
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("SPPO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr("time.sleep", lambda _: None)  # between tries to reach a server
    lines, faults = Lines(0, files), []
    for _ in range(LINES):
        words = lines.one()
        try:
            result = run_sppo(*words)
            told = "" if result.code == 0 and words[0] == "config" else fault(result)
            said = result.err
        except Exception as error:
            told, said = f"{type(error).__name__}: {error}", traceback.format_exc(limit=-4)
        made = [str(path.relative_to(here)) for path in here.rglob("*")]
        if told or made:
            faults.append(f"{[word[:60] for word in words]}: {told}; made {made}\n{said[:1500]}")
        if made:
            break
    assert not faults, "\n\n".join(faults)
