import pytest
import torch
from torch import nn

from models.training.muon import Muon, orthogonal


@pytest.mark.parametrize("shape", [(48, 48), (96, 24), (24, 96)])
def test_singular_values_become_about_one(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    matrix = torch.randn(shape) * torch.logspace(0, 1, shape[1])
    before, after = torch.linalg.svdvals(matrix), torch.linalg.svdvals(orthogonal(matrix))
    assert before.max() / before.min() > 3
    assert after.min() > 0.5 and after.max() < 1.3
    # And the singular vectors stay: U S' V^T against U V^T of torch's own decomposition.
    u, _, vt = torch.linalg.svd(matrix, full_matrices=False)
    assert torch.cosine_similarity(orthogonal(matrix).flatten(), (u @ vt).flatten(), dim=0) > 0.97


def test_what_is_no_matrix_learns_as_with_adamw() -> None:
    torch.manual_seed(0)
    ours, theirs = nn.Embedding(8, 4), nn.Embedding(8, 4)
    theirs.load_state_dict(ours.state_dict())
    muon = Muon([], ours.parameters(), others_lr=1e-2, weight_decay=0.1)
    adamw = torch.optim.AdamW(theirs.parameters(), lr=1e-2, betas=(0.9, 0.98), weight_decay=0.1)
    for step in range(5):
        for embedding, optimizer in ((ours, muon), (theirs, adamw)):
            optimizer.zero_grad()
            (embedding(torch.tensor([step % 8, 3])) ** 2).sum().backward()
            optimizer.step()
    torch.testing.assert_close(ours.weight, theirs.weight)


def test_linear_maps_of_the_layers_are_turned_and_nothing_else() -> None:
    model = nn.ModuleDict(
        {
            "layers": nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6)),
            "slow": nn.Linear(6, 6, bias=False),
            "head": nn.Linear(6, 3),
        }
    )
    model["layers"][0].bias.requires_grad_(False)
    rates = {model["layers"]: 0.02, model["slow"]: 0.01}
    optimizer = Muon.of(model, rates, others_lr=1e-3, weight_decay=0.05)
    turned = [
        (group["lr"], *map(id, group["params"])) for group in optimizer.param_groups if group["is_muon"]
    ]
    assert turned == [(0.02, id(model["layers"][0].weight)), (0.01, id(model["slow"].weight))]
    others = {id(p) for group in optimizer.param_groups if not group["is_muon"] for p in group["params"]}
    assert others == {id(p) for p in (*model["layers"][1].parameters(), *model["head"].parameters())}
    # Shrinks by the same share a step, whatever the learning rate; vectors not at all.
    assert [group["lr"] * group["weight_decay"] for group in optimizer.param_groups] == [
        pytest.approx(5e-5),
        pytest.approx(5e-5),
        pytest.approx(5e-5),
        0,
    ]


def test_a_vector_is_refused_as_a_matrix() -> None:
    with pytest.raises(ValueError, match=r"shape \[3\]"):
        Muon([([nn.Parameter(torch.zeros(3))], 0.02)], [], others_lr=1e-3, weight_decay=0.0)
