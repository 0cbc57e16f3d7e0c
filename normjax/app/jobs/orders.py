"""What a user may order: submit, stop, resume, clone, share, archive, delete. Pages and API both come here."""

import os
import shutil
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from django.conf import settings
from django.db import transaction
from django.db.models import Q
from django.utils import timezone
from django.utils.translation import gettext as _

from normjax.app.models import ACTIVE, DataSet, Run, Status, User
from normjax.errors import UserError
from normjax.pruning.config import PruneConfig
from normjax.training.config import TrainConfig


def submit_training(user: User, config: TrainConfig, *, name: str = "", data_set: DataSet | None = None) -> Run:
    """Puts a training into the queue.

    Raises:
      UserError: the user has too many jobs, or no room left.
    """
    chosen = name.strip() or f"{config.norm.name} · {data_set.name if data_set else config.data.name}"
    return _submit(Run(owner=user, name=chosen[:80], config=config.model_dump(mode="json"), data_set=data_set))


def submit_pruning(user: User, parent: Run, options: PruneConfig) -> Run:
    """Puts the pruning of a run into the queue."""
    _require_finished(parent)
    config = options.model_dump(mode="json", exclude_defaults=True)
    return _submit(_of(user, parent, Run.Kind.PRUNE, _("pruned"), config))


def submit_folding(user: User, parent: Run) -> Run:
    """Puts the folding of a run into the queue."""
    _require_finished(parent)
    return _submit(_of(user, parent, Run.Kind.FOLD, _("folded"), {}))


def stop(run: Run) -> None:
    """Takes a job out of the queue, or asks its process to save and end.

    Raises:
      UserError: it has ended already.
    """
    if Run.objects.filter(pk=run.pk, status=Status.QUEUED).update(status=Status.STOPPED, ended=timezone.now()):
        return
    running = Run.objects.filter(pk=run.pk, status__in=(Status.STARTING, Status.RUNNING))
    if not running.update(status=Status.STOPPING):
        raise UserError(_("This run is not running, so it cannot be stopped."))


def resume(run: Run) -> None:
    """Puts a run that has ended early into the queue again; it goes on from its last checkpoint.

    Raises:
      UserError: it has not ended early, or the user has too many jobs.
    """
    _require_space(run.owner)
    with transaction.atomic():
        _require_turn(run.owner)
        early = Run.objects.filter(pk=run.pk, status__in=(Status.STOPPED, Status.INTERRUPTED, Status.FAILED))
        if not early.update(status=Status.QUEUED, queued=timezone.now(), message="", ended=None):
            raise UserError(_("This run has not ended early, so it cannot go on."))


def rename(run: Run, name: str) -> None:
    """Gives a run another name.

    Raises:
      UserError: it is empty or too long.
    """
    if not 1 <= len(name.strip()) <= 80:
        raise UserError(_("A name has 1 to 80 characters."))
    Run.objects.filter(pk=run.pk).update(name=name.strip())


def share(run: Run, *, with_all: bool | None = None, names: Iterable[str] | None = None) -> None:
    """Lets others see a run, its pictures of the test set and its model; only its owner changes it.

    Args:
      run: the run.
      with_all: whether every user sees it; None: as it is.
      names: the users who see it besides; None: as they are.

    Raises:
      UserError: there is no such user; nothing is shared then.
    """
    with transaction.atomic():
        if with_all is not None:
            Run.objects.filter(pk=run.pk).update(shared_with_all=with_all)
        if names is not None:
            wanted = {name for name in names if name}
            # Whoever was disabled since it was shared with him stays: the rest can be changed nevertheless.
            may = Q(is_active=True) | Q(runs_shared_with=run)
            users = list(User.objects.filter(may, username__in=wanted).distinct())
            if unknown := sorted(wanted - {user.username for user in users}):
                raise UserError(_("There is no user %(name)s.") % {"name": unknown[0][:150]})
            run.shared_with.set(users)


def delete(run: Run) -> None:
    """Removes a run with all its files.

    Raises:
      UserError: it is running, or another is being made of it.
    """
    with transaction.atomic():
        if Run.objects.filter(pk=run.pk, status__in=ACTIVE).exists():
            raise UserError(_("This run is active; stop it first."))
        if run.children.active().exists():
            raise UserError(_("Another run is being made of this one; stop that first."))
        path = run.path
        run.delete()
    # The row first: a directory without a row is lost space, a row without a directory looks like a run.
    if path.exists():
        shutil.rmtree(path)


def size_of(run: Run) -> int:
    """Bytes of all files of a run."""
    total = 0
    for folder, _folders, files in os.walk(run.path):
        for file in files:
            with suppress(FileNotFoundError):  # a training removes old checkpoints meanwhile
                total += os.stat(f"{folder}/{file}").st_size
    return total


def _of(user: User, parent: Run, kind: Any, what: str, config: dict[str, Any]) -> Run:
    name = f"{parent.name[:60]} · {what}"
    return Run(owner=user, name=name, kind=kind, parent=parent, config=config, data_set=parent.data_set)


def _submit(run: Run) -> Run:
    _require_space(run.owner)
    with transaction.atomic():
        _require_turn(run.owner)
        run.save(force_insert=True)
    return run


def _require_turn(user: User) -> None:
    if Run.objects.owned_by(user).active().count() >= settings.MAX_JOBS_PER_USER:
        raise UserError(
            _("You have %(most)d runs queued or running; wait until one ends, or stop one.")
            % {"most": settings.MAX_JOBS_PER_USER}
        )


def _require_space(user: User) -> None:
    """Before a transaction: it looks at all files, and others wait for a transaction."""
    if sum(map(size_of, Run.objects.owned_by(user))) > settings.MAX_RUN_BYTES:
        raise UserError(
            _("Your runs take more than %(most)d GiB; delete some first.") % {"most": settings.MAX_RUN_BYTES // 2**30}
        )


def _require_finished(parent: Run) -> None:
    if parent.kind == Run.Kind.FOLD or parent.status != Status.FINISHED:
        raise UserError(_("Only a finished training can be pruned or folded."))
