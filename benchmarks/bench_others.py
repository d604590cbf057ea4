"""ovis against others: milliseconds and peak memory of a training step against K, one table from one run.

    python benchmarks/bench_others.py --setup     # once: environments of pyro-ppl and storchastic, 1 GB each
    python benchmarks/bench_others.py             # four minutes on two quiet cores

A sigmoid belief network of one layer (784 inputs, 200 units), batch 24, fused Adam, all in float32 on the CPU. Every
contender is a process of its own, in its own environment. It takes a step with two particles, which loads what torch
loads, then steps with each K: the median time, and by how much the process grew at the peak. One that holds more than
6 GB or takes more than 60 s a step is stopped, and greater K are not tried. Quote it from a quiet machine: two threads
wait for each other, so a neighbour costs much more than its share.

What the gradient is, is measured first, on a model with 3 inputs, 2 units and K = 3: the mean over 200,000 draws
against enumeration of all 64 triples. "right" is within 5 standard errors of the gradient of L_K in every entry.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

OTHERS = Path(__file__).parent / "others"

#: Where the environments are.
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "ovis" / "others"

#: What stops a contender: bytes of its process, seconds of a step; seconds between two of its lines beyond that.
MOST_BYTES, MOST_SECONDS, START = 6e9, 60.0, 30.0

#: Standard errors that the largest of the tiny model's 19 entries may be away.
ERRORS = 5.0

#: Of the norm of the exact gradient: what is zero to rounding.
NOTHING = 1e-5


@dataclass(frozen=True)
class Contender:
    """A line of the table.

    Attributes:
        key: how ``--only`` names it.
        title: how the table names it.
        module: its file in others/.
        name: what that file calls it.
        environment: of its own; None: that of ovis.
        note: what the numbers do not say.
        biased: its documentation says that q's gradient is biased.
    """

    key: str
    title: str
    module: str
    name: str
    environment: str | None = None
    note: str = ""
    biased: bool = False


CONTENDERS = (
    Contender("floor", "matrix products alone", "with_torch", "floor"),
    Contender("ovis-gamma1", "ovis, OVIS~ γ=1", "with_ovis", "ovis-gamma1", biased=True),
    Contender(
        "ovis-passes",
        "ovis, OVIS~ γ=1, passes of 200",
        "with_ovis",
        "ovis-gamma1/200",
        note="particles_per_pass=200: the memory hardly grows beyond that of 200 particles",
        biased=True,
    ),
    Contender("ovis-vimco", "ovis, VIMCO", "with_ovis", "vimco"),
    Contender("ovis-reinforce", "ovis, REINFORCE", "with_ovis", "reinforce"),
    Contender("textbook", "textbook VIMCO, K x K", "with_torch", "vimco"),
    Contender(
        "pyro-renyi",
        "pyro, RenyiELBO(alpha=0)",
        "with_pyro",
        "RenyiELBO",
        "pyro",
        note="discrete latents get no score function where alpha = 0: p is trained, q is not",
    ),
    Contender(
        "pyro-tmc",
        "pyro, TraceTMC_ELBO",
        "with_pyro",
        "TraceTMC_ELBO",
        "pyro",
        note="its score function, inside the bound's logarithm, cancels with 1/q: p is trained, q is not",
    ),
    Contender(
        "pyro-tracegraph",
        "pyro, TraceGraph_ELBO",
        "with_pyro",
        "TraceGraph_ELBO",
        "pyro",
        note="K draws of the ELBO; pyro's ReweightedWakeSleep, no gradient of a bound, is not measured",
    ),
    Contender(
        "storch-joint",
        "storchastic, ScoreFunction, one joint draw",
        "with_storchastic",
        "joint",
        "storchastic",
        note="REINFORCE of L_K: all K particles are one sample, which no baseline of storchastic sees into",
    ),
    Contender(
        "storch-plate",
        "storchastic, ScoreFunction, K in a plate",
        "with_storchastic",
        "plate",
        "storchastic",
        note="a plate's score functions are averaged, those of a bound of all K must be summed",
    ),
    Contender(
        "storch-elbo",
        "storchastic, ScoreFunction, batch average",
        "with_storchastic",
        "elbo",
        "storchastic",
        note="the leave-one-out baseline of K draws of the ELBO; it has no VIMCO",
    ),
)


@dataclass
class Line:
    """What was measured of a contender.

    Attributes:
        gradient: the verdict.
        cells: one per K.
        notes: to be printed below.
    """

    contender: Contender
    gradient: str
    cells: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Answer:
    """The output of a process.

    Attributes:
        lines: JSON values, one for each thing that it measured.
        end: why there are no more; empty: all was measured.
        limit: whether that is a limit of this benchmark, which a cell of the table shows.
    """

    lines: list[Any]
    end: str = ""
    limit: bool = False


# ------------------------------------------------------------------------------------------------------ environments


def set_up(root: Path, environments: Sequence[str]) -> None:
    """Make the environments under root that are not there or not up to date."""
    for name in environments:
        if not missing(root, name):
            continue
        environment, pins = root / name, OTHERS / f"requirements-{name}.txt"
        shutil.rmtree(environment, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", environment], check=True)
        subprocess.run([environment / "bin" / "pip", "install", "-q", "-r", pins], check=True)
        shutil.copy(pins, environment / pins.name)  # last: what is there is whole


def missing(root: Path, name: str) -> str:
    """Why the environment can't be used; empty: it can."""
    pins = OTHERS / f"requirements-{name}.txt"
    made = root / name / pins.name
    if not made.exists():
        return f"no environment {root / name}: run with --setup"
    return "" if made.read_text() == pins.read_text() else f"{root / name} is of other pins: run with --setup"


# ------------------------------------------------------------------------------------------------------ measurements


def ask(contender: Contender, counts: Sequence[int], root: Path) -> Answer:
    """What contender.py says in a process of its own: torch, gradient, one step for each K."""
    if contender.environment and (reason := missing(root, contender.environment)):
        return Answer([], reason)
    python = root / contender.environment / "bin" / "python" if contender.environment else Path(sys.executable)
    command = [str(python), str(OTHERS / "contender.py"), contender.module, contender.name, *map(str, counts)]
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = subprocess.Popen(command, stdout=out, stderr=err)
        try:
            limit = watch(process, lambda: os.fstat(out.fileno()).st_size)
        finally:
            process.kill()
            process.wait()
        out.seek(0), err.seek(0)
        lines = [json.loads(line) for line in out if line.endswith("\n")]
        error = (err.read().strip().splitlines() or [f"exit {process.returncode}"])[-1]
    if lines and lines[0]["torch"] != version("torch"):
        return Answer([], f"it has torch {lines[0]['torch']}, ovis {version('torch')}")
    return Answer(lines, limit or (error if process.returncode else ""), bool(limit))


def watch(process: subprocess.Popen[bytes], printed: Callable[[], int]) -> str:
    """Wait until the process ends (empty) or reaches a limit (which); ``printed``: how much it has printed."""
    before, deadline = -1, 0.0
    for size in sizes(process):
        if printed() > before:
            before, deadline = printed(), time.monotonic() + START + MOST_SECONDS
        if size > MOST_BYTES:
            return f">{MOST_BYTES / 1e9:.0f} GB"
        if time.monotonic() > deadline:
            return f">{MOST_SECONDS:.0f} s"
    return ""


def sizes(process: subprocess.Popen[bytes]) -> Iterator[int]:
    """Bytes that a process holds, every 20 ms until it ends."""
    while process.poll() is None:
        pages = Path(f"/proc/{process.pid}/statm").read_text().split()
        yield int(pages[1]) * os.sysconf("SC_PAGE_SIZE") if pages else 0
        time.sleep(0.02)


def spent() -> tuple[float, float, float]:
    """Seconds of all cores: passed, busy, busy for this process and its ended children."""
    own = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    ticks = [int(word) for word in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    idle = ticks[3] + ticks[4]  # and waiting for disks
    hertz = os.sysconf("SC_CLK_TCK")
    return sum(ticks) / hertz, (sum(ticks) - idle) / hertz, sum(each.ru_utime + each.ru_stime for each in own)


def share_of_others(start: Sequence[float], end: Sequence[float]) -> float:
    """Of the processors' time between two calls of :func:`spent`, what neither we took nor nobody."""
    passed, busy, own = (b - a for a, b in zip(start, end, strict=True))
    return max(0.0, busy - own) / passed


def measure(contender: Contender, counts: Sequence[int], root: Path) -> Line:
    """A line of the table."""
    answer = ask(contender, counts, root)
    _, gradient, *steps = [*answer.lines, None, None][: max(2, len(answer.lines))]
    cells = [cell(each["seconds"], each["bytes"]) for each in steps]
    cells += [answer.end if answer.limit else "-"] * (len(counts) - len(cells))
    notes = [contender.note] if contender.note else []
    if answer.end and not answer.limit:
        notes.append(f"not measured: {answer.end}")
    return Line(contender, gradient_verdict(gradient, contender) if gradient else "-", cells, notes)


# ------------------------------------------------------------------------------------------------------------- table


def gradient_verdict(gradients: dict[str, dict[str, float]], contender: Contender) -> str:
    """In words, what contender.py measured of the gradient."""
    bound, elbo = gradients["L_K"], gradients["ELBO"]
    if max(bound["q"], bound["p"]) < ERRORS:
        return "right"
    if max(elbo["q"], elbo["p"]) < ERRORS:
        return "other bound: ELBO"
    if bound["p"] < ERRORS:
        if bound["q_norm"] < NOTHING:
            return "wrong: q's is zero"
        kind = "biased for q, as documented" if contender.biased else "wrong for q"
        return f"{kind} ({bound['q']:.0f} s.e.)"
    return f"wrong ({max(bound['q'], bound['p']):.0f} s.e.)"


def cell(seconds: float, size: float) -> str:
    """Milliseconds to three digits, and MB."""
    milliseconds = 1e3 * seconds
    digits = 2 if milliseconds < 10 else 1 if milliseconds < 100 else 0
    return f"{milliseconds:.{digits}f} / {size / 1e6:.0f}"


def table(lines: Sequence[Line], counts: Sequence[int]) -> str:
    """All lines, in Markdown, with their notes below."""
    notes: list[str] = []
    rows = [["ms a step / MB", "gradient of L_K", *(f"K = {iw}" for iw in counts)]]
    for line in lines:
        marks = []
        for note in line.notes:
            if note not in notes:
                notes.append(note)
            marks.append(f"[{notes.index(note) + 1}]")
        rows.append([" ".join([line.contender.title, *marks]), line.gradient, *line.cells])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rows.insert(1, ["-" * width if at < 2 else "-" * (width - 1) + ":" for at, width in enumerate(widths)])
    text = [
        "| "
        + " | ".join(c.ljust(w) if at < 2 else c.rjust(w) for at, (c, w) in enumerate(zip(row, widths, strict=True)))
        + " |"
        for row in rows
    ]
    return "\n".join([*text, "", *(f"[{at}] {note}." for at, note in enumerate(notes, 1))])


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    keys = [contender.key for contender in CONTENDERS]
    parser.add_argument("--setup", action="store_true", help="make the environments, and measure nothing")
    parser.add_argument("--venvs", type=Path, default=CACHE, help="folder of the environments (default: %(default)s)")
    parser.add_argument("--only", default=",".join(keys), help="contenders, separated by commas (default: %(default)s)")
    parser.add_argument("--particles", default="5,20,50,200,1000,5000", help="numbers K (default: %(default)s)")
    opt = parser.parse_args(argv)
    if unknown := set(opt.only.split(",")) - set(keys):
        parser.error(f"no contender {min(unknown)!r}; there are {', '.join(keys)}")
    chosen = [contender for contender in CONTENDERS if contender.key in opt.only.split(",")]
    if opt.setup:
        set_up(opt.venvs, sorted({c.environment for c in chosen if c.environment}))
        return 0
    counts = [int(word) for word in opt.particles.split(",")]
    lines, start = [], spent()
    for contender in chosen:
        print(f"... {contender.title}", file=sys.stderr, flush=True)
        lines.append(measure(contender, counts, opt.venvs))
    others = share_of_others(start, spent())
    print(f"1x200 SBN, 784 inputs, batch 24, cpu, {os.cpu_count()} cores, torch {version('torch')};", end=" ")
    print(f"other programs took {others:.0%} of the cores\n")
    print(table(lines, counts))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
