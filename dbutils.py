"""Look into an experiment's queue, and put runs back: ``python dbutils.py --help``."""

from ovis.experiments.cli.commands import run_command

if __name__ == "__main__":
    raise SystemExit(run_command("status"))
