"""Draw Figure 3, left or right, beside the paper's numbers: ``python report_figure3.py --help``."""

from ovis.experiments.cli.commands import run_command

if __name__ == "__main__":
    raise SystemExit(run_command("figure3"))
