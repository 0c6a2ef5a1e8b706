"""The functions of `sppo.trainjob` that the components call."""

from types import SimpleNamespace

from sppo import stages


def Pods(**given):
    return SimpleNamespace(**given)


def launch(config_path, iteration, model_uri, prompts_path, pairs_paths, pods):
    stages._called("launch", iteration, vars(pods))
    return stages.train(config_path, iteration, model_uri, prompts_path, pairs_paths)
