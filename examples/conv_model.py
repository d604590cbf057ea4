"""A convolutional model of handwritten digits: written, checked, trained and evaluated."""

import argparse

import torch
from torch import nn
from torch.distributions import Bernoulli, Independent

import ovis
from ovis.experiments.datasets import load_dataset


class ConvModel(ovis.Model):
    """Binary images [1, 8, 8] with binary latent variables."""

    def __init__(self, latents: int = 32):
        super().__init__()
        self.inference_network = nn.Sequential(
            *(nn.Conv2d(1, 16, 3, stride=2, padding=1), nn.ReLU()),
            *(nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU()),
            *(nn.Flatten(), nn.Linear(128, latents)),
        )
        self.generative_model = nn.Sequential(
            *(nn.Linear(latents, 128), nn.ReLU(), nn.Unflatten(1, (32, 2, 2))),
            *(nn.ConvTranspose2d(32, 16, 4, stride=2, padding=1), nn.ReLU()),
            nn.ConvTranspose2d(16, 1, 4, stride=2, padding=1),
        )
        self.prior = nn.Parameter(torch.zeros(latents))

    def encode(self, x):  # [B, 1, 8, 8] -> [B, latents], once per image
        return self.inference_network(x)

    def q(self, h):  # [B, 1, latents]
        return Independent(Bernoulli(logits=h), 1)

    def p(self, z, h):  # [B, N, latents]: a convolution has one batch dimension, so the particles become rows
        logits = self.generative_model(z.flatten(0, -2)).unflatten(0, z.shape[:-1])
        return Independent(Bernoulli(logits=logits), 3), Independent(Bernoulli(logits=self.prior), 1)

    def sample_from_prior(self, bs, **kwargs):
        z = Bernoulli(logits=self.prior.expand(bs, -1)).sample()
        px, pz = self.p(z, None)
        return {"px": px, "z": [z], "pz": [pz]}


def main() -> None:
    """Print the report on the model, the bound of each epoch, and that of the test data."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--estimator", default="ovis-gamma1", help="id of an estimator")
    parser.add_argument("--iw", type=int, default=10, help="particles")
    parser.add_argument("--epochs", type=int, default=20, help="passes over the data")
    opt = parser.parse_args()

    torch.manual_seed(1)
    data = load_dataset("digits")
    model, estimator = ConvModel(), ovis.estimator(opt.estimator, iw=opt.iw)
    print(ovis.check_model(model, data.train.points(8)))
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for epoch in range(1, opt.epochs + 1):
        mean = ovis.Aggregator()
        for x in data.train.batches(50, torch.Generator().manual_seed(epoch)):
            loss, diagnostics, _ = estimator(model, x)
            loss.mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            mean.update(diagnostics)
        print(f"epoch {epoch}: L_{opt.iw} = {mean.data['loss']['L_k'].item():.2f} nats")
    print(ovis.evaluate(model, data.test.float(), iw=1000))


if __name__ == "__main__":
    main()
