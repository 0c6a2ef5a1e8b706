from hypothesis import given
from hypothesis import strategies as st

from sppo.config.run import resolve
from sppo.preparing.chunks import chunk_counts, chunks, shard_chunks, shard_count
from sppo.seeds import derive_seed
from tests.conftest import lineage_of, prepare

from .by_hand import few_tokens


@given(st.integers(0, 200), st.integers(1, 40))
def test_shards_share_all_chunks_without_overlap(total, shards):
    parts = [list(shard_chunks(total, shard, shards)) for shard in range(shards)]
    assert [chunk for part in parts for chunk in part] == list(range(total))
    sizes = {len(part) for part in parts}
    assert max(sizes) - min(sizes) <= 1


@given(st.integers(0, 100), st.integers(1, 20))
def test_chunks_hold_every_row_once_in_order(count, size):
    rows = [{"prompt_id": str(i)} for i in range(count)]
    parts = chunks(rows, size)
    assert [row for part in parts for row in part] == rows
    assert all(len(part) == size for part in parts[:-1]) and all(parts)


@given(st.lists(st.tuples(st.integers(0, 2**31), st.integers(1, 9), st.text(max_size=5)), unique=True, max_size=20))
def test_seeds_differ_by_purpose_and_fit_every_library(purposes):
    seeds = [derive_seed(seed, "generate", iteration, prompt_id) for seed, iteration, prompt_id in purposes]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**31 for seed in seeds)


def test_seeds_are_the_same_on_every_machine():
    assert derive_seed(0, "generate", 1, "p") == 70515588
    assert derive_seed(0, "a", "b") != derive_seed(0, "b", "a")


def test_no_iteration_has_a_shard_without_a_chunk(tmp_path, tiny_llama):
    sources = [tmp_path / "few.jsonl", tmp_path / "many.jsonl"]
    for source, count in zip(sources, (4, 10), strict=True):
        source.write_text("".join(f'{{"prompt": "{source.stem} {i}?"}}\n' for i in range(count)))
    values = {"iterations": 2, "shards": 4, "prompts": [str(source) for source in sources]}
    values |= {"evaluate.instructions.count": 0, "evaluate.instructions.final": 0, "prepare.prompts_per_iteration": 0}
    config = resolve(few_tokens(tmp_path, tiny_llama, **values))
    assert chunk_counts(config, lineage_of(config)) == [0, 0], "nothing is prepared yet"
    prepare(config)
    few, many = chunk_counts(config, lineage_of(config.output_uri))
    assert few < 4 <= many and shard_count(config, [few, many]) == few
