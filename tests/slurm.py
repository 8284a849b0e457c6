"""A Slurm of one's own: controller and node on this machine, in a folder, for as long as a block lasts."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CONFIGURATION = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
MpiDefault=none
JobRequeue=1
FirstJobId={first}
KillWait=5
ReturnToService=2
SchedulerParameters=sched_interval=2,sched_min_interval=0,bf_interval=2
NodeName={host} NodeAddr=127.0.0.1 CPUs={n_cores} State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""

PROGRAMS = "munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol"


def lacking() -> str | None:
    """Say what this machine lacks for it."""
    path = os.pathsep.join([os.environ["PATH"], "/usr/sbin"])
    missing = [name for name in PROGRAMS if shutil.which(name, path=path) is None]
    if missing:
        return f"there is no {missing[0]}: apt-get install slurm-wlm munge"
    return None if os.geteuid() == 0 else "Slurm's daemons need to be started by root"


@contextmanager
def slurm(folder: Path, n_cores: int) -> Iterator[dict[str, str]]:
    """Run it, and give the environment in which its commands find it."""
    for name in ("state", "spool"):
        (folder / name).mkdir()
    configuration = folder / "slurm.conf"
    configuration.write_text(
        CONFIGURATION.format(
            host=socket.gethostname(),
            ports=_free_ports(2),
            folder=folder,
            n_cores=n_cores,
            first=os.getpid(),  # MPICH names its memory by the job's number, which others may have left
        )
    )
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    path = os.pathsep.join([os.environ["PATH"], "/usr/sbin"])
    environment = {**os.environ, "PATH": path, "SLURM_CONF": str(configuration)}
    files = {"key-file": key, **{f"{name}-file": folder / f"munge.{name}" for name in ("pid", "log", "seed")}}
    munge = [f"--{name}={file}" for name, file in files.items()]
    commands = [
        ["munged", "--force", "--foreground", f"--socket={folder}/munge.socket", *munge],
        ["slurmctld", "-D", "-i"],
        ["slurmd", "-D"],
    ]
    processes = []
    try:
        for command in commands:
            with (folder / f"{command[0]}.out").open("w") as output:
                processes.append(subprocess.Popen(command, env=environment, stdout=output, stderr=output))
            time.sleep(1)
        _wait_until_idle(environment)
        yield environment
    finally:
        for process in reversed(processes):
            process.terminate()
            process.wait(timeout=60)


def _free_ports(n: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(n)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def _wait_until_idle(environment: dict[str, str]) -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        done = subprocess.run(
            ["sinfo", "-h", "-o", "%t"], env=environment, capture_output=True, text=True, check=False
        )
        if done.stdout.strip() == "idle":
            return
        time.sleep(0.5)
    raise TimeoutError(f"Slurm's node does not come up: {done.stdout} {done.stderr}")
