"""Look into an experiment's queue, and put runs back: ``python dbutils.py --help``."""

from ovis.experiments.cli.dbutils import main

if __name__ == "__main__":
    raise SystemExit(main())
