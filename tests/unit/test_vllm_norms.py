"""vLLM's kernels for RMS norms on a CPU against its plain torch, and which inputs they are given."""

import json
import subprocess
import sys

import pytest

# In a process of its own: vLLM looks at every module that is loaded, and Flask's, which MLflow brings, do not bear it.
COMPARE = """
import json
import torch
from sppo.sampling.vllm_norms import PRIORITY, ROUNDS
from vllm import ir

def run(provider, op, *arguments):
    copies = [each.clone() if isinstance(each, torch.Tensor) else each for each in arguments]
    result = op.impls[provider].impl_fn(*copies, 1e-5)
    return result if isinstance(result, tuple) else (result,)

def chosen(op, *arguments):
    with op.set_priority([*PRIORITY[op.name], "native"]):
        return op.dispatch(*arguments, 1e-5).provider

torch.manual_seed(0)
norm, add = ir.ops.rms_norm, ir.ops.fused_add_rms_norm
found = {"differences": [], "left": [], "rounds": ROUNDS, "chosen": {}}
for dtype in (torch.bfloat16, torch.float16, torch.float32):
    for shape in ((5, 64), (2, 3, 576)):
        x, other, weight = 3 * torch.randn(shape), torch.randn(shape), torch.randn(shape[-1])
        x, other, weight = (each.to(dtype) for each in (x, other, weight))
        for op, arguments in ((norm, (x, weight)), (norm, (x, None)), (add, (x, other, weight))):
            if chosen(op, *arguments) != "cpu_kernel":
                found["left"].append(str(dtype))
                continue
            exact = run("native", op, *(each if each is None else each.double() for each in arguments))
            for kernel, plain, true in zip(run("cpu_kernel", op, *arguments), run("native", op, *arguments), exact):
                size = true.abs().mean()
                of_kernel, of_plain = (float(((each - true).abs().mean() / size)) for each in (kernel, plain))
                found["differences"].append([of_kernel, of_plain])
x, weight = torch.randn(4, 64), torch.randn(64)
cases = {
    "plain rows": (norm, (x, weight)),
    "without a weight": (norm, (x, None)),
    "a sum": (add, (x, x, weight)),
    "part of wider rows": (norm, (torch.randn(4, 128)[:, :64], weight)),
    "a sum with part of wider rows": (add, (x, torch.randn(4, 128)[:, :64], weight)),
    "another type of weight": (norm, (x, weight.bfloat16())),
    "an odd width": (norm, (torch.randn(4, 20), torch.randn(20))),
}
found["chosen"] = {name: chosen(op, *arguments) for name, (op, arguments) in cases.items()}
print(json.dumps(found))
"""
KERNEL = ("plain rows", "without a weight", "a sum")


@pytest.fixture(scope="module")
def found():
    done = subprocess.run([sys.executable, "-c", COMPARE], check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)


def test_the_kernels_are_as_near_to_the_exact_norm_as_plain_torch(found):
    types = 3 if found["rounds"] else 2
    assert len(found["differences"]) == types * 2 * 4
    assert found["left"] == (3 - types) * 2 * 3 * ["torch.bfloat16"]
    for of_kernel, of_plain in found["differences"]:
        assert of_kernel <= 1.1 * of_plain + 1e-7


def test_the_kernels_get_what_they_can_take_and_plain_torch_the_rest(found):
    assert found["chosen"] == {name: "cpu_kernel" if name in KERNEL else "native" for name in found["chosen"]}
