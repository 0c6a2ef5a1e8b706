"""`auto`: the type of numbers that a processor multiplies faster."""

from pathlib import Path

import pytest

from sppo.config.reference import reference
from sppo.config.run import PreparedConfig, resolve
from sppo.config.sections import arithmetic

OF_PROCESSORS = {
    # "flags" of /proc/cpuinfo on x86, "Features" on ARM; shortened to what matters and its neighbours.
    "zen 3": ("flags\t\t: fpu avx avx2 fma vaes vpclmulqdq", "float32"),
    "ice lake": ("flags\t\t: avx2 avx512f avx512bw avx512_vnni avx512_vbmi2", "float32"),
    "zen 4": ("vendor_id\t: AuthenticAMD\nflags\t\t: avx2 avx512f avx512_bf16 avx512_vnni", "bfloat16"),
    "cooper lake": ("vendor_id\t: GenuineIntel\nflags\t\t: avx512f avx512_bf16 avx512_vnni", "float32"),
    "sapphire rapids": (
        "vendor_id\t: GenuineIntel\nflags\t\t: avx512f avx512_bf16 amx_bf16 avx512_fp16 amx_tile amx_int8",
        "bfloat16",
    ),
    "graviton 2": ("Features\t: fp asimd evtstrm aes fphp asimdhp asimddp", "float32"),
    "graviton 3": ("Features\t: fp asimd sve svebf16 i8mm bf16 dgh rng", "bfloat16"),
}


@pytest.mark.parametrize(("described", "expected"), OF_PROCESSORS.values(), ids=OF_PROCESSORS)
def test_the_type_is_what_the_processor_multiplies_faster(described: str, expected: str, tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nmodel name\t: some\n{described}\n")
    assert arithmetic.faster(tmp_path / "cpuinfo") == expected


@pytest.mark.parametrize("described", ["flags\t\t: avx512f avx512_bf16", "flags\t\t: avx512f avx2", ""])
def test_instructions_are_told_apart_from_speed(described: str, tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text(f"vendor_id\t: GenuineIntel\n{described}\n")
    assert arithmetic.has_bfloat16(tmp_path / "cpuinfo") == ("avx512_bf16" in described)
    assert arithmetic.faster(tmp_path / "cpuinfo") == "float32"


def test_nothing_is_known_of_a_processor_that_nobody_describes(tmp_path: Path) -> None:
    assert arithmetic.faster(tmp_path / "absent") == "float32"


@pytest.mark.parametrize(("flag", "expected"), [("avx512_bf16", "bfloat16"), ("avx2", "float32")])
def test_auto_is_settled_where_a_configuration_is_read(
    flag: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpuinfo").write_text(f"flags\t: {flag}\n")
    monkeypatch.setattr(arithmetic, "PROCESSOR", tmp_path / "cpuinfo")
    config = resolve({"train.dtype": "auto", "judge.dtype": "auto"})
    assert {config.generate.dtype, config.train.dtype, config.judge.dtype} == {expected}
    other = {"bfloat16": "float32", "float32": "bfloat16"}[expected]
    assert resolve({"generate.dtype": other}).generate.dtype == other


def test_what_was_recorded_on_another_machine_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arithmetic, "PROCESSOR", tmp_path / "cpuinfo")
    (tmp_path / "cpuinfo").write_text("flags\t: avx512_bf16\n")
    recorded = PreparedConfig(**resolve({}).asked()).model_dump_json()
    (tmp_path / "cpuinfo").write_text("flags\t: avx2\n")
    assert PreparedConfig.model_validate_json(recorded).generate.dtype == "bfloat16"
    assert resolve({}).generate.dtype == "float32"


def test_the_reference_says_auto_whatever_the_processor() -> None:
    (row,) = [row for row in reference().splitlines() if row.startswith("| `generate.dtype`")]
    assert row.endswith("| `auto` | `bfloat16` | `bfloat16` | `bfloat16` |")
