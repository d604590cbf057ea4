"""Draw an experiment: curves, a table, CSV files. See ``python report.py --help``."""

from ovis.experiments.cli.commands import run_command

if __name__ == "__main__":
    raise SystemExit(run_command("report"))
