"""Networks of the family as graphs: a node for each layer, what it is, and which layers pass something on to which.

Nodes have names, and the one whose embedding stands for the whole network is found by its name, "output", never by
its place: with graphs of several sizes the last place is often empty.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .family import Architecture

OPERATIONS = ("input", "conv3", "conv5", "maxpool", "output")
FEATURES = len(OPERATIONS) + 2  # one-hot operation, log2 width, stride
NODES = 32  # places of a batch; the largest graph of the family has 23 nodes


@dataclass(frozen=True)
class Graph:
    """A network as a graph.

    Attributes:
        names: of its nodes, m of them.
        features: float [m f].
        adjacency: symmetric, without loops, float [m m].
    """

    names: tuple[str, ...]
    features: Tensor
    adjacency: Tensor

    def permuted(self, order: Sequence[int]) -> Graph:
        """Return the same graph with its nodes in another order."""
        rows = torch.tensor(list(order))
        return Graph(tuple(self.names[row] for row in order), self.features[rows], self.adjacency[rows][:, rows])


def graph_of(architecture: Architecture) -> Graph:
    """Return the graph of an architecture: a residual block is one whose second layer is also next to its input."""
    nodes: dict[str, list[float]] = {"input": node("input", 1)}
    edges: list[tuple[str, str]] = []
    last = "input"

    def follow(name: str, operation: str, width: int, stride: int = 1) -> str:
        nodes[name] = node(operation, width, stride)
        edges.append((last, name))
        return name

    last = follow("stem", "conv3", architecture.width)
    for place, stage in enumerate(architecture.stages):
        width, operation = architecture.width << place, f"conv{stage.kernel}"
        if stage.halved == "m":
            last = follow(f"{place}.pool", "maxpool", width // 2, 2)
        for block in range(stage.blocks):
            before, stride = last, 2 if stage.halved == "s" and not block else 1
            last = follow(f"{place}.{block}.first", operation, width, stride)
            last = follow(f"{place}.{block}.second", operation, width)
            edges += [(before, last)] if stage.residual else []
    follow("output", "output", 1)
    return Graph(tuple(nodes), torch.tensor(list(nodes.values())), adjacency(tuple(nodes), edges))


def node(operation: str, width: int, stride: int = 1) -> list[float]:
    """Return the features of a node; pictures and classes, which differ between data, count as of width 1."""
    return [*(float(operation == other) for other in OPERATIONS), math.log2(width), float(stride)]


def adjacency(names: tuple[str, ...], edges: Sequence[tuple[str, str]]) -> Tensor:
    """Return the matrix of edges, both ways."""
    matrix = torch.zeros(len(names), len(names))
    for one, other in edges:
        i, j = names.index(one), names.index(other)
        matrix[i, j] = matrix[j, i] = 1.0
    return matrix


@dataclass(frozen=True)
class Graphs:
    """Several graphs in one batch; places without a node are told by a mask and never read.

    Attributes:
        x: features, float [b places f].
        adjacency: float [b places places].
        mask: whether there is a node, bool [b places].
        output: place of the node called "output", int64 [b].
    """

    x: Tensor
    adjacency: Tensor
    mask: Tensor
    output: Tensor

    def __getitem__(self, rows: Tensor) -> Graphs:
        return Graphs(self.x[rows], self.adjacency[rows], self.mask[rows], self.output[rows])

    def __len__(self) -> int:
        return len(self.x)


def batched(graphs: Sequence[Graph], places: int = NODES) -> Graphs:
    """Return graphs as one batch.

    Raises:
        ValueError: there is none, or one has more nodes than there are places.
    """
    most = max((len(graph.names) for graph in graphs), default=0)
    if not 0 < most <= places:
        raise ValueError(f"{len(graphs)} graphs of up to {most} nodes for {places} places; pass one or more that fit")
    x, edges = torch.zeros(len(graphs), places, FEATURES), torch.zeros(len(graphs), places, places)
    mask = torch.zeros(len(graphs), places, dtype=torch.bool)
    for row, graph in enumerate(graphs):
        m = len(graph.names)
        x[row, :m], edges[row, :m, :m], mask[row, :m] = graph.features, graph.adjacency, True
    return Graphs(x, edges, mask, torch.tensor([graph.names.index("output") for graph in graphs]))
