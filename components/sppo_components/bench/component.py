"""Bench: the paper's benchmarks on the published model."""

from kfp import dsl

from sppo_components.images import image


@dsl.component(base_image=image("evaluate"), install_kfp_package=False)
def bench(
    run_config: dsl.Input[dsl.Artifact],
    model_uri: str,
    metrics: dsl.Output[dsl.Metrics],
    summary: dsl.Output[dsl.Markdown],
) -> None:
    """Run the benchmarks that the configuration asks for: AlpacaEval 2, MT-Bench, tasks of the Open LLM Leaderboard.

    Args:
        run_config: The resolved configuration.
        model_uri: The published model.
        metrics: The benchmarks' figures.
        summary: The same as Markdown, with the judge and the prompts' digest.
    """
    from sppo import stages

    for name, value in stages.bench(run_config.path, model_uri, summary.path).items():
        metrics.log_metric(name, value)
