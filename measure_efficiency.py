"""Measure memory and time of training steps by estimator and K: ``python measure_efficiency.py --help``."""

from ovis.paper.efficiency.efficiency_cli import main

if __name__ == "__main__":
    raise SystemExit(main())
