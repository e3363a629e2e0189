"""DistributedOptimizer, broadcast of state, SyncBatchNorm."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import nn

import khorus.torch as hvd

BATCH = 4


def model_of(seed: int = 3) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3)).double()


def data_of(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The whole batch of a step; rank r has rows r*BATCH and on."""
    generator = torch.Generator().manual_seed(step)
    rows = BATCH * hvd.size()
    x = torch.randn(rows, 5, dtype=torch.float64, generator=generator)
    y = torch.randn(rows, 3, dtype=torch.float64, generator=generator)
    return x, y


def mine(tensor: torch.Tensor) -> torch.Tensor:
    return tensor[BATCH * hvd.rank() : BATCH * (hvd.rank() + 1)]


OPTIMIZERS: dict[str, Any] = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    "Adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=0.01, amsgrad=True),
    "Adagrad": lambda p: torch.optim.Adagrad(p, lr=0.05),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.5, centered=True),
    "Adadelta": lambda p: torch.optim.Adadelta(p),
    "Adamax": lambda p: torch.optim.Adamax(p),
    "NAdam": lambda p: torch.optim.NAdam(p),
    "RAdam": lambda p: torch.optim.RAdam(p),
    "ASGD": lambda p: torch.optim.ASGD(p),
    "Rprop": lambda p: torch.optim.Rprop(p),
    "LBFGS": lambda p: torch.optim.LBFGS(p, lr=0.5, max_iter=4),
}


def trained(make: Any, steps: int, wrap: bool, **options: Any) -> nn.Module:
    model = model_of()
    optimizer = make(model.parameters())
    if wrap:
        optimizer = hvd.DistributedOptimizer(
            optimizer, named_parameters=model.named_parameters(), **options
        )
    passes = options.get("backward_passes_per_step", 1)
    for step in range(steps):
        batches = [data_of(step * passes + i) for i in range(passes)]
        if wrap:
            batches = [(mine(x), mine(y)) for x, y in batches]

        def closure(batches: Any = batches) -> torch.Tensor:
            optimizer.zero_grad()
            loss = torch.zeros((), dtype=torch.float64)
            for x, y in batches:
                loss = (model(x) - y).square().mean()
                loss.backward()
            # LBFGS looks at the loss: that of the whole batch, on all ranks alike.
            return hvd.allreduce(loss.detach()) if wrap else loss.detach()

        if isinstance(optimizer, torch.optim.LBFGS):
            optimizer.step(closure)
        else:
            closure()
            optimizer.step()
    return model


def assert_same(one: nn.Module, other: nn.Module, tolerance: float = 1e-9) -> None:
    for (name, a), b in zip(one.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(
            a, b, rtol=tolerance, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}"
        )


def assert_same_on_all_ranks(model: nn.Module) -> None:
    for p in model.parameters():
        everyone = hvd.allgather(p.detach().reshape(1, -1))
        assert all(torch.equal(row, everyone[0]) for row in everyone)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_equals_one_rank_with_the_whole_batch(name: str) -> None:
    make = OPTIMIZERS[name]
    steps = 5 if name == "LBFGS" else 50
    model = trained(make, steps, wrap=True)
    assert_same(model, trained(make, steps, wrap=False))
    assert_same_on_all_ranks(model)


@pytest.mark.parametrize(
    "options",
    [
        {"backward_passes_per_step": 3},
        {"num_groups": 2},
        {"gradient_predivide_factor": 2.0},
        {"compression": hvd.Compression.fp16},
        {"compression": hvd.Compression.bf16},
    ],
    ids=str,
)
def test_options(options: dict[str, Any]) -> None:
    make = OPTIMIZERS["SGD"]
    model = trained(make, 20, wrap=True, **options)
    alone = model_of()
    optimizer = make(alone.parameters())
    passes = options.get("backward_passes_per_step", 1)
    for step in range(20):
        optimizer.zero_grad()
        for i in range(passes):
            x, y = data_of(step * passes + i)
            (alone(x) - y).square().mean().backward()
        optimizer.step()
    assert_same(model, alone, 5e-2 if "compression" in options else 1e-9)
    assert_same_on_all_ranks(model)


def test_is_an_optimizer_like_the_wrapped_one() -> None:
    model = model_of()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.5)
    wrapped = hvd.DistributedOptimizer(optimizer, model.named_parameters())
    assert isinstance(wrapped, torch.optim.Adam) and type(wrapped).__name__ == "Adam"
    assert wrapped.param_groups[0]["lr"] == 0.5
    scheduler = torch.optim.lr_scheduler.StepLR(wrapped, step_size=1, gamma=0.1)
    x, y = data_of(0)
    (model(mine(x)) - mine(y)).square().mean().backward()
    wrapped.step()
    scheduler.step()
    assert wrapped.param_groups[0]["lr"] == pytest.approx(0.05)
    state = wrapped.state_dict()
    other = hvd.DistributedOptimizer(torch.optim.Adam(model.parameters()))
    other.load_state_dict(state)
    assert other.param_groups[0]["lr"] == pytest.approx(0.05)
    for copied in (copy.deepcopy(wrapped), pickle.loads(pickle.dumps(wrapped))):
        assert type(copied) is torch.optim.Adam
        assert copied.state_dict()["param_groups"] == state["param_groups"]


def test_clipping_between_synchronize_and_step() -> None:
    model, alone = model_of(), model_of()
    optimizer = hvd.DistributedOptimizer(
        torch.optim.SGD(model.parameters(), lr=1.0), model.named_parameters()
    )
    x, y = data_of(0)
    (model(mine(x)) - mine(y)).square().mean().backward()
    optimizer.synchronize()
    nn.utils.clip_grad_norm_(model.parameters(), 0.01)
    with optimizer.skip_synchronize():
        optimizer.step()
    (alone(x) - y).square().mean().backward()
    nn.utils.clip_grad_norm_(alone.parameters(), 0.01)
    torch.optim.SGD(alone.parameters(), lr=1.0).step()
    assert_same(model, alone)


def test_grad_scaler() -> None:
    model = model_of().float()
    optimizer = hvd.DistributedOptimizer(torch.optim.SGD(model.parameters(), lr=0.1))
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    before = [p.detach().clone() for p in model.parameters()]
    x, y = data_of(0)
    scaler.scale((model(mine(x).float()) - mine(y).float()).square().mean()).backward()
    optimizer.synchronize()
    scaler.unscale_(optimizer)
    with optimizer.skip_synchronize():
        scaler.step(optimizer)
    scaler.update()
    assert any(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert_same_on_all_ranks(model)


def test_parameters_without_a_gradient_here() -> None:
    layers = nn.ModuleList(nn.Linear(2, 2, bias=False) for _ in range(hvd.size() + 1))
    hvd.broadcast_parameters(layers.state_dict(), root_rank=0)
    before = [layer.weight.detach().clone() for layer in layers]
    optimizer = hvd.DistributedOptimizer(
        torch.optim.SGD(layers.parameters(), lr=1.0), layers.named_parameters(), op=hvd.Sum
    )
    layers[hvd.rank()](torch.ones(1, 2)).sum().backward()
    optimizer.step()
    for layer, old in zip(list(layers)[:-1], before, strict=False):
        torch.testing.assert_close(layer.weight.detach(), old - 1)
    assert torch.equal(layers[-1].weight, before[-1]), "nobody used it"


def test_frozen_added_and_shared_parameters() -> None:
    model = model_of()
    first = model[0]
    assert isinstance(first, nn.Linear)
    first.weight.requires_grad_(False)
    optimizer = hvd.DistributedOptimizer(torch.optim.SGD(model.parameters(), lr=0.1))
    extra = nn.Parameter(torch.zeros(3, dtype=torch.float64))
    optimizer.add_param_group({"params": [extra]})
    first.weight.requires_grad_(True)  # thawed
    for step in range(3):
        optimizer.zero_grad()
        x, _ = data_of(step)
        hidden = model(mine(x))
        ((hidden + extra).square() + hidden).sum().backward()
        optimizer.step()
    assert_same_on_all_ranks(model)
    assert extra.abs().sum() > 0
    gathered = hvd.allgather(extra.detach().reshape(1, -1))
    assert all(torch.equal(row, gathered[0]) for row in gathered)


def test_sparse_gradients() -> None:
    for as_dense in (True, False):
        torch.manual_seed(1)
        embedding = nn.Embedding(6, 2, sparse=True)
        before = embedding.weight.detach().clone()
        optimizer = hvd.DistributedOptimizer(
            torch.optim.SGD(embedding.parameters(), lr=1.0),
            embedding.named_parameters(),
            op=hvd.Sum,
            sparse_as_dense=as_dense,
        )
        embedding(torch.tensor([hvd.rank(), 5])).sum().backward()
        optimizer.step()
        expected = before.clone()
        expected[: hvd.size()] -= 1
        expected[5] -= hvd.size()
        torch.testing.assert_close(embedding.weight.detach(), expected)


def test_a_rank_without_a_sparse_gradient_gives_none_of_its_rows() -> None:
    embedding = nn.Embedding(6, 2, sparse=True)
    nn.init.zeros_(embedding.weight)
    optimizer = hvd.DistributedOptimizer(
        torch.optim.SGD(embedding.parameters(), lr=1.0), op=hvd.Sum
    )
    for step in range(4):
        optimizer.zero_grad()
        if step % 2 or hvd.rank() == 0:  # from the first step on
            embedding(torch.tensor([hvd.rank(), 5])).sum().backward()
        optimizer.step()
        assert embedding.weight.grad is not None and embedding.weight.grad.is_sparse
    expected = torch.zeros(6, 2)
    expected[0] = -4
    expected[1 : hvd.size()] = -2
    expected[5] = -(2 * hvd.size() + 2)
    torch.testing.assert_close(embedding.weight.detach(), expected)


def test_sparse_gradients_with_a_rank_that_was_not_there_in_the_first_steps() -> None:
    size, rank = hvd.size(), hvd.rank()
    embedding = nn.Embedding(6, 2, sparse=True)
    nn.init.zeros_(embedding.weight)
    optimizer = hvd.DistributedOptimizer(
        torch.optim.SGD(embedding.parameters(), lr=1.0), op=hvd.Sum
    )
    for steps, root in ((rank, size - 1), (size - rank, 0)):
        for _ in range(steps):
            optimizer.zero_grad()
            embedding(torch.tensor([rank, 5])).sum().backward()
            optimizer.step()
            assert embedding.weight.grad is not None and embedding.weight.grad.is_sparse
        hvd.join()
        hvd.broadcast_parameters(embedding.state_dict(), root_rank=root)
    expected = torch.zeros(6, 2)
    expected[:size] = expected[5] = -size
    expected[5] *= size
    torch.testing.assert_close(embedding.weight.detach(), expected)


def test_sparse_gradients_in_groups_go_alone() -> None:
    def trained(frozen_after: int = 9, **options: Any) -> list[torch.Tensor]:
        torch.manual_seed(1)
        model = nn.Sequential(nn.Embedding(6, 4, sparse=True), nn.Linear(4, 2)).double()
        optimizer = hvd.DistributedOptimizer(
            torch.optim.SGD(model.parameters(), lr=0.05), model.named_parameters(), **options
        )
        for step in range(4):
            optimizer.zero_grad()
            if step % 3 or hvd.rank() == 0:  # the others have no gradient at all in the first step
                model(torch.tensor([hvd.rank(), step])).square().sum().backward()
            optimizer.step()
            if step == frozen_after:
                model[0].weight.requires_grad_(False)
        return [p.detach() for p in model.parameters()]

    expected = trained(sparse_as_dense=True)
    for groups in ({"num_groups": 1}, {"num_groups": 2}):
        torch.testing.assert_close(trained(**groups), expected)
    trained(num_groups=1, frozen_after=2)  # of which nobody waits for the frozen one


@pytest.mark.skipif("hvd.size() == 1")
def test_a_gradient_that_is_sparse_on_one_rank_only() -> None:
    weight = torch.zeros(4, 2, requires_grad=True)
    optimizer = hvd.DistributedOptimizer(
        torch.optim.SGD([weight], lr=1.0), [("of_one_kind", weight)]
    )
    rows = nn.functional.embedding(torch.tensor([1]), weight, sparse=hvd.rank() == 0)
    rows.sum().backward()
    here = "sparse" if hvd.rank() == 0 else "dense"
    told = (
        f"'of_one_kind' is sparse on 1 and dense on {hvd.size() - 1} of .*{here}.*sparse_as_dense"
    )
    with pytest.raises(ValueError, match=told):
        optimizer.step()


def test_guards() -> None:
    model = model_of()
    optimizer = hvd.DistributedOptimizer(
        torch.optim.SGD(model.parameters(), lr=0.1), model.named_parameters()
    )
    x, y = data_of(0)
    (model(mine(x)) - mine(y)).square().mean().backward()
    with pytest.raises(AssertionError, match="on their way"):
        optimizer.zero_grad()
    with pytest.raises(AssertionError, match=r"add_param_group\(\) between"):
        optimizer.add_param_group({"params": [torch.zeros(1, requires_grad=True)]})
    with pytest.raises(AssertionError, match="backward_passes_per_step"):
        (model(mine(x)) - mine(y)).square().mean().backward()
    optimizer.synchronize()
    with pytest.warns(UserWarning, match="skip_synchronize"):
        optimizer.step()
    pairs = list(model.named_parameters())
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match="there twice"):
        hvd.DistributedOptimizer(sgd, [("a", p) for _, p in pairs])
    with pytest.raises(ValueError, match="not among them"):
        hvd.DistributedOptimizer(sgd, pairs[:1])
    with pytest.raises(ValueError, match="pairs of name and parameter"):
        hvd.DistributedOptimizer(sgd, model.parameters())
    with pytest.raises(ValueError, match="op=Average"):
        hvd.DistributedOptimizer(sgd, op=hvd.Sum, gradient_predivide_factor=2.0)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("used", [False, True], ids=["fresh", "used"])
def test_broadcast_of_state(name: str, used: bool) -> None:
    model = model_of(seed=hvd.rank())
    optimizer = OPTIMIZERS[name](model.parameters())
    if used and hvd.rank() == 0:
        for step in range(2):
            x, y = data_of(step)

            def closure(x: torch.Tensor = x, y: torch.Tensor = y) -> torch.Tensor:
                optimizer.zero_grad()
                loss = (model(x) - y).square().mean()
                loss.backward()
                return loss

            optimizer.step(closure)
    hvd.broadcast_parameters(model.state_dict(), root_rank=0)
    hvd.broadcast_optimizer_state(optimizer, root_rank=0)
    assert_same_on_all_ranks(model)
    texts = hvd.allgather_object(repr(optimizer.state_dict()))
    assert len(set(texts)) == 1
    assert (len(optimizer.state_dict()["state"]) > 0) == (used or name in ("Adagrad",))


def test_sync_batch_norm() -> None:
    torch.manual_seed(0)
    sync, plain = hvd.SyncBatchNorm(3), nn.BatchNorm2d(3)
    for module in (sync, plain):
        module.double()
        with torch.no_grad():
            module.weight.copy_(torch.tensor([1.0, 2.0, -1.0]))
            module.bias.copy_(torch.tensor([0.5, 0.0, 1.0]))
    sizes = [r + 1 for r in range(hvd.size())]  # batches differ
    whole = torch.randn(sum(sizes), 3, 4, 4, dtype=torch.float64) * 3 + 1
    first = sum(sizes[: hvd.rank()])
    part = whole[first : first + sizes[hvd.rank()]].clone().requires_grad_()
    whole.requires_grad_()
    for _ in range(3):
        part.grad = whole.grad = None
        sync.zero_grad()
        plain.zero_grad()
        y, want = sync(part), plain(whole)
        torch.testing.assert_close(y, want[first : first + len(part)])
        (y * y).sum().backward()
        (want * want).sum().backward()
        assert whole.grad is not None
        torch.testing.assert_close(part.grad, whole.grad[first : first + len(part)])
        torch.testing.assert_close(sync.running_mean, plain.running_mean)
        torch.testing.assert_close(sync.running_var, plain.running_var)
        weight = hvd.allreduce(sync.weight.grad, op=hvd.Sum)
        torch.testing.assert_close(weight, plain.weight.grad)
        torch.testing.assert_close(hvd.allreduce(sync.bias.grad, op=hvd.Sum), plain.bias.grad)
    sync.eval()
    plain.eval()
    torch.testing.assert_close(sync(part), plain(whole)[first : first + len(part)])
