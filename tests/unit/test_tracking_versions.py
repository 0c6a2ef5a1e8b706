"""The versions of the registered model: what becomes of one whose weights are dropped."""

from sppo.reporting.tracking.record import Weights

from .test_tracking import EVALUATED, MODEL, PREPARED, PUBLISHED, TRAINED, environment, forget, run, send  # noqa: F401 - two are fixtures


def test_a_version_tells_that_its_weights_were_dropped_until_they_are_there_again(run):  # noqa: F811
    client, kept = run[2], PUBLISHED.publication
    weights = Weights(iteration=1, sha256=MODEL.sha256, dropped="publish.keep: best")
    gone = PUBLISHED.model_copy(update={"publication": kept.model_copy(update={"weights": [weights]})})
    back = kept.model_copy(update={"weights": [weights.model_copy(update={"dropped": ""})]})
    send(run, PREPARED, TRAINED, EVALUATED)
    client.update_model_version("sppo", "1", description="A person's words.")
    for _ in range(2):
        send(run, gone)
        forget(run[1])
        version = client.get_model_version("sppo", "1")
        assert version.tags["sppo.dropped"] == "publish.keep: best"
        assert version.description == "A person's words.\nThe weights were dropped (publish.keep: best)."
    send(run, PUBLISHED.model_copy(update={"publication": back}))
    version = client.get_model_version("sppo", "1")
    assert "sppo.dropped" not in version.tags and version.description == "A person's words."
