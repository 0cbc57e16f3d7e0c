"""What the app remembers: users, their runs, data sets and pictures, one-time links and tokens."""

import hashlib
import secrets
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar

from django.conf import settings
from django.contrib.auth.models import AbstractUser
from django.db import models
from django.db.models import Q
from django.utils import timezone
from django.utils.translation import gettext_lazy as _


def new_id() -> str:
    """A name that cannot be guessed, for a row and for its directory. Access never rests on that."""
    return secrets.token_hex(10)


def digest(secret: str) -> str:
    """What is kept of a secret of 256 random bits, which needs no slow hash."""
    return hashlib.sha256(secret.encode()).hexdigest()


class User(AbstractUser):
    """Somebody with an account; ``is_staff`` makes an administrator."""

    @property
    def is_administrator(self) -> bool:
        return self.is_staff

    def has_second_factor(self) -> bool:
        from allauth.mfa.models import Authenticator

        return Authenticator.objects.filter(user=self, type=Authenticator.Type.TOTP).exists()

    def end_secrets(self) -> None:
        """Ends what would open the account without its password: tokens, and links that are not used yet."""
        self.tokens.all().delete()
        self.links.all().delete()

    def lacks_second_factor(self) -> bool:
        """Whether this is an administrator who may do nothing yet."""
        return self.is_staff and not self.has_second_factor()


class OneTimeLink(models.Model):
    """A link that lets its holder do one thing once: become a user, or choose a new password."""

    class Purpose(models.TextChoices):
        INVITATION = "invitation", _("invitation")
        RESET = "reset", _("new password")

    LIFE: ClassVar[timedelta] = timedelta(days=3)

    purpose = models.CharField(max_length=20, choices=Purpose)
    digest = models.CharField(max_length=64, unique=True)
    for_administrator = models.BooleanField(default=False)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, null=True, related_name="links")
    # Who trusts its holder; the first invitation is made by the terminal.
    made_by = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, null=True, related_name="links_made")
    created = models.DateTimeField(auto_now_add=True)
    expires = models.DateTimeField()

    @classmethod
    def make(cls, purpose: Any, **fields: Any) -> str:
        """The secret part of a new link, which is kept nowhere."""
        secret = secrets.token_urlsafe(32)
        cls.objects.create(purpose=purpose, digest=digest(secret), expires=timezone.now() + cls.LIFE, **fields)
        return secret

    @classmethod
    def find(cls, secret: str) -> "OneTimeLink | None":
        """The link of a secret, where it is known and not too old."""
        return cls.objects.filter(digest=digest(secret), expires__gt=timezone.now()).select_related("user").first()


class Token(models.Model):
    """Lets a program use the API as its owner; the secret is shown once and kept as a hash."""

    PREFIX: ClassVar[str] = "normjax_"

    user = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="tokens")
    name = models.CharField(max_length=60)
    digest = models.CharField(max_length=64, unique=True)
    created = models.DateTimeField(auto_now_add=True)
    used = models.DateTimeField(null=True)

    @classmethod
    def make(cls, user: User, name: str) -> str:
        secret = cls.PREFIX + secrets.token_urlsafe(32)
        cls.objects.create(user=user, name=name, digest=digest(secret))
        return secret

    @classmethod
    def owner(cls, secret: str) -> User | None:
        """Whose token it is; None where it is unknown or its owner may not use the app."""
        token = cls.objects.filter(digest=digest(secret), user__is_active=True).select_related("user").first()
        if token is None or token.user.lacks_second_factor():
            return None
        now = timezone.now()
        if token.used is None or now - token.used > timedelta(minutes=5):
            cls.objects.filter(pk=token.pk).update(used=now)
        return token.user


class DataSet(models.Model):
    """Labelled pictures that a user sent, in a folder for each class."""

    id = models.CharField(primary_key=True, max_length=20, default=new_id)
    owner = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="data_sets")
    name = models.CharField(max_length=60)
    pictures = models.PositiveIntegerField(default=0)
    bytes = models.PositiveBigIntegerField(default=0)
    created = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering: ClassVar = ["-created"]

    @property
    def path(self) -> Path:
        return settings.HOME.data_sets / self.id


class Picture(models.Model):
    """A picture to be recognised, re-encoded, private to its owner."""

    id = models.CharField(primary_key=True, max_length=20, default=new_id)
    owner = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="pictures")
    name = models.CharField(max_length=100)  # as its owner calls it, shown to him and used for nothing
    created = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering: ClassVar = ["-created"]

    @property
    def file(self) -> Path:
        return settings.HOME.pictures / f"{self.id}.png"

    @property
    def bytes(self) -> int:
        """Of the file; 0 where it is gone."""
        try:
            return self.file.stat().st_size
        except FileNotFoundError:  # removed meanwhile
            return 0


class Status(models.TextChoices):
    """Where a job stands."""

    QUEUED = "queued", _("queued")
    STARTING = "starting", _("starting")
    RUNNING = "running", _("running")
    STOPPING = "stopping", _("stopping")
    FINISHED = "finished", _("finished")
    STOPPED = "stopped", _("stopped")
    FAILED = "failed", _("failed")
    INTERRUPTED = "interrupted", _("interrupted")


WITH_PROCESS = (Status.STARTING, Status.RUNNING, Status.STOPPING)
ACTIVE = (Status.QUEUED, *WITH_PROCESS)


class RunQuerySet(models.QuerySet):
    """Runs, as a user may see them."""

    def owned_by(self, user: Any) -> "RunQuerySet":
        return self.filter(owner=user)

    def visible_to(self, user: Any) -> "RunQuerySet":
        """The user's own and those shared with him; administrators see no more than others."""
        return self.filter(Q(owner=user) | Q(shared_with_all=True) | Q(shared_with=user)).distinct()

    def active(self) -> "RunQuerySet":
        return self.filter(status__in=ACTIVE)


class Run(models.Model):
    """A job and what comes of it: a training, or a pruning or folding of an earlier run."""

    class Kind(models.TextChoices):
        TRAIN = "train", _("training")
        PRUNE = "prune", _("pruning")
        FOLD = "fold", _("folding")

    id = models.CharField(primary_key=True, max_length=20, default=new_id)
    owner = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="runs")
    name = models.CharField(max_length=80)
    kind = models.CharField(max_length=10, choices=Kind, default=Kind.TRAIN)
    parent = models.ForeignKey("self", models.SET_NULL, null=True, related_name="children")
    config = models.JSONField()  # of TrainConfig, of PruneConfig, or empty
    data_set = models.ForeignKey(DataSet, models.SET_NULL, null=True, related_name="runs")
    status = models.CharField(max_length=12, choices=Status, default=Status.QUEUED)
    message = models.TextField(default="")  # why it failed
    pid = models.PositiveIntegerField(null=True)
    stop_sent = models.BooleanField(default=False)  # whether its process was asked to end
    created = models.DateTimeField(auto_now_add=True)
    started = models.DateTimeField(null=True)
    ended = models.DateTimeField(null=True)
    queued = models.DateTimeField(default=timezone.now)  # decides whose turn it is
    archived = models.BooleanField(default=False)
    shared_with_all = models.BooleanField(default=False)
    shared_with = models.ManyToManyField(settings.AUTH_USER_MODEL, related_name="runs_shared_with")

    objects = RunQuerySet.as_manager()

    class Meta:
        ordering: ClassVar = ["-created"]
        indexes: ClassVar = [models.Index(fields=["status", "queued"]), models.Index(fields=["owner", "-created"])]

    @property
    def path(self) -> Path:
        """All that belongs to the run."""
        return settings.HOME.runs / self.id

    @property
    def directory(self) -> Path:
        """The run directory as ``normjax`` knows it."""
        return self.path / "run"

    @property
    def log(self) -> Path:
        return self.path / "log.txt"

    @property
    def status_label(self) -> str:
        """The status in words; ``get_status_display`` costs more than all else that a list tells of a run."""
        return Status(self.status).label

    @property
    def is_active(self) -> bool:
        return self.status in ACTIVE

    @property
    def can_stop(self) -> bool:
        return self.status in (Status.QUEUED, Status.STARTING, Status.RUNNING)

    @property
    def can_resume(self) -> bool:
        return self.status in (Status.STOPPED, Status.INTERRUPTED, Status.FAILED)

    @property
    def has_network(self) -> bool:
        """Whether there are weights to use: also those of a run that goes on."""
        return self.kind != self.Kind.FOLD and (self.directory / "checkpoints").is_dir()
