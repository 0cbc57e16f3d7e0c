"""The options of a command that several processes carry out together, without the imports that doing so takes."""

import contextlib
import traceback
from collections.abc import Iterator
from dataclasses import dataclass

from normjax.errors import UserError
from normjax.training.stop import StoppedError


@dataclass(frozen=True)
class Cluster:
    """Several processes, on one or many hosts, that do the work together."""

    distributed: bool = False
    """this process is one of several; the same command runs in each"""
    coordinator: str | None = None
    """host:port of the first process; None: found by JAX on a TPU pod, under SLURM, Open MPI or Kubernetes"""
    processes: int | None = None
    """how many there are; None as above"""
    process: int | None = None
    """which one this is, from 0; None as above"""

    @contextlib.contextmanager
    def joined(self) -> Iterator[None]:
        """What is done inside is done together with the other processes."""
        if not self.distributed:
            if (self.coordinator, self.processes, self.process) != (None, None, None):
                raise UserError("--coordinator, --processes and --process are for --distributed, which is missing.")
            yield
            return
        from normjax.training.cluster import abandon_cluster, await_loss, join_cluster, leave_cluster

        join_cluster(self.coordinator, self.processes, self.process)
        try:
            yield
        except UserError as error:
            abandon_cluster(f"normjax: error: {error}", 2)
        except StoppedError:
            leave_cluster()
            raise
        except BaseException:  # noqa: BLE001 - whatever it is, the other processes must not wait for this one
            await_loss()
            abandon_cluster(traceback.format_exc(), 1)
        leave_cluster()

    def is_first(self) -> bool:
        """Whether this is the process that speaks for all."""
        if not self.distributed:
            return True
        from normjax.training.cluster import is_first

        return is_first()


ALONE = Cluster()
