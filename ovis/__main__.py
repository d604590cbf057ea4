"""``python -m ovis COMMAND ...``: the command ``ovis``, see :mod:`ovis.experiments.cli.commands`."""

from ovis.experiments.cli.commands import main

if __name__ == "__main__":
    raise SystemExit(main())
