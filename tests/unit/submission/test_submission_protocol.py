"""The requests are those that Kubeflow Pipelines' own generated client sends."""

import json

import kfp_server_api as official
import pytest
from sppo_pipelines.names import PIPELINE
from sppo_pipelines.submission import package as packages
from sppo_pipelines.submission.client import GREATER_THAN, Client

from .conftest import TOKEN, compile_once


@pytest.fixture
def theirs(kubeflow):
    configuration = official.Configuration(host=kubeflow.address)
    configuration.api_key = {"authorization": TOKEN}
    configuration.api_key_prefix = {"authorization": "Bearer"}
    return official.ApiClient(configuration)


def told(request) -> tuple:
    return request.line, request.url, request.query, request.json or {}, request.authorization


def equals(name: str) -> str:
    return json.dumps({"predicates": [{"operation": 1, "key": "display_name", "stringValue": name}]})


def test_every_request_is_one_that_the_official_client_sends(submit, kubeflow, theirs, sppo, tmp_path):
    assert submit("--namespace", "team", "--experiment", "helpful").code == 0
    kubeflow.script = kubeflow.after_retry = [{"state": "FAILED", "finished_at": "2026-01-01T00:00:00Z"}]
    sppo("resume", "run-0", "--host", kubeflow.address)
    ours, seen = [], set()
    for each in kubeflow.requests:
        if each.line not in seen:
            seen.add(each.line)
            ours.append(told(each))
    # The client for v1beta1 is another package, which nothing here needs (backend/api/v1beta1/run.proto:75).
    (workflow,) = [request for request in ours if "v1beta1" in request[0]]
    assert workflow[:4] == ("GET v1beta1/runs/run-0", "/apis/v1beta1/runs/run-0", {}, {})
    ours.remove(workflow)
    run, version = kubeflow.runs[0]["display_name"], kubeflow.versions[0]

    one = {"sort_by": "created_at desc", "page_size": 1}
    package = tmp_path / "sppo.yaml"
    package.write_bytes(kubeflow.packages[0])
    pipelines, uploads = official.PipelineServiceApi(theirs), official.PipelineUploadServiceApi(theirs)
    experiments, runs = official.ExperimentServiceApi(theirs), official.RunServiceApi(theirs)
    health = official.HealthzServiceApi(theirs)
    calls = [
        lambda: health.healthz_service_get_healthz(),
        lambda: pipelines.pipeline_service_list_pipelines(namespace="team", filter=equals(PIPELINE), **one),
        lambda: pipelines.pipeline_service_create_pipeline(
            official.V2beta1Pipeline(
                name=PIPELINE,
                display_name=PIPELINE,
                description=kubeflow.pipelines[0]["description"],
                namespace="team",
            )
        ),
        lambda: pipelines.pipeline_service_list_pipeline_versions(
            "pipeline-0", filter=equals(version["display_name"]), **one
        ),
        lambda: uploads.upload_pipeline_version(
            str(package),
            name=version["display_name"],
            display_name=version["display_name"],
            pipelineid="pipeline-0",
            description=version["description"],
        ),
        lambda: experiments.experiment_service_list_experiments(namespace="team", filter=equals("helpful"), **one),
        lambda: experiments.experiment_service_create_experiment(
            official.V2beta1Experiment(display_name="helpful", namespace="team")
        ),
        lambda: runs.run_service_list_runs(experiment_id="experiment-0", filter=equals(run), **one),
        lambda: runs.run_service_create_run(
            official.V2beta1Run(
                display_name=run,
                experiment_id="experiment-0",
                pipeline_version_reference=official.V2beta1PipelineVersionReference("pipeline-0", "version-0"),
                runtime_config=official.V2beta1RuntimeConfig(
                    {"preset": "cpu", "output_uri": "s3://bucket/run", "experiment": "helpful", "iterations": 1}
                ),
            )
        ),
        lambda: runs.run_service_get_run("run-0"),
        lambda: runs.run_service_retry_run("run-0"),
    ]
    assert len(calls) == len(ours)
    for call, expected in zip(calls, ours, strict=True):
        try:
            call()
        except official.ApiException as error:
            assert error.status == 409  # it is there already
        assert told(kubeflow.requests[-1]) == expected
    assert kubeflow.packages == [package.read_bytes()]


def test_the_requests_of_a_look_are_those_that_the_official_client_sends(kubeflow, theirs):
    client = Client(kubeflow.address, "team")
    wanted = {"operation": GREATER_THAN, "key": "created_at", "timestampValue": "2026-01-01T00:00:00Z"}
    for number in range(101):
        kubeflow.runs.append({"run_id": f"run-{number}", "created_at": "2026-01-02T00:00:00Z"})
    assert len(list(client.runs(wanted))) == 101
    first, second = map(told, kubeflow.requests)
    query = {"namespace": "team", "sort_by": "created_at desc", "page_size": 100}
    listed = json.dumps({"predicates": [wanted]})
    page = official.RunServiceApi(theirs).run_service_list_runs(**query, filter=listed)
    assert told(kubeflow.requests[-1]) == first and len(page.runs) == 100
    official.RunServiceApi(theirs).run_service_list_runs(**query, filter=listed, page_token=page.next_page_token)
    assert told(kubeflow.requests[-1]) == second


def test_the_official_client_takes_a_cut_answer_for_an_empty_one(kubeflow, theirs):
    """Why it is not used: this run has no state, and no error."""
    kubeflow.runs = [{"run_id": "run-0", "state": "RUNNING"}]
    kubeflow.fail("GET runs/", "cut")
    assert official.RunServiceApi(theirs).run_service_get_run("run-0").state is None


def test_two_packages_of_the_same_input_are_one_version(kubeflow):
    client, package = Client(kubeflow.address), compile_once(1, "one-gpu", None)
    assert packages.upload(client, package)[1]
    assert not packages.upload(client, packages.Package(*package))[1]
    assert packages.upload(client, package._replace(content=b"another", digest="0" * 64))[1]
