"""A Ray cluster of two nodes on this machine, in a process of its own; each node has its own cache.

``python -m tests.support.processes.ray_cluster FOLDER CPUS`` writes the address to FOLDER/address and stops the cluster when its
standard input ends. Ray puts the machine's own address in the place of 127.0.0.1, so the nodes do not listen on the loopback.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MEMORY = 80 * 2**20
"""Bytes of the object store of a node: Ray's default is a third of the machine's memory."""
STARTS = 3
PATIENCE = "240"
"""Seconds until raylets give up if their helpers do not start. Ray's half a minute is not enough on a busy machine."""
TARGET = "box"


@dataclass(frozen=True)
class LocalCluster:
    folder: Path
    process: subprocess.Popen[bytes]

    @property
    def address(self) -> str:
        return (self.folder / "address").read_text(encoding="utf-8")

    def find_workers(self, title: str) -> list[int]:
        """Return the processes of this cluster that do a job of this name now."""
        own = os.fsencode(f"XDG_CACHE_HOME={self.folder}/")
        found = []
        for place in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):  # it has ended
                if title.encode() in (place / "cmdline").read_bytes() and own in (place / "environ").read_bytes():
                    found.append(int(place.name))
        return found

    def kill_head(self) -> None:
        """Kill the process that knows of all nodes and jobs."""
        for process in self.find_workers("gcs_server"):
            if Path(f"/proc/{process}/exe").readlink().name == "gcs_server":
                os.kill(process, signal.SIGKILL)

    def kill_worker(self, title: str, seconds: float) -> None:
        """Wait until a process does this job, and kill it."""
        end = time.monotonic() + seconds
        while not (found := self.find_workers(title)):
            assert time.monotonic() < end, f"nothing does {title}"
            time.sleep(0.1)
        os.kill(found[0], signal.SIGKILL)


@contextlib.contextmanager
def open_local_cluster(folder: Path, cpus: int = 1) -> Iterator[LocalCluster]:
    command = [sys.executable, "-m", "tests.support.processes.ray_cluster", str(folder), str(cpus)]
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    log = folder / "cluster.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=output, stderr=output, env=environment)
    try:
        while not (folder / "address").exists():
            assert process.poll() is None, log.read_text(encoding="utf-8")[-2000:]
            time.sleep(0.2)
        yield LocalCluster(folder, process)
    finally:
        process.communicate()
        assert process.returncode == 0


def main(folder: Path, cpus: int) -> None:
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_agent_register_timeout_ms": f"{PATIENCE}000"}
    from ray.cluster_utils import Cluster

    for attempt in range(STARTS):
        cluster = Cluster()
        try:
            for name, resources in (("first", {TARGET: 1}), ("second", {})):
                os.environ["XDG_CACHE_HOME"] = f"{folder}/{name}"
                cluster.add_node(
                    num_cpus=cpus,
                    resources=resources,
                    object_store_memory=MEMORY,
                    include_log_monitor=False,
                    no_monitor=True,
                    include_dashboard=False,
                )
            break
        except Exception:  # Ray raises a bare Exception
            cluster.shutdown()
            if attempt == STARTS - 1:
                raise
    draft = folder / "address.draft"
    draft.write_text(cluster.address, encoding="utf-8")
    draft.rename(folder / "address")
    sys.stdin.read()
    cluster.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
