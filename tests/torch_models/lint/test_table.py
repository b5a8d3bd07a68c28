"""The 28 rows: which biases change nothing in training, decided by tracing and borne out in float64."""

from __future__ import annotations

import pytest
import torch

from converter.torch_models.lint.confirm import Change, Twin
from converter.torch_models.lint.flow import BiasFlow
from converter.torch_models.lint.linter import lint
from converter.torch_models.lint.module_copies import Example
from converter.torch_models.lint.trace import TracedModule, trace_module
from tests.torch_models.lint.table import DEAD, LIVE, ROWS, Row


@pytest.fixture(scope="module", params=ROWS, ids=lambda row: row.name)
def case(request: pytest.FixtureRequest) -> tuple[Row, TracedModule]:
    torch.manual_seed(0)
    return request.param, trace_module(request.param.make(), Example((torch.randn(2, 3, 8, 8),), {}))


def test_there_are_fourteen_of_each() -> None:
    assert (len(DEAD), len(LIVE)) == (14, 14)
    assert len({row.name for row in ROWS}) == 28


def test_the_trace_decides(case: tuple[Row, TracedModule]) -> None:
    row, traced = case
    outcome = BiasFlow(traced).trace("c.bias")
    assert outcome.dead is row.dead, outcome
    assert bool(outcome.cancels) >= row.dead
    assert (outcome.block is None) is row.dead


def test_float64_agrees(case: tuple[Row, TracedModule]) -> None:
    row, traced = case
    twin, change = Twin(traced.module, traced.example), Change("c.bias")
    moved, gradient = twin.output_change([change]), twin.gradient_ratio(change)
    if row.dead:
        assert moved <= 1e-13
        assert gradient <= 1e-13
    else:
        assert moved >= 1e-3
        assert gradient >= 1e-3


def test_names_do_not_matter() -> None:
    """A bias that a batch norm takes away, in a module whose every name says something else."""

    class Embedding(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.relu = torch.nn.Parameter(torch.randn(5))
            self.weight_of_linear = torch.nn.Parameter(torch.randn(5, 3, 1, 1))
            self.register_buffer("m", torch.zeros(5))
            self.register_buffer("v", torch.ones(5))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = torch.conv2d(x, self.weight_of_linear) + self.relu[:, None, None]
            return torch.nn.functional.batch_norm(y, self.m, self.v, training=True)

    report = lint(Embedding(), torch.randn(4, 3, 6, 6))
    assert [(f.code, f.parameter, f.n_parameters) for f in report.findings] == [("bias-before-batch-norm", "relu", 5)]
