"""A pool of ranks that lives as long as the test session, forked from a process that has imported
torch: a rank of its own import would take seconds to start. They share a seed of hashes.

`pool.run(function, world_size, *arguments)` calls `function(*arguments)` on every rank of a fresh
gloo world and returns the results in rank order. Functions travel by name, so they stand at the
top level of a test module.
"""

from __future__ import annotations

import gc
import multiprocessing as mp
import os
import socket
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

TIMEOUT_S = 300
PROCESSES = mp.get_context("forkserver")
PROCESSES.set_forkserver_preload(["torch.distributed.pipelining", "megafm.train.loop"])


class RankPool:
    def __init__(self) -> None:
        self._workers: list[tuple[Any, Connection]] = []

    def run(self, function: Callable[..., Any], world_size: int, *arguments: Any) -> list[Any]:
        """Raises AssertionError with the traceback of the first failing rank."""
        while len(self._workers) < world_size:
            self._workers.append(_start())
        port = free_port()
        connections = [connection for _, connection in self._workers[:world_size]]
        results, errors = [], []
        try:
            for rank, connection in enumerate(connections):
                connection.send((function, rank, world_size, port, arguments))
            for rank, connection in enumerate(connections):
                if not connection.poll(TIMEOUT_S if not errors else 10):
                    errors.append(f"rank {rank}: no answer in {TIMEOUT_S} s")
                    continue
                ok, value = connection.recv()
                (results if ok else errors).append(value)
        except (EOFError, OSError):
            exits = [process.exitcode for process, _ in self._workers]
            errors.append(f"a rank has died; exit codes of all: {exits}")
        if errors:
            self.close()  # a world that lost a rank is of no further use
            raise AssertionError(errors[0])
        return results

    def close(self) -> None:
        for process, _ in self._workers:
            process.kill()
            process.join()
        self._workers.clear()


def _start() -> tuple[Any, Connection]:
    ours, theirs = PROCESSES.Pipe()
    process = PROCESSES.Process(target=_serve, args=(theirs,), daemon=True)
    process.start()
    return process, ours


def _serve(connection: Connection) -> None:
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    while True:
        function, rank, world_size, port, arguments = connection.recv()
        os.environ.update(
            RANK=str(rank),
            LOCAL_RANK=str(rank),
            WORLD_SIZE=str(world_size),
            LOCAL_WORLD_SIZE=str(world_size),
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=str(port),
        )
        try:
            answer = (True, function(*arguments))
        except BaseException:
            answer = (False, f"rank {rank}:\n{traceback.format_exc()}")
        finally:
            if dist.is_initialized():
                dist.destroy_process_group()
            _forget_meshes()
        connection.send(answer)


def _forget_meshes() -> None:
    """Empty torch's caches of meshes: it would give one of a world that is gone for an equal one of
    the next, and the threads of a group that is kept spin on its closed connections."""
    from torch.distributed.tensor import _collective_utils, _redistribute
    from torch.distributed.tensor.debug import _clear_sharding_prop_cache

    _clear_sharding_prop_cache()
    _redistribute.clear_redistribute_planner_cache()
    _redistribute._gen_transform_infos.cache_clear()
    _collective_utils.MeshTopoInfo.build_from_mesh.cache_clear()
    gc.collect()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
