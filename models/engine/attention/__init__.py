"""Attention of the rows of a packed step, each over its own session's keys.

Hugging Face's layers call the function registered as `ATTENTION_NAME`; it hands over to the `AttentionStep`
that the caller passed into the forward as `attention_step`. A backend is one way to carry a step out; to add
one is to write the two methods of `interface.py`.
"""

from models.engine.attention.interface import ATTENTION_NAME, AttentionBackend, AttentionRow, AttentionStep
from models.engine.attention.sdpa import SdpaAttention

__all__ = ["ATTENTION_NAME", "AttentionBackend", "AttentionRow", "AttentionStep", "SdpaAttention"]
