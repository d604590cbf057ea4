"""A mixture of variational autoencoders on handwritten digits: a categorical cluster and a normal code in one bound.

The cluster can't be reparameterized, the code can: ``ovis-gamma1+iwae`` scores the first and differentiates through the
second. The clusters are drawn: each row shows, on the left, data that q assigns to the cluster and, on the right,
means of the model's pixels for codes drawn from it.
"""

import argparse

import matplotlib.pyplot as plt
import torch
from torch import nn
from torch.distributions import Independent, Normal

import ovis
from ovis.experiments.datasets import load_dataset
from ovis.models.distributions import BernoulliVector, OneHotVector


class GMVAE(ovis.Model):
    """p(x, y, c) = p(x|y) N(y; m_c, s_c) p(c), q(c, y|x) = q(c|x) q(y|x, c).

    Args:
        pixels: pixels of an image.
        clusters: number of clusters.
        size: dimensions of the code y.
        hidden: units of a hidden layer.
    """

    def __init__(self, pixels: int = 64, clusters: int = 10, size: int = 8, hidden: int = 128):
        super().__init__()
        self.inference_network = nn.ModuleDict(
            {
                "features": nn.Sequential(nn.Linear(pixels, hidden), nn.ReLU()),
                "cluster": nn.Linear(hidden, clusters),
                "code": nn.Sequential(nn.Linear(hidden + clusters, hidden), nn.ReLU(), nn.Linear(hidden, 2 * size)),
            }
        )
        self.decoder = nn.Sequential(nn.Linear(size, hidden), nn.ReLU(), nn.Linear(hidden, pixels))
        self.means = nn.Parameter(torch.randn(clusters, size))
        self.log_scales = nn.Parameter(torch.zeros(clusters, size))
        self.register_buffer("uniform", torch.zeros(clusters))

    def encode(self, x):
        return self.inference_network["features"](x.flatten(1))

    def q(self, h):
        c = yield OneHotVector(self.inference_network["cluster"](h))
        inputs = torch.cat([h.expand(*c.shape[:-1], -1), c], -1)
        loc, log_scale = self.inference_network["code"](inputs).chunk(2, -1)
        yield Independent(Normal(loc, log_scale.exp()), 1)

    def p(self, z, h):
        c, y = z
        code = Independent(Normal(c @ self.means, (c @ self.log_scales).exp()), 1)
        return BernoulliVector(self.decoder(y)), [OneHotVector(self.uniform), code]

    def target(self, x):
        return x.flatten(1)


def draw_clusters(model: GMVAE, x: torch.Tensor, path: str, columns: int = 12) -> None:
    """Draw data of each cluster beside what the model makes of codes of it."""
    with torch.no_grad():
        assigned = model.inference_network["cluster"](model.encode(x)).argmax(-1)
        codes = model.means.unsqueeze(1) + model.log_scales.exp().unsqueeze(1) * torch.randn(
            len(model.means), columns, model.means.shape[1]
        )
        samples = model.decoder(codes).sigmoid()
    figure, axes = plt.subplots(len(samples), 2, figsize=(8, 4.4), layout="constrained")
    for c, row in enumerate(axes):
        for ax, images in zip(row, (x[assigned == c][:columns], samples[c]), strict=True):
            page = torch.zeros(columns, 8, 10)  # the images of a cluster side by side, two pixels apart
            page[: len(images), :, 1:9] = images.view(-1, 8, 8)
            ax.imshow(page.transpose(0, 1).flatten(1), cmap="gray_r", vmin=0, vmax=1)
            ax.axis("off")
        row[0].text(-4, 3.5, f"{c}", ha="right", va="center")
    axes[0, 0].set_title("data, by their most probable cluster", fontsize=10)
    axes[0, 1].set_title("means of p(x|y), y drawn from the cluster", fontsize=10)
    figure.savefig(path, dpi=120)


def main() -> None:
    """Train, print the bound of each epoch, and draw the clusters."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--estimator", default="ovis-gamma1+iwae", help="id of an estimator for both kinds of layers")
    parser.add_argument("--iw", type=int, default=10, help="particles")
    parser.add_argument("--epochs", type=int, default=60, help="passes over the data")
    parser.add_argument("--output", default="gmvae.png", help="path of the figure")
    opt = parser.parse_args()

    torch.manual_seed(1)
    data = load_dataset("digits")
    model, estimator = GMVAE(), ovis.estimator(opt.estimator, iw=opt.iw)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for epoch in range(1, opt.epochs + 1):
        mean = ovis.Aggregator()
        for x in data.train.batches(50, torch.Generator().manual_seed(epoch)):
            loss, diagnostics, _ = estimator(model, x)
            loss.mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            mean.update(diagnostics)
        if epoch % 10 == 0 or epoch == 1:
            print(f"epoch {epoch}: L_{opt.iw} = {mean.data['loss']['L_k'].item():.2f} nats")
    x = next(iter(data.train.batches(1000, torch.Generator().manual_seed(0))))
    draw_clusters(model, x, opt.output)
    print(f"clusters: {opt.output}")


if __name__ == "__main__":
    main()
