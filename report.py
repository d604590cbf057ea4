"""Draw an experiment: curves, a table, CSV files. See ``python report.py --help``."""

from ovis.experiments.cli.report import main

if __name__ == "__main__":
    raise SystemExit(main())
