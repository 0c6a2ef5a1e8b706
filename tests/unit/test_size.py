"""How many shards a package can play is counted, printed, written into it, and kept to."""

import pytest
from sppo_pipelines.compiling import compile_pipeline
from sppo_pipelines.size import NODE_BYTES, nodes

from sppo.errors import ConfigError
from tests.conftest import documents


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """Compiles for some iterations, with some limit: the package's specification, and what it can play."""

    def work(iterations: int, limit: int = 1 << 20):
        folder = tmp_path_factory.mktemp("package")
        (folder / "profile.yaml").write_text(f"workflow_bytes: {limit}\n")
        limits = compile_pipeline(folder / "sppo.yaml", iterations, str(folder / "profile.yaml"))
        return documents((folder / "sppo.yaml").read_text())[0], limits

    return work


def test_a_shard_costs_eighteen_nodes_in_each_iteration(compiled):
    for iterations in (1, 3):
        counted = nodes(compiled(iterations)[0])
        assert (counted.shard, counted.loops) == (18 * iterations, iterations)


def test_what_is_compiled_in_is_what_is_told(compiled):
    specification, limits = compiled(3)
    prepare = specification["components"]["comp-run"]["dag"]["tasks"]["prepare"]
    written = prepare["inputs"]["parameters"]["shard_iterations"]["runtimeValue"]["constant"]
    assert written == limits.shard_iterations >= 30


def test_more_iterations_leave_room_for_fewer_shards_and_a_larger_workflow_for_more(compiled):
    one, three = compiled(1)[1].shard_iterations, compiled(3)[1].shard_iterations
    assert three < one, "they take room themselves"
    more = compiled(3, 2 << 20)[1].shard_iterations - three
    assert more == pytest.approx((1 << 20) / (18 * NODE_BYTES), abs=1)


def test_a_workflow_without_room_for_a_shard_is_refused(compiled):
    with pytest.raises(ConfigError, match="max_iterations: a workflow of 3 iterations is larger than the 200000 bytes"):
        compiled(3, 200_000)


def test_compile_prints_the_most_shards(run_sppo, tmp_path):
    result = run_sppo("compile", "--output", str(tmp_path / "sppo.yaml"), "--max-iterations", "2")
    most = compile_pipeline(tmp_path / "sppo.yaml", 2, "one-gpu").shard_iterations // 2
    assert f"up to 2 iterations of {most} shards fit into a workflow of Argo" in result.out
