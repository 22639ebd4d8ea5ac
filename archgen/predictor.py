"""Predicts measured properties of architectures from few labels: an ensemble of graph networks over PyG graphs."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch_geometric.data import Batch, Data
from torch_geometric.nn import DirGNNConv, SAGEConv, global_add_pool
from tqdm.auto import tqdm

from archgen.space import SearchSpace


class GraphRegressor(nn.Module):
    """Message passing along and against the edges, then a sum over the nodes.

    Args:
        n_labels: Columns of the one-hot node features.
        n_properties: Values predicted.
        width: Channels of a node.
        depth: Rounds of messages.
    """

    def __init__(self, n_labels: int, n_properties: int, width: int = 64, depth: int = 4):
        super().__init__()
        self.embed = nn.Linear(n_labels, width)
        self.rounds = nn.ModuleList(DirGNNConv(SAGEConv(width, width, aggr="sum")) for _ in range(depth))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(depth))
        self.head = nn.Sequential(nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, n_properties))

    def forward(self, graphs: Data) -> Float[Tensor, "graphs properties"]:
        """Predict the properties of a batch of graphs."""
        h = self.embed(graphs.x)
        for norm, message in zip(self.norms, self.rounds, strict=True):
            h = h + torch.nn.functional.silu(message(norm(h), graphs.edge_index))
        return self.head(global_add_pool(h, graphs.batch) / 8)


class PropertyPredictor:
    """An ensemble that completes the labels of a space from those of a few architectures.

    Labels are learned as normal scores of their ranks, so outliers such as untrainable networks do not rule the fit,
    and are mapped back through the labelled values, linearly beyond their ends.

    Args:
        space: The search space.
        members: Networks in the ensemble.
        epochs: Full-batch steps of each.
        seed: Seed of the weights.
    """

    def __init__(self, space: SearchSpace, members: int = 6, epochs: int = 300, seed: int = 0):
        self.space, self.members, self.epochs, self.seed = space, members, epochs, seed
        self.networks: list[GraphRegressor] = []

    def fit(self, codes: Int[Tensor, "rows holes"], labels: Float[Tensor, "rows properties"]) -> PropertyPredictor:
        """Train every member on all labels.

        Args:
            codes: The labelled architectures.
            labels: Their measured properties, none missing.
        """
        self.sorted = labels.double().sort(0).values
        target = normal_score((labels.argsort(0).argsort(0) + 0.5) / len(labels)).float()
        graphs = self._graphs(codes)
        for member in tqdm(range(self.members), desc="predictor", leave=False):
            torch.manual_seed(self.seed * 1000 + member)
            network = GraphRegressor(graphs.x.shape[1], labels.shape[1])
            optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=0.05)
            schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=self.epochs)
            for _ in range(self.epochs):
                loss = nn.functional.huber_loss(network(graphs), target)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
            self.networks.append(network.eval())
        return self

    @torch.inference_mode()
    def predict(self, codes: Int[Tensor, "rows holes"]) -> Float[Tensor, "rows properties"]:
        """Mean of the members, in the units of the labels."""
        scores = []
        for part in codes.split(4096):
            graphs = self._graphs(part)
            scores.append(torch.stack([network(graphs) for network in self.networks]).mean(0))
        score = torch.cat(scores).double()
        known = normal_score((torch.arange(len(self.sorted), dtype=torch.float64) + 0.5) / len(self.sorted))
        return torch.stack([extend(score[:, c], known, self.sorted[:, c]) for c in range(score.shape[1])], -1).float()

    def _graphs(self, codes: Int[Tensor, "rows holes"]) -> Batch:
        return Batch.from_data_list([architecture.to_pyg() for architecture in self.space.decode_all(codes)])


def normal_score(level: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Quantiles of the standard normal distribution."""
    return torch.special.ndtri(level.double())


def extend(x: Float[Tensor, " n"], known: Float[Tensor, " k"], value: Float[Tensor, " k"]) -> Float[Tensor, " n"]:
    """Piecewise linear through `(known, value)`; beyond the ends with the slope of the outer twentieth.

    Args:
        x: Where to evaluate.
        known: Increasing positions.
        value: Values there, not decreasing.
    """
    right = torch.searchsorted(known, x.contiguous()).clamp(1, len(known) - 1)
    share = (x - known[right - 1]) / (known[right] - known[right - 1])
    inside = torch.lerp(value[right - 1], value[right], share.clamp(0, 1))
    step = max(1, len(known) // 20)
    below = (value[step] - value[0]) / (known[step] - known[0])
    above = (value[-1] - value[-1 - step]) / (known[-1] - known[-1 - step])
    return inside + below * (x - known[0]).clamp_max(0) + above * (x - known[-1]).clamp_min(0)
