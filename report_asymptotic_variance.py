"""Draw the asymptotic study (Figure 1) beside the paper's: ``python report_asymptotic_variance.py --help``."""

from ovis.experiments.cli.commands import run_command

if __name__ == "__main__":
    raise SystemExit(run_command("figure1"))
