"""The library in use: train a sigmoid belief network on handwritten digits with OVIS, and look at its gradients."""

import argparse
import tempfile

import torch
from torch.utils.tensorboard import SummaryWriter

from ovis import Aggregator
from ovis.analysis.gradients import get_gradients_statistics
from ovis.estimators.config import get_config
from ovis.experiments.datasets import load_dataset
from ovis.experiments.training.schedule import warmup
from ovis.models import SigmoidBeliefNetwork


def main() -> None:
    """Train for a few epochs and print what is measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--estimator", default="ovis-gamma1", help="id of a gradient estimator")
    parser.add_argument("--iw", type=int, default=16, help="particles")
    parser.add_argument("--epochs", type=int, default=5, help="passes over the data")
    opt = parser.parse_args()

    torch.manual_seed(1)
    data = load_dataset("digits")
    model = SigmoidBeliefNetwork(data.x_shape, N=64, depth=2, x_mean=data.mean)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)

    Estimator, config = get_config(opt.estimator)
    estimator = Estimator(mc=1, iw=opt.iw, **config)

    with tempfile.TemporaryDirectory() as folder, SummaryWriter(folder) as writer:
        global_step = 0
        for epoch in range(1, opt.epochs + 1):
            agg = Aggregator()
            for x in data.train.batches(50, torch.Generator().manual_seed(epoch)):
                global_step += 1
                if "gamma" in config:  # settings may change at every call: here, the bound's order alpha goes to 0
                    config["alpha"] = warmup(global_step, start=0.9, end=0.0, period=60)
                loss, diagnostics, _ = estimator(model, x, backward=False, **config)
                loss.mean().backward()
                optimizer.step()
                optimizer.zero_grad()
                agg.update(diagnostics)

            summary = agg.data.to("cpu")
            grad_stats, _ = get_gradients_statistics(estimator, model, x, mc_samples=10, key_filter="inference_network")
            summary.update(grad_stats)
            summary.log(writer, global_step)
            bound, snr = summary["loss"]["L_k"], summary["grads"]["snr"]
            print(f"epoch {epoch}: L_{opt.iw} = {bound:.2f} nats, gradient SNR = {snr:.3f}")


if __name__ == "__main__":
    main()
