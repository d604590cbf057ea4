"""Queue the runs of an experiment and bring them to their end: ``python manager.py --help``."""

from ovis.experiments.cli.manager import main

if __name__ == "__main__":
    raise SystemExit(main())
