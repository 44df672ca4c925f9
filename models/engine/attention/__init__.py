"""Attention of the rows of a packed step, each over its own session's keys.

Hugging Face's layers call the function registered as `ATTENTION_NAME`; it hands over to the `AttentionStep`
that the caller passed into the forward as `attention_step`. A backend is one way to carry a step out; to add
one is to write the two methods of `interface.py`.

| backend  | runs on      | keys               | how                                  | parity was checked            |
|----------|--------------|--------------------|--------------------------------------|-------------------------------|
| `sdpa`   | any device   | any float          | row by row; keys in place where a    | on a CPU, in every test run   |
|          |              |                    | row's slots are one run              |                               |
| `varlen` | CUDA         | float16, bfloat16  | keys gathered for each layer, then   | on an H200, against `sdpa`;   |
|          |              |                    | torch's varlen kernel for all rows   | all but the kernel on a CPU   |
| `paged`  | CUDA, Triton | float16, bfloat16, | our Triton kernel; keys in place, by | on an H200, against `sdpa`;   |
|          |              | float32            | block table; long windows split      | in Triton's interpreter       |

`attention_backend("auto", device, model)` takes sdpa on a CPU; on a GPU paged, else varlen, else sdpa, whichever first
comes to sdpa's result in a small step with the model's dtype and heads on that very device. Of the three only `paged`
can be part of a recorded graph (`PagedAttention.fixed`): its work is written where the graph reads it. What was
measured on a GPU is in docs/benchmarks/engine-gpu.md; the tests that need one skip without.

What `sdpa` costs on a CPU: folding the query heads that share a key head, and leaving the mask out where a
window is long, made an extend of 43 tokens over 13,000 keys 1.2 times (4 heads of 48, 2 key heads) to 1.7 times
(28 heads of 128, 4 key heads) as fast as one masked call with unfolded heads; over 1,500 keys 1.1 times; a
decode row is as fast as before. What remains beside the matrix products is the softmax.
"""

from models.engine.attention.choice import attention_backend
from models.engine.attention.interface import ATTENTION_NAME, AttentionBackend, AttentionRow, AttentionStep
from models.engine.attention.sdpa import SdpaAttention

__all__ = [
    "ATTENTION_NAME",
    "AttentionBackend",
    "AttentionRow",
    "AttentionStep",
    "SdpaAttention",
    "attention_backend",
]
