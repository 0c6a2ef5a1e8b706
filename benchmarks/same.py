"""Whether two finished runs are the same: a change that means to keep the numbers keeps them.

    python benchmarks/same.py runs/before runs/after

compares two folders that `sppo run` wrote: tensors bit by bit, tables cell by cell, every value of manifests, verdicts,
logs, records and reports, but for what `SKIPPED`, `VARYING` and `BLANKED` list, the run's own place, and the digests in
the names of its folders. It exits with 0 if they are the same, 1 if not, 2 if one is no finished run. It imports
nothing of `sppo`, whose modules may move. A run of version 0.1 may be compared with a later one.
"""

from __future__ import annotations

import argparse
import filecmp
import json
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

CONFIG, END = "configuration.json", "report/MANIFEST.json"
"""A run's configuration, and what its last stage writes at its end, as `plain` names them."""
NAMES = (
    (r"^configurations/[0-9a-f]{8}\.json$|^prepared/config\.json$", CONFIG),
    (r"^prepared/pins\.json$", "pins.json"),
    (r"(^|/)published/(?=report\b)|(?<=published)/model\b", r"\1"),
    (
        r"(^|/)(prepared|responses|preferences|model|evaluation|(?:instruction-)?answers/[0-9a-f]{16}|answers|result"
        r"|published|report|tracking/[\w-]+)-[0-9a-f]{8}\b",
        r"\1\2",
    ),
)
"""How a file or folder is named without the digests of stages, and without what version 0.1 named otherwise."""
SHOWN, WIDTH = 20, 60
"""How many differences are listed, and how many characters of a value."""
SKIPPED = (
    (".lock*", "held while a run is played"),
    ("current.json", "the digest of the configuration"),
    ("prepared/folders.json", "version 0.1: digests of folders, which inputs of stages name too"),
    ("tracking/run-*", "where its records are; they are compared"),
    ("tracking/started*", "who plays it"),
    ("tracking/mlflow*", "as what MLflow knows it"),
    ("mlflow[.-]*", "MLflow names what it holds by random ids; what it was sent is in tracking/"),
)
"""Files that are not compared, and why."""
VARYING = (
    ("*.json", r"figures\.(.+/)?(seconds|\w+_per_second)", "times and speeds"),
    ("*.json", r"(config\.)?output_uri", "the run's place, as it was given"),
    (CONFIG, r"contents(\..*)?|continues", "digests of what values name, and what was played before"),
    ("*MANIFEST.json", r"inputs\.(stage|config)", "digests of values, which the configuration has"),
    ("prepared/MANIFEST.json", r"files\..*", "in version 0.1 the configuration was among them"),
    ("*MANIFEST.json", r"seconds", "the time of a stage's work"),
    ("*MANIFEST.json", r"at|machine", "when and where it was done"),
    ("*MANIFEST.json", r"files\.\d+\.(bytes|sha256)", "those files are compared, and some name their run's place"),
    ("*MANIFEST.json", r"inputs\.evaluations", "a digest of verdicts, which name models by their place"),
    ("tracking/*.json", r"made", "digits of the digest of a stage"),
    ("tracking/*.json", r"time", "when it was said"),
    ("tracking/*.json", r"system(\..*)?", "samples of the machine's load and memory"),
    ("tracking/*.json", r"tags\..*|kfp_run_id", "the commit; on a cluster the images and the run's id"),
)
"""Values that are not compared: in which files, their dotted names there, and why."""
BLANKED = (
    (r"(?sm)<h2>Time.*?(?=<h2>|</section>)|^## Time.*?(?=^## )", "the table of times"),
    (r"(?s)<dl class=\"facts\">.*?</dl>", "when it was played, where and by what"),
    (r"(?m)^run .*; by sppo .*$", "the same in Markdown"),
    (r"(?s)<h2>What to do next</h2>.*?</section>", "commands with the run's place"),
    (r"(?sm)^## What to do next$.*?^(?=## )", "the same in Markdown"),
    (r"(?s)<figcaption>(Time|Speed)</figcaption>.*?</figure>", "charts of times and speeds"),
    (r"(?m)^.*\b\w+/(seconds|\w+\\?_per\\?_second)\b.*$", "rows of figures that are times and speeds"),
    (r"(?m)^ *\"?output_uri\"?: .*$", "the run's place, as it was given"),
    (r"(?im)^.*\bconfiguration\b.*\b[0-9a-f]{64}\b.*$", "the digest of the configuration"),
    (r"(?s),\s*\"contents\": \{.*?\},\s*\"continues\": \"\w*\"", "digests of what values name"),
    (r"(?<=\bsppo )\d+(\.\d+)+", "the version of this package"),
)
"""Parts of reports, model cards and printed configurations that are not compared, and why."""

Found = Iterator[tuple[str, str, str]]  # what differs, and what it is in each of two runs
Tensor = tuple[str, np.ndarray]  # type and shape, and one row of bytes an element: NumPy has no bfloat16


class Run:
    """A finished run's folder."""

    def __init__(self, folder: Path) -> None:
        """Find the run's files, by their plain names; a ValueError says that there is no finished run, or several."""
        self.files: dict[str, Path] = {}
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            file = path.relative_to(folder).as_posix()
            if any(fnmatch(file, pattern) for pattern, _ in SKIPPED):
                continue
            before = self.files.setdefault(plain(file), path)
            if before != path:
                raise ValueError(f"{folder} holds more than one run: {before.relative_to(folder)} and {file}")
        for name in (CONFIG, END):
            if name not in self.files:
                raise ValueError(f"{folder} holds no finished run: {name} is not there")
        played = json.loads(self.files[CONFIG].read_bytes())["output_uri"]
        # A run that was moved names the place where it was played.
        self.places = sorted({played, str(folder.absolute()), str(folder.resolve())}, key=len, reverse=True)

    def values(self, file: str) -> dict[str, Any]:
        """What a file of text or JSON holds, by dotted name, without what varies; of any other file its bytes."""
        data, kind = self.files[file].read_bytes(), Path(file).suffix
        if kind not in {".json", ".jsonl", ".md", ".html", ".txt"} or Path(file).name == "tokenizer.json":
            return {"content": data}
        content: Any = data.decode("utf-8")
        if kind == ".json":
            content = json.loads(content)
        elif kind == ".jsonl":
            content = {f"line {number}": json.loads(line) for number, line in enumerate(content.split("\n"), 1) if line}
        varying = [re.compile(name) for pattern, name, _ in VARYING if fnmatch(file, pattern)]
        leaves = self._leaves(file, "", content)
        return {name: value for name, value in leaves if not any(each.fullmatch(name) for each in varying)}

    def _leaves(self, file: str, name: str, value: Any) -> Iterator[tuple[str, Any]]:
        """Every value inside of another, and every line of a text."""
        if isinstance(value, str):
            lines = self._blank(name or file, value).split("\n")
            value = {f"line {number}": line for number, line in enumerate(lines, 1)} if len(lines) > 1 else lines[0]
        elif isinstance(value, list):
            value = dict(enumerate(value))
        if isinstance(value, dict) and value:
            for key, each in value.items():
                yield from self._leaves(file, f"{name}.{key}" if name else str(key), each)
        else:
            yield name, value

    def _blank(self, name: str, text: str) -> str:
        for place in self.places:
            text = text.replace(place, "<run>")
        text = "\n".join(map(plain, text.split("\n")))
        for pattern, _ in BLANKED if name.endswith((".html", ".md", "config.json")) else ():
            text = re.sub(pattern, "", text)
        return text


def plain(text: str) -> str:
    """A file's name, or a text in which such names are, as every run has them; see `NAMES`."""
    for pattern, name in NAMES:
        text = re.sub(pattern, name, text)
    return text


def tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, left on disk (github.com/safetensors/safetensors, "Format")."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
    header.pop("__metadata__", None)
    data, found = np.memmap(path, np.uint8, "r", 8 + size), {}
    for name, entry in header.items():
        (begin, end), count = entry["data_offsets"], int(np.prod(entry["shape"]))
        elements = data[begin:end].reshape(count, (end - begin) // max(count, 1))
        found[name] = f"{entry['dtype']} {entry['shape']}", elements
    return found


def differing_tensors(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> Found:
    """Tensors that differ in a bit, in type or in shape, or that only one side has."""
    yield from differing_values({name: left[name][0] for name in left}, {name: right[name][0] for name in right})
    for name in left:
        (kind, here), (other, there) = left[name], right.get(name, left[name])
        if kind == other and not np.array_equal(here, there):
            places = np.flatnonzero((here != there).any(axis=1))
            what = f"{name}: {len(places)} of {len(here)} elements, the first {places[0]}"
            yield what, _element(kind, here[places[0]]), _element(kind, there[places[0]])


def _element(kind: str, data: np.ndarray) -> str:
    """One element for people, or its bytes; a bfloat16 is the upper half of a float32."""
    raw = data.tobytes()
    return str(np.frombuffer(raw.rjust(4, b"\0"), "<f4")[0]) if kind.startswith(("F32", "BF16")) else raw.hex()


def cells(path: Path) -> dict[str, Any]:
    """What a table holds, and its columns."""
    table = pq.read_table(path)
    rows = enumerate(table.to_pylist())
    return {"columns": str(table.schema), **{f"row {n}.{name}": cell for n, row in rows for name, cell in row.items()}}


def differing_values(left: Mapping[str, Any], right: Mapping[str, Any]) -> Found:
    """Values that differ, be it in their type, or that only one side has."""
    for name in dict.fromkeys([*left, *right]):
        one, other = (repr(side[name]) if name in side else "nothing" for side in (left, right))
        if one != other:
            longest, same = max(len(one), len(other)), [a == b for a, b in zip(one, other, strict=False)]
            start = max((*same, False).index(False) - WIDTH // 2, 0) if longest > WIDTH else 0
            yield name, one[start : start + WIDTH], other[start : start + WIDTH]


def differing(left: Run, right: Run, file: str, counts: Counter[str]) -> Found:
    """What differs in a file of two runs; `counts` gets how much was compared."""
    if file not in left.files.keys() & right.files.keys():
        yield "the file", *(("there", "nothing") if file in left.files else ("nothing", "there"))
        return
    counts["files"] += 1
    one, other = left.files[file], right.files[file]
    if file.endswith(".safetensors"):
        here = tensors(one)
        counts["tensors"] += len(here)
        yield from differing_tensors(here, tensors(other))
    elif file.endswith(".parquet"):
        counts["rows"] += pq.read_metadata(one).num_rows
        if not filecmp.cmp(one, other, shallow=False):
            yield from differing_values(cells(one), cells(other))
    else:
        values = left.values(file)
        counts["figures"] += sum(isinstance(value, int | float) for value in values.values())
        yield from differing_values(values, right.values(file))


def main(arguments: list[str] | None = None) -> int:
    """Compare, say what differs, and give the exit code."""
    parser = argparse.ArgumentParser(prog="same.py", description="Say whether two finished runs are the same.")
    parser.add_argument("runs", nargs=2, type=Path, metavar="RUN", help="a folder that `sppo run` wrote")
    try:
        left, right = map(Run, parser.parse_args(arguments).runs)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    found, counts = 0, Counter(files=0, tensors=0, rows=0, figures=0)
    for file in sorted({*left.files, *right.files}):
        for what, one, other in differing(left, right, file, counts):
            found += 1
            if found <= SHOWN:
                print(f"{file}: {what}: {one} | {other}")
    compared = ", ".join(f"{count:,} {name}" for name, count in counts.items())
    print(f"different: {found:,} of {compared}" if found else f"the same: {compared}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
