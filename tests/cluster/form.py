"""What the web UI posts when somebody fills in its form and presses Start.

Kubeflow Pipelines 2.17, frontend/src: the body is that of pages/NewRunV2.tsx (startRun), the values are those of
lib/NewRunParametersUtils.ts. JSON leaves out what is undefined there, such as `pipeline_root`.
"""

import json
from collections.abc import Mapping
from typing import Any

Json = dict[str, Any]


def request(parameters: Mapping[str, Json], typed: Mapping[str, str], version: Json, experiment: str) -> Json:
    """The body of the request that starts a run.

    Args:
        parameters: of the pipeline, as its package declares them.
        typed: what somebody typed, by field; the other fields show their defaults.
        version: `pipeline_id` and `pipeline_version_id`.
        experiment: id of the experiment.
    """
    shown = {name: _shown(each) for name, each in parameters.items() if "defaultValue" in each}
    return {
        "description": "",
        "display_name": f"Run of {version['pipeline_version_id'][:8]}",
        "experiment_id": experiment,
        "pipeline_version_reference": {key: version[key] for key in ("pipeline_id", "pipeline_version_id")},
        "runtime_config": {
            "parameters": {
                name: _converted(text, parameters[name]["parameterType"]) for name, text in (shown | typed).items()
            }
        },
        "service_account": "sppo-runner",
    }


def typed(values: Mapping[str, Any]) -> dict[str, str]:
    """Parameters as somebody would type them."""
    return {name: json.dumps(value) if isinstance(value, dict | list) else str(value) for name, value in values.items()}


def _shown(parameter: Json) -> str:
    """A default in its field (convertNonUserInputParamToString)."""
    default = parameter["defaultValue"]
    if parameter["parameterType"] in {"STRUCT", "LIST"}:
        return json.dumps(default, separators=(",", ":"))
    return f"{default:g}" if isinstance(default, float | int) else str(default)


def _converted(text: str, kind: str) -> Any:
    """What is posted for a field (convertInput)."""
    if kind in {"STRUCT", "LIST"}:
        return json.loads(text)
    return int(text) if kind == "NUMBER_INTEGER" else text
