"""The processes of a run on many hosts: how they find each other, agree, and notice that one is gone.

JAX finds a TPU pod, SLURM, Open MPI and Kubernetes by itself; elsewhere each process is told where the first one is.
"""

import hashlib
import json
import os
import platform
import re
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import jax
import numpy as np
from jax.experimental import multihost_utils

from normjax.data.pipeline import Shard
from normjax.errors import UserError
from normjax.training.watch import Watch

_MESSAGE_BYTES = 4096
_NOTICE_SECONDS = 5  # in which the loss of another process is noticed
LOST = 3  # exit status of a process whose run ended because another was gone

_watch: Watch | None = None  # of the others, while this process is one of several


def join_cluster(coordinator: str | None = None, processes: int | None = None, process: int | None = None) -> None:
    """Makes this process one of many; called before anything else of JAX, in each of them.

    Args:
      coordinator: host and port of the first process; None where JAX finds the cluster by itself.
      processes: how many there are; None as above.
      process: which one this is, from 0; None as above.

    Raises:
      UserError: there is no cluster to be found, the numbers do not fit, or the first process does not answer.
    """
    global _watch
    given = (coordinator, processes, process)
    if any(value is not None for value in given) and any(value is None for value in given):
        raise UserError(
            f"coordinator={coordinator}, processes={processes}, process={process}: give all three, or none of them on "
            "a TPU pod, under SLURM, Open MPI or Kubernetes."
        )
    if coordinator is not None and not re.fullmatch(r"\S+:\d{1,5}", coordinator):
        raise UserError(f"coordinator={coordinator} is no host and port; use HOST:PORT, as 10.0.0.1:1234.")
    if processes is not None and processes < 1:
        raise UserError(f"processes={processes}: use 1 or more.")
    if processes is not None and process is not None and not 0 <= process < processes:
        raise UserError(f"process={process} is not one of {processes} processes; use 0 to {processes - 1}.")
    # Signals are ours: the training ends by them on all processes after the same step.
    jax.config.update("jax_enable_preemption_service", False)
    # Else JAX aborts the process when another dies, before it can say which.
    jax.config.update("jax_enable_recoverability", True)
    try:
        jax.distributed.initialize(coordinator, processes, process)
    except ValueError as error:
        raise UserError(
            f"no cluster was found ({error}); on machines that JAX does not know, give --coordinator HOST:PORT, "
            "--processes N and --process I."
        ) from error
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"process {process} could not join the cluster at {coordinator}: {reason}") from error
    count, hosts = jax.process_count(), _share(platform.node())
    _watch = Watch(jax.process_index(), [f"process {i} of {count} ({hosts[i]})" for i in range(count)], _end_with)
    place = _share(_watch.open() if is_first() else "")[0]
    try:
        _watch.connect(_first_host(), place)
    except OSError as error:
        raise UserError(
            f"process {jax.process_index()} has no line to the first one at {_first_host()}: {error}."
        ) from error


def leave_cluster() -> None:
    """Parts from the other processes when all have come to their end; without a cluster nothing happens."""
    global _watch
    if _watch is None:
        return
    multihost_utils.sync_global_devices("the end")
    # The others still need the first process until they have left.
    if is_first():
        _watch.leave()
    jax.distributed.shutdown()
    if not is_first():
        _watch.leave()
    _watch = None


def await_loss() -> None:
    """Gives time to notice that another process is gone, where this one failed for that reason."""
    time.sleep(_NOTICE_SECONDS)


def abandon_cluster(message: str, status: int) -> NoReturn:
    """Ends this process without the others, because its part of the run has failed, and tells them.

    Args:
      message: why, for the person at the keyboard.
      status: of the process.
    """
    print(message, file=sys.stderr, flush=True)
    if _watch is not None:
        _watch.fail(message.strip().splitlines()[-1])
    # Not in the orderly way, which waits for processes that may wait for this one.
    os._exit(status)


def is_first() -> bool:
    """Whether this is the process that writes logs; without a cluster it is."""
    return jax.process_index() == 0


def own_shard() -> Shard:
    """The part of every batch that this process reads."""
    return Shard(jax.process_index(), jax.process_count())


def on_first(action: Callable[[], Any]) -> None:
    """Lets the first process do something while the others wait; where it fails, all fail.

    Args:
      action: what to do.

    Raises:
      UserError: as the action did.
    """
    if jax.process_count() == 1:
        action()
        return
    failure = ""
    if is_first():
        try:
            action()
        except UserError as error:
            failure = str(error)
    if failure := _share(failure)[0]:
        raise UserError(failure)


def require_same(values: Mapping[str, Any]) -> None:
    """Refuses processes that were started with different commands, or that see different files.

    Args:
      values: what must be the same everywhere, by its name; plain data.

    Raises:
      UserError: a process has something else than the first one.
    """
    if jax.process_count() == 1:
        return

    def short(value: Any) -> str:
        text = json.dumps(value, sort_keys=True, default=str)
        return text if len(text) <= 20 else hashlib.sha256(text.encode()).hexdigest()[:16]

    first, *others = (json.loads(told) for told in _share(json.dumps({n: short(v) for n, v in values.items()})))
    for number, told in enumerate(others, 1):
        if differ := [name for name in first if told[name] != first[name]]:
            raise UserError(
                f"process {number} and the first one differ in {', '.join(differ)}; start all processes with the same "
                "command, on the same files."
            )


def sum_over_processes(counts: np.ndarray) -> np.ndarray:
    """Whole numbers of all processes, added up."""
    if jax.process_count() == 1:
        return counts
    return np.asarray(multihost_utils.process_allgather(counts.astype(np.int32))).astype(counts.dtype).sum(0)


def _share(text: str) -> list[str]:
    """The text of every process."""
    data = text.encode()[:_MESSAGE_BYTES]
    padded = np.frombuffer(data.ljust(_MESSAGE_BYTES, b"\0"), np.uint8)
    return [bytes(row).rstrip(b"\0").decode(errors="ignore") for row in multihost_utils.process_allgather(padded)]


def _first_host() -> str:
    from jax._src.distributed import global_state  # nothing public tells where JAX found it

    return str(global_state.coordinator_address).rpartition(":")[0].strip("[]")


def _end_with(news: str) -> None:
    """Ends this process when another is gone: what waits for that one in a collective may never come back."""
    print(f"normjax: error: {news}; this process ends, too", file=sys.stderr, flush=True)
    os._exit(LOST)
