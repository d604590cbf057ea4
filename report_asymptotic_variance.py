"""Draw the asymptotic study (Figure 1) beside the paper's: ``python report_asymptotic_variance.py --help``."""

from ovis.paper.figure1.figure1_cli import main

if __name__ == "__main__":
    raise SystemExit(main())
