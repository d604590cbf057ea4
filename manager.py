"""Queue the runs of an experiment and bring them to their end: ``python manager.py --help``."""

from ovis.experiments.cli.commands import run_command

if __name__ == "__main__":
    raise SystemExit(run_command("run"))
