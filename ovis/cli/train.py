"""The former path of ``python -m ovis train``: ``python -m ovis.cli.train`` goes on to work."""

from ovis.experiments.cli.train import main

if __name__ == "__main__":
    raise SystemExit(main())
