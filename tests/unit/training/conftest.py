"""What tests of training start from: pairs of random responses, with the log-probabilities of the model."""

import pytest
import torch

from sppo.config.run import resolve
from sppo.models.network import attention
from sppo.models.network.logprobs import ResponseLogprobs
from sppo.models.network.packing import Group
from sppo.models.policy import load_policy
from sppo.store import tables
from sppo.training.workers.parallel import Workers
from tests.conftest import NO_OTHERS

SETTINGS = {
    "train.dtype": "float32",
    "train.learning_rate": 1e-3,
    "train.global_batch": 3,
    "train.micro_tokens": 40,
    "train.checkpoint_every": 1,
    "train.audit_fraction": 1.0,
}
ALONE = Workers(0, 1, torch.device("cpu"))


def scorer_of(folder) -> ResponseLogprobs:
    attention.register()
    return ResponseLogprobs(load_policy(folder, "float32", attention.NAME))


@pytest.fixture(scope="module")
def sampled(tiny_llama):
    """Eight pairs of random responses with the model's own log-probabilities."""
    scorer, generator = scorer_of(tiny_llama), torch.Generator().manual_seed(0)

    def tokens(count: int) -> list[int]:
        return torch.randint(0, 256, (count,), generator=generator).tolist()

    pairs = []
    for i in range(8):
        ids = {"prompt_ids": tokens(5), "chosen_ids": tokens(3 + i), "rejected_ids": tokens(9 - i)}
        with torch.no_grad():
            group = Group(ids["prompt_ids"], [ids["chosen_ids"], ids["rejected_ids"]])
            ((chosen, rejected),) = scorer.of([group])
        pairs.append(
            {
                "prompt_id": f"prompt-{i}",
                "prompt": "?",
                "chosen": "",
                "rejected": "",
                "chosen_index": 0,
                "rejected_index": 1,
                "p_chosen": 0.5 + 0.05 * i,
                "p_rejected": 0.5 - 0.06 * i,
                "chosen_logprobs": chosen.tolist(),
                "rejected_logprobs": rejected.tolist(),
                **ids,
                **NO_OTHERS,
            }
        )
    return pairs


@pytest.fixture
def pairs(sampled):
    return [dict(pair) for pair in sampled]


@pytest.fixture
def of_many(sampled, tiny_llama):
    """The same with up to three further responses a prompt, as `rank.selection=all` gives."""
    scorer, generator = scorer_of(tiny_llama), torch.Generator().manual_seed(1)
    rows = []
    for number, pair in enumerate(sampled):
        others = [torch.randint(0, 256, (4 + i,), generator=generator).tolist() for i in range(number % 4)]
        with torch.no_grad():
            (logprobs,) = scorer.of([Group(pair["prompt_ids"], others)]) if others else ([],)
        rows.append(
            pair
            | {
                "other_indices": list(range(2, 2 + len(others))),
                "p_others": [0.45 + 0.02 * i for i in range(len(others))],
                "other_ids": others,
                "other_logprobs": [each.tolist() for each in logprobs],
            }
        )
    return rows


@pytest.fixture
def table(tmp_path, sampled):
    path = tmp_path / "pairs.parquet"
    tables.write(path, tables.PAIRS, sampled)
    return path


def configure(folder, **changes):
    return resolve({"output_uri": str(folder), **SETTINGS, **changes})


def weights(folder):
    return load_policy(folder, "float32").state_dict()
