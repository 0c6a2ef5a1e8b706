"""A player of compiled packages by the rules of the Kubeflow Pipelines backend, without a cluster.

It takes a package as `sppo compile` writes it, a run's parameters, and what each stage's container puts out. It does
what the API server, the drivers, the launcher, Argo and Kubernetes would do with them: resolve inputs, decide
conditions, fan out loops, and make pods. What one of them would refuse is a `BackendError` with its words.

Sources, as the docstrings of the rules cite them:

- `driver/`, `component/`, `metadata/`, `expression/`, `argocompiler/`: kubeflow/pipelines at 7b70c7b95f68 (the 2.17
  line, August 2026), below `backend/src/v2` (`argocompiler/` below `compiler/`);
- `apiserver/`, `common/`, `v2/`: the same commit, below `backend/src`;
- `argo/`: argoproj/argo-workflows v4.0.8, below `workflow/controller`;
- `kubernetes/`: Kubernetes 1.34.4, below `pkg`, and `apimachinery/`: its k8s.io/apimachinery 0.34.4, below `pkg`.

Each stage succeeds at its first attempt, and nothing is cached. What a package holds and this player has no rule for,
such as node affinity or init containers, is a `NotPlayedError`.
"""
