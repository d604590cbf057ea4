"""A real Slurm on this machine: a controller and a few nodes, each a daemon of its own, on the loopback only.

``python tests/experiments/runner/slurm_cluster.py`` starts one, says how to use it, and stops it at the end of its
input. It needs root and Debian's slurmctld, slurmd, slurm-client and munge; no systemd, no cgroups, no accounting.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from laboratory import command_of, is_running, processes_of

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "sinfo", "scancel")

CONFIGURATION = """\
ClusterName=ovis
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
# without the first it would listen on every interface
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.socket
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
# more CPUs than there are
SlurmdParameters=config_overrides
MpiDefault=none
SwitchType=switch/none
# a node is given up early, and comes back by itself
SlurmdTimeout=10
ReturnToService=2
MinJobAge=300
MaxArraySize={max_array}
KillWait=5
{scheduler}
{limit}GresTypes=gpu,shard
{nodes}
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
PartitionName=short Nodes=ALL MaxTime=1 State=UP
"""

#: What a site's accounting does to a user who has too many jobs in its queue, without accounting: where it counts, how
#: it counts those that have ended, and its rule.
LIMIT = "JobSubmitPlugins=lua\nEpilogSlurmctld={folder}/epilog\n"
EPILOG = "#!/bin/sh\necho $SLURM_JOB_ID >>{folder}/ended\n"
RULE = """\
local taken = 0
function slurm_job_submit(job, partitions, user)
   if job.name == "wrap" then return slurm.SUCCESS end  -- only asked whether it would be taken
   local wanted = 1 + (tonumber(string.match(job.array_inx or "", "-(%d+)")) or 0)
   local queued = taken
   for _ in io.lines("{folder}/ended") do queued = queued - 1 end
   if queued + wanted > {limit} then
      slurm.log_user("QOSMaxSubmitJobPerUserLimit")
      return slurm.ESLURM_ACCOUNTING_POLICY
   end
   taken = taken + wanted
   return slurm.SUCCESS
end
function slurm_job_modify() return slurm.SUCCESS end
"""

CGROUPS = "CgroupPlugin=cgroup/v1\nConstrainCores=no\nConstrainDevices=no\nConstrainRAMSpace=no\n"


def missing() -> str:
    """Why there can be no cluster here; empty where there can."""
    absent = [name for name in PROGRAMS if shutil.which(name, path=_search()) is None]
    if absent:
        return f"no {absent[0]}: apt-get install slurmctld slurmd slurm-client munge"
    return "" if os.geteuid() == 0 else "slurmd wants root"


@dataclass
class SlurmCluster:
    """A controller and its nodes.

    Attributes:
        folder: configuration, state and logs; short, as a socket's path has at most 107 characters.
        nodes: their names.
        cpus: of each node, as Slurm counts them.
        gpus: of each node; they are copies of /dev/null.
        shards: of each node, in all; 0: the site offers none.
        max_array: one more than the largest index in a job array.
        max_jobs: that the site takes of a user, waiting or running; 0: as many as there are.
        scheduler: a line of the configuration.
    """

    folder: Path
    nodes: tuple[str, ...] = ("n1", "n2")
    cpus: int = 8
    gpus: int = 2
    shards: int = 0
    max_array: int = 1001
    max_jobs: int = 0
    scheduler: str = "SchedulerParameters=sched_min_interval=100000,batch_sched_delay=0"
    environment: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        self.environment = {"SLURM_CONF": str(self.folder / "slurm.conf"), "PATH": _search()}

    def start(self) -> None:
        """Start all daemons and wait until every node is idle."""
        self._configure()
        key, socket_, log = (self.folder / f"munge.{name}" for name in ("key", "socket", "log"))
        seed, pid = self.folder / "munge.seed", self.folder / "munged.pid"
        self._do("munged", "--force", f"--key-file={key}", f"--socket={socket_}", f"--log-file={log}",
                 f"--seed-file={seed}", f"--pid-file={pid}")  # fmt: skip
        self.start_controller(fresh=True)
        for node in self.nodes:
            self.start_node(node)
        self.wait(lambda: self.states() == dict.fromkeys(self.nodes, "idle"))

    def start_controller(self, fresh: bool = False) -> None:
        self._do("slurmctld", *(["-c"] if fresh else []), "-f", self.environment["SLURM_CONF"])

    def start_node(self, node: str) -> None:
        self._do("slurmd", "-N", node, "-f", self.environment["SLURM_CONF"])

    def kill_controller(self) -> None:
        self._kill_daemon("slurmctld")

    def kill_node(self, node: str) -> int:
        """What a power cut does to it: its daemon and all processes of its jobs are gone. Says how many those were."""
        self._kill_daemon(f"slurmd-{node}")
        killed = 0
        while pids := self.processes_on(node):  # they may be starting others
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            killed += len(pids)
            time.sleep(0.05)
        return killed

    @contextlib.contextmanager
    def mounted(self, *mount: str) -> Iterator[None]:
        """All nodes see something else somewhere, by a mount of their own, for a block and the jobs started in it."""
        for node in self.nodes:
            self.kill_node(node)
        script = 'mount "$@" && exec slurmd -N "$0" -f "$SLURM_CONF"'
        try:
            for node in self.nodes:
                self._do("unshare", "--mount", "bash", "-c", script, node, *mount)
            self.wait(lambda: set(self.states().values()) == {"idle"})
            yield
            self.wait(lambda: not self.run("squeue", "--noheader"))
        finally:
            for node in self.nodes:
                self.kill_node(node)
                self.start_node(node)

    def stop(self) -> None:
        """End everything that was started, jobs included."""
        for node in self.nodes:
            self.kill_node(node)
        self.kill_controller()
        self._kill_daemon("munged", signal.SIGTERM)

    def states(self) -> dict[str, str]:
        """The nodes' states, as sinfo says them; empty where the controller doesn't answer."""
        output = self.run("sinfo", "--noheader", "--Node", "--partition=main", "--format=%N %t", check=False)
        return dict(line.split() for line in output.splitlines())

    def processes_on(self, node: str) -> list[int]:
        """The slurmstepd processes of a node's jobs, which would report a kill, then the jobs' own processes."""
        log = str(self.folder / f"slurmd-{node}.log")
        marks = {f"SLURM_CONF={self.environment['SLURM_CONF']}", f"SLURMD_NODENAME={node}"}
        stepds, others = [], []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if command_of(int(entry.name) if entry.name.isdigit() else 0).startswith("slurmstepd"):
                    stepds += [int(entry.name)] * any(os.readlink(file) == log for file in (entry / "fd").iterdir())
                elif entry.name.isdigit() and marks <= set((entry / "environ").read_text(errors="replace").split("\0")):
                    others.append(int(entry.name))
        return stepds + others

    def run(self, *words: str, check: bool = True) -> str:
        """What a command of Slurm prints."""
        done = subprocess.run(words, env={**os.environ, **self.environment}, capture_output=True, text=True)
        assert not check or done.returncode == 0, f"{words}: {done.stderr}"
        return done.stdout

    def wait(self, condition: Callable[[], bool], seconds: float = 30.0) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"in vain: {self.states()}; {self._last_words()}"
            time.sleep(0.1)

    def _configure(self) -> None:
        host = socket.gethostname().partition(".")[0]
        gres = [f"gpu:{self.gpus}"] * (self.gpus > 0) + [f"shard:{self.shards}"] * (self.shards > 0)
        lines = [
            f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={_free_port()} CPUs={self.cpus} "
            f"{'Gres=' + ','.join(gres) if gres else ''} State=UNKNOWN"
            for node in self.nodes
        ]
        for name in ("state", *(f"spool-{node}" for node in self.nodes)):
            (self.folder / name).mkdir()
        text = CONFIGURATION.format(
            host=host, port=_free_port(), folder=self.folder, max_array=self.max_array, scheduler=self.scheduler,
            limit=self._limit(), nodes="\n".join(lines),
        )  # fmt: skip
        (self.folder / "slurm.conf").write_text(text)
        (self.folder / "cgroup.conf").write_text(CGROUPS)
        (self.folder / "gres.conf").write_text(self._devices())
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)

    def _limit(self) -> str:
        if not self.max_jobs:
            return ""
        (self.folder / "ended").touch()
        (self.folder / "epilog").write_text(EPILOG.format(folder=self.folder))
        (self.folder / "epilog").chmod(0o755)
        (self.folder / "job_submit.lua").write_text(RULE.format(folder=self.folder, limit=self.max_jobs))
        return LIMIT.format(folder=self.folder)

    def _devices(self) -> str:
        for number in range(self.gpus):  # plain files would do, but then Slurm does not say which one a job has
            os.mknod(self.folder / f"gpu{number}", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        names = f"NodeName={','.join(self.nodes)}"
        lines = [f"{names} Name=gpu File={self.folder}/gpu{number}" for number in range(self.gpus)]
        lines += [f"{names} Name=shard Count={self.shards}"] if self.shards else []
        return "\n".join(lines) + "\n"

    def _do(self, *words: str) -> None:
        subprocess.run(words, env={**os.environ, **self.environment}, check=True, stdin=subprocess.DEVNULL)

    def _kill_daemon(self, name: str, number: signal.Signals = signal.SIGKILL) -> None:
        try:
            pid = int((self.folder / f"{name}.pid").read_text())
        except (FileNotFoundError, ValueError):
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        self.wait(lambda: not is_running(pid), seconds=10)
        (self.folder / f"{name}.pid").unlink(missing_ok=True)

    def _last_words(self) -> str:
        log = self.folder / "slurmctld.log"
        return log.read_text(errors="replace")[-500:] if log.exists() else "no log"


@contextlib.contextmanager
def running(**options: object) -> Iterator[SlurmCluster]:
    """A cluster for the duration of a block."""
    with tempfile.TemporaryDirectory(prefix="slurm-") as folder:
        os.chmod(folder, 0o755)  # munged wants its socket to be reachable by all
        cluster = SlurmCluster(Path(folder), **options)  # type: ignore[arg-type]
        try:
            cluster.start()
            yield cluster
        finally:
            cluster.stop()


def processes_with(folder: Path) -> set[int]:
    """The processes that have ``folder`` on their command line or in their variables."""
    pids = set(processes_of(folder))
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if str(folder) in (entry / "environ").read_text(errors="replace"):
                pids.add(int(entry.name))
    return pids


def _search() -> str:
    return os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main() -> int:
    reason = missing()
    if reason:
        print(reason, file=sys.stderr)
        return 2
    with running(shards=4) as cluster:
        print(f"export SLURM_CONF={cluster.environment['SLURM_CONF']}\nctrl-D ends it", flush=True)
        sys.stdin.read()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
