"""What following biases costs, counted in questions to the graph, not in seconds: it grows as the graph does."""

from __future__ import annotations

from unittest import mock

import pytest

from converter.model.graph import Graph, Node, Tensor, load
from converter.rewrite import pipeline
from tests.benchmarks.flow_cost import trunk


def questions(n_blocks: int, relu_every: int) -> int:
    """How often all passes together ask who reads a tensor."""
    asked = 0
    readers = Graph.readers

    def counted(self: Graph, tensor: Tensor) -> list[Node]:
        nonlocal asked
        asked += 1
        return readers(self, tensor)

    graph = load(trunk(n_blocks, relu_every))
    with mock.patch.object(Graph, "readers", counted):
        pipeline.run(graph, pipeline.Options())
    return asked


@pytest.mark.parametrize("relu_every", [1, 16, 64, 1000])
def test_twice_the_nodes_are_twice_the_work(relu_every: int) -> None:
    assert questions(128, relu_every) < 2.2 * questions(64, relu_every)


def test_long_stretches_cost_no_more_than_short_ones() -> None:
    assert questions(128, 1000) < 1.5 * questions(128, 16)
