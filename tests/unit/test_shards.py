from hypothesis import given
from hypothesis import strategies as st

from sppo.preparing.chunks import chunks, shard_chunks
from sppo.seeds import derive_seed


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
