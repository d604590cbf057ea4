"""The former path of ``python -m ovis train``: ``python -m ovis.cli.train`` goes on to work."""

from ovis.experiments.cli.commands import run_command

if __name__ == "__main__":
    raise SystemExit(run_command("train"))
