"""Muon for the matrices inside a model, AdamW for the rest, as one optimizer."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

# Of the quintic iteration, by Keller Jordan (Muon, 2024): steepest at zero, and bounded.
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5


class Muon(Optimizer):
    """Steps along the momentum of each hidden matrix with all its singular values made about equal.

    `torch.optim.Muon` iterates in bfloat16, for which most CPUs have no instructions, and leaves AdamW to a second
    optimizer; this one keeps the parameter's precision, and a Trainer takes it as it is. Update of a matrix
    [out, in]: lr * sqrt(max(1, out / in)) * orthogonal(gradient + momentum * buffer).
    """

    def __init__(
        self,
        matrices: Iterable[tuple[Sequence[nn.Parameter], float]],
        others: Iterable[nn.Parameter],
        *,
        others_lr: float,
        weight_decay: float,
        momentum: float = 0.95,
        beta1: float = 0.9,
        beta2: float = 0.98,
    ) -> None:
        """`matrices`: each lot with its learning rate. `weight_decay` shrinks a parameter by its part of the others'
        learning rate; vectors are spared."""
        matrices, others = list(matrices), list(others)
        for matrix in (one for lot, _ in matrices for one in lot):
            if matrix.ndim != 2:
                raise ValueError(f"matrices: one has shape {list(matrix.shape)}; give it to `others`")
        decayed = [one for one in others if one.ndim > 1]
        spared = [one for one in others if one.ndim <= 1]
        groups: list[dict[str, Any]] = [
            *(
                {"params": lot, "lr": lr, "weight_decay": weight_decay * others_lr / lr, "is_muon": True}
                for lot, lr in matrices
            ),
            {"params": decayed, "lr": others_lr, "weight_decay": weight_decay, "is_muon": False},
            {"params": spared, "lr": others_lr, "weight_decay": 0.0, "is_muon": False},
        ]
        settings = {"momentum": momentum, "beta1": beta1, "beta2": beta2}
        super().__init__([group for group in groups if group["params"]], settings)

    @classmethod
    def of(cls, model: nn.Module, parts: Mapping[nn.Module, float], **settings: float) -> Muon:
        """For what is to be trained of `model`; matrices are the weights of linear maps in its `parts`, which learn at
        a rate of their own each and share nothing.

        Embeddings and heads are no such matrices: of their rows each is for itself.
        """
        matrices = [([*_matrices(part)], lr) for part, lr in parts.items()]
        turned = {id(one) for lot, _ in matrices for one in lot}
        others = [one for one in model.parameters() if one.requires_grad and id(one) not in turned]
        return cls(matrices, others, **settings)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                update = self._turned if group["is_muon"] else self._scaled
                update(parameter, parameter.grad, group)
        return loss

    def _turned(self, parameter: torch.Tensor, grad: torch.Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["buffer"] = torch.zeros_like(grad)
        buffer: torch.Tensor = state["buffer"]
        buffer.lerp_(grad, 1 - group["momentum"])
        ahead = grad.lerp(buffer, group["momentum"])
        out_size, in_size = parameter.shape
        parameter.sub_(orthogonal(ahead), alpha=group["lr"] * math.sqrt(max(1.0, out_size / in_size)))

    def _scaled(self, parameter: torch.Tensor, grad: torch.Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state |= {"step": 0, "mean": torch.zeros_like(grad), "square": torch.zeros_like(grad)}
        state["step"] += 1
        beta1, beta2 = group["beta1"], group["beta2"]
        state["mean"].lerp_(grad, 1 - beta1)
        state["square"].mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        scale = math.sqrt(1 - beta2 ** state["step"])
        parameter.addcdiv_(
            state["mean"],
            (state["square"].sqrt() / scale).add_(1e-8),
            value=-group["lr"] / (1 - beta1 ** state["step"]),
        )


def _matrices(part: nn.Module) -> Iterator[nn.Parameter]:
    maps = [module for module in part.modules() if isinstance(module, nn.Linear)]
    weights = (one for linear in maps for one in linear.parameters() if one.ndim == 2)
    yield from (weight for weight in weights if weight.requires_grad)


def orthogonal(matrix: torch.Tensor) -> torch.Tensor:
    """The matrix [m, n] with its singular values brought to between about 0.7 and 1.2, by Newton and Schulz."""
    a, b, c = _COEFFICIENTS
    is_tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if is_tall else matrix
    x = x / x.norm().clamp_min(1e-7)
    for _ in range(_ITERATIONS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if is_tall else x
