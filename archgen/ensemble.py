"""An ensemble of graph networks that corrects a first guess of the properties of architectures, from many labels."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from torch_geometric.data import Batch, Data
from torch_geometric.nn import DirGNNConv, SAGEConv, global_add_pool
from tqdm.auto import tqdm

from archgen.graph import to_batch
from archgen.space import SearchSpace

STEPS, BATCH, RATE = 600, 256, 3e-3
SHARPNESS, RANKING = 5.0, 0.3  # of the ranking loss: slope per unit of the score, and weight


class GraphRegressor(nn.Module):
    """Message passing along and against the edges, then a sum over the nodes.

    Args:
        n_labels: Columns of the one-hot node features.
        n_columns: What is known of a graph as a whole.
        n_properties: Values predicted.
        width: Channels of a node.
        depth: Rounds of messages.
    """

    def __init__(self, n_labels: int, n_columns: int, n_properties: int, width: int = 48, depth: int = 3):
        super().__init__()
        self.embed, self.context = nn.Linear(n_labels, width), nn.Linear(n_columns, width)
        self.rounds = nn.ModuleList(DirGNNConv(SAGEConv(width, width, aggr="sum")) for _ in range(depth))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(depth))
        self.head = nn.Sequential(nn.Linear(2 * width, 2 * width), nn.SiLU(), nn.Linear(2 * width, 2 * n_properties))
        nn.init.zeros_(self.head[-1].weight)
        nn.init.zeros_(self.head[-1].bias)

    def forward(
        self, graphs: Data, columns: Float[Tensor, "graphs columns"]
    ) -> tuple[Float[Tensor, "graphs properties"], Float[Tensor, "graphs properties"]]:
        """Correction of each property, and the logarithm of the variance that is left; both zero at the start."""
        h = self.embed(graphs.x)
        for norm, message in zip(self.norms, self.rounds, strict=True):
            h = h + F.silu(message(norm(h), graphs.edge_index))
        pooled = torch.cat([global_add_pool(h, graphs.batch) / 8, self.context(columns)], -1)
        correction, log_variance = self.head(pooled).chunk(2, -1)
        return correction, log_variance.clamp(-10, 4)


class GraphEnsemble(nn.Module):
    """Graph networks of different seeds, each trained on all labels.

    Args:
        space: The search space.
        n_columns: What is known of a graph as a whole.
        n_properties: Values predicted.
        members: Number of networks.
    """

    def __init__(self, space: SearchSpace, n_columns: int, n_properties: int, members: int = 4):
        super().__init__()
        self.space = space
        sizes = (len(space.node_labels), n_columns, n_properties)
        self.networks = nn.ModuleList(GraphRegressor(*sizes) for _ in range(members))

    def fit(
        self,
        codes: Int[Tensor, "rows holes"],
        columns: Float[Tensor, "rows columns"],
        base: Float[Tensor, "rows properties"],
        target: Float[Tensor, "rows properties"],
        seed: int = 0,
    ) -> GraphEnsemble:
        """Train every member, on batches of its own, to lead from the first guess to the target.

        Args:
            codes: The labelled architectures.
            columns: What is known of each as a whole.
            base: First guess, made without the row's own label.
            target: Scores of the labels, NaN where missing.
            seed: Seed of weights and batches.
        """
        graphs = [architecture.to_pyg() for architecture in self.space.decode_all(codes)]
        columns, base, target = columns.float(), base.float(), target.float()
        generator = torch.Generator().manual_seed(seed)
        optimizer = torch.optim.AdamW(self.parameters(), RATE, weight_decay=0.05)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=STEPS)
        for _ in tqdm(range(STEPS), desc="predictor", leave=False):
            loss = 0.0
            for network in self.networks:  # each on a batch of its own
                rows = torch.randint(len(codes), (BATCH,), generator=generator)
                batch = Batch.from_data_list([graphs[row] for row in rows.tolist()])
                correction, log_variance = network(batch, columns[rows])
                mean = base[rows] + correction
                loss = loss + loss_of(mean, log_variance, target[rows]) + RANKING * ranking_loss(mean, target[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        return self.eval()

    @torch.no_grad()
    def predict(
        self,
        codes: Int[Tensor, "rows holes"],
        columns: Float[Tensor, "rows columns"],
        base: Float[Tensor, "rows properties"],
    ) -> tuple[Float[Tensor, "members rows properties"], Float[Tensor, "rows properties"]]:
        """What each member predicts, and the standard deviation of the noise of a measurement."""
        device = next(self.parameters()).device
        graphs = to_batch(self.space.decode_all(codes))
        found = [network(graphs.to(device), columns.float().to(device)) for network in self.networks]
        members = base + torch.stack([mean for mean, _ in found]).double().cpu()
        variance = torch.stack([log_variance.exp() for _, log_variance in found]).mean(0).double().cpu()
        return members, variance.sqrt()


def loss_of(
    mean: Float[Tensor, "rows properties"],
    log_variance: Float[Tensor, "rows properties"],
    target: Float[Tensor, "rows properties"],
) -> Float[Tensor, ""]:
    """Huber loss of the mean, and the normal likelihood of its errors for the variance alone; NaN counts nothing.

    The likelihood of both together learns the mean late, since it calls what is hard to predict noise.
    """
    known = target.isfinite()
    mean, log_variance, target = mean[known], log_variance[known], target[known]
    error = (target - mean.detach()).square()
    likelihood = 0.5 * (error * (-log_variance).exp() + log_variance)
    return (F.huber_loss(mean, target, reduction="sum") + likelihood.sum()) / known.sum().clamp_min(1)


def ranking_loss(
    mean: Float[Tensor, "rows properties"], target: Float[Tensor, "rows properties"]
) -> Float[Tensor, ""]:
    """Logistic loss of the order of neighbouring rows; NaN counts nothing."""
    order = (target - target.roll(1, 0)).sign().nan_to_num()
    loss = F.softplus(-SHARPNESS * (mean - mean.roll(1, 0)) * order)[order != 0]
    return loss.sum() / order.count_nonzero().clamp_min(1)
