"""Runs that fail: by their input, which is told, and by infrastructure, which is tried again."""

from sppo_pipelines.submission.progress import tasks

from tests.cluster.episodes import PREPARE, mend
from tests.cluster.settings import or_skip


def test_a_wrong_path_ends_with_2_and_the_sentence_of_the_stage(runs, seen):
    path = f"{runs.folder}/none.jsonl"
    run = runs.submit("wrong-path", f"prompts={path}", wait=True)
    assert run.result.code == 2
    assert f"error: {path}: no such object; check the bucket and the key" in run.result.text
    (task,) = [task for task in tasks(runs.look(run.run_id).workflow) if task.key == PREPARE]
    assert len(task.pods) == 1, "what cannot help is not tried again"
    seen(f"exit code 2 after {run.seconds:.0f} s")


def test_exit_code_3_inside_a_stage_is_tried_again_in_its_pod(runs, kube, stored, seen):
    mended = or_skip(lambda: mend(runs, kube, stored))
    assert "the stage ended with exit code 3: try 2 of " in mended.log
    assert (mended.state, mended.pods) == ("SUCCEEDED", 1)
    seen(f"{mended.log.count('the stage ended with exit code 3')} tries ended with 3, the next one succeeded")
