"""Measure memory and time of training steps by estimator and K: ``python measure_efficiency.py --help``."""

from ovis.cli.measure_efficiency import main

if __name__ == "__main__":
    raise SystemExit(main())
