"""vLLM gives the same log-probabilities where nobody counts ranks."""

import json
import subprocess
import sys

# In a process of its own: vLLM looks at every module that is loaded, and Flask's, which MLflow brings, do not bear it.
COMPARE = """
import json
import torch
from sppo.sampling.vllm_ranks import leave_ranks_out
from vllm.v1.sample.sampler import Sampler

torch.compiler.set_stance("force_eager")
logprobs = torch.randn(4, 32, generator=torch.Generator().manual_seed(0)).log_softmax(-1)
chosen = torch.tensor([3, 0, 31, 7])
before = Sampler.gather_logprobs(logprobs, 0, chosen)
leave_ranks_out()
after = Sampler.gather_logprobs(logprobs, 0, chosen)
print(json.dumps({
    "same": torch.equal(before.logprobs, after.logprobs) and torch.equal(before.logprob_token_ids, chosen[:, None]),
    "before": before.selected_token_ranks.tolist(),
    "counted": [int((row >= row[token]).sum()) for row, token in zip(logprobs, chosen)],
    "after": after.selected_token_ranks.tolist(),
}))
"""


def test_log_probabilities_are_the_same_without_ranks():
    """By vLLM's own function, whose ranks alone become 0."""
    done = subprocess.run([sys.executable, "-c", COMPARE], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["same"] and found["before"] == found["counted"] and found["after"] == [0] * 4
