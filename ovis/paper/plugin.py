"""What the paper adds to ``ovis.experiments``: a study, commands, and what the reports of its experiments show."""

from __future__ import annotations

from ovis.experiments.cli.commands import COMMANDS, Command
from ovis.experiments.reporting.presets import PRESETS
from ovis.experiments.studies import STUDIES, Study
from ovis.paper.figure1.asymptotic_settings import ALIASES, AsymptoticSettings

STUDIES.register(
    "asymptotic",
    Study(
        AsymptoticSettings,
        "ovis.paper.figure1.run",
        report="figure1",
        results="gradients*.npz",
        aliases=ALIASES,
    ),
)

COMMANDS.register(
    "figure1",
    Command("ovis.paper.figure1.figure1_cli", "report_asymptotic_variance.py", "report", "draw Figure 1"),
)
COMMANDS.register(
    "figure3",
    Command("ovis.paper.figure3.figure3_cli", "report_figure3.py", "report", "draw Figure 3"),
)
COMMANDS.register(
    "efficiency",
    Command(
        "ovis.paper.efficiency.efficiency_cli",
        "measure_efficiency.py",
        "report",
        "measure memory and time of estimators",
    ),
)

PRESETS.register("paper", "ovis.paper.paper_presets:find_preset")
