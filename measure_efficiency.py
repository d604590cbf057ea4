"""Measure memory and time of training steps by estimator and K: ``python measure_efficiency.py --help``."""

from ovis.experiments.cli.commands import run_command

if __name__ == "__main__":
    raise SystemExit(run_command("efficiency"))
