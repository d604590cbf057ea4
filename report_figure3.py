"""Draw Figure 3, left or right, beside the paper's numbers: ``python report_figure3.py --help``."""

from ovis.paper.figure3.figure3_cli import main

if __name__ == "__main__":
    raise SystemExit(main())
