"""Lists of runs, one run with its curves, its log, and what its owner does to it."""

from typing import Any

from django.conf import settings
from django.contrib import messages
from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse
from django.shortcuts import redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from normjax.app import run_facts
from normjax.app.choices import choices
from normjax.app.config_form import RefusedError, config_of, make_form, read_form, refused_form
from normjax.app.jobs import orders, watch
from normjax.app.jobs.commands import result
from normjax.app.models import Run, Status
from normjax.app.views.common import attempt, own_run, visible_run
from normjax.app.views.figures import before_after
from normjax.errors import UserError
from normjax.training.config import TrainConfig
from normjax.training.exported import FILES
from normjax.training.metrics import read_metrics

_A_PAGE = 15


@require_GET
def run_list(request: HttpRequest) -> HttpResponse:
    """The user's runs, those shared with him, or those put away."""
    which = request.GET.get("which", "mine")
    if which == "shared":
        runs = Run.objects.visible_to(request.user).exclude(owner=request.user)
    else:
        which = "archived" if which == "archived" else "mine"
        runs = Run.objects.owned_by(request.user).filter(archived=which == "archived")
    runs = runs.select_related("owner").defer("config", "message")
    page = Paginator(runs, _A_PAGE).get_page(request.GET.get("page"))
    rows = [{"run": run, **run_facts.figures(run)} for run in page]
    return render(request, "app/run_list.html", {"page": page, "rows": rows, "which": which})


@require_http_methods(["GET", "POST"])
def run_new(request: HttpRequest) -> HttpResponse:
    """The form of a new training, empty or filled in with the config of another."""
    offered = choices(request.user)
    if request.method == "GET":
        name, config, data_set = "", TrainConfig(), None
        if cloned := request.GET.get("from"):
            run = visible_run(request, cloned)
            if run.kind == Run.Kind.TRAIN:
                name, config = run.name, config_of(run)
                data_set = run.data_set if run.owner == request.user else None
        return render(request, "app/run_new.html", {"form": make_form(config, offered, data_set), "name": name})
    sent = {key: value for key, value in request.POST.items() if isinstance(value, str)}
    name = sent.get("name", "")[:80]
    try:
        config, data_set = read_form(request.user, sent)
        run = orders.submit_training(request.user, config, name=name, data_set=data_set)
    except (RefusedError, UserError) as error:
        errors = error.errors if isinstance(error, RefusedError) else {"": str(error)}
        form = refused_form(sent, offered, errors)
        return render(request, "app/run_new.html", {"form": form, "name": name}, status=422)
    return redirect("run", run.pk)


@require_GET
def run(request: HttpRequest, run: str) -> HttpResponse:
    """One run: status, curves, figures, what was made of it."""
    return _page(request, visible_run(request, run))


def _page(request: HttpRequest, shown: Run, status: int = 200, **told: Any) -> HttpResponse:
    """The page of a run, with what was sent and why it was refused."""
    done = result(shown)
    context: dict[str, Any] = {
        "run": shown,
        "tab": "curves",
        "figures": run_facts.figures(shown),
        "result": done,
        "total": run_facts.total_steps(shown),
        "children": Run.objects.visible_to(request.user).filter(parent=shown),
        "place": _place(shown),
        "shared_with": ", ".join(shown.shared_with.values_list("username", flat=True)),
        "settings": _told(shown.config),
        "files": FILES,
        "before_after": before_after(shown, done) if done else None,
        **told,
    }
    return render(request, f"app/run_{shown.kind}.html", context, status=status)


@require_GET
def run_metrics(request: HttpRequest, run: str) -> HttpResponse:
    """All lines of the metrics, for curves."""
    return JsonResponse({"lines": read_metrics(visible_run(request, run).directory / "metrics.jsonl")})


@require_GET
def run_events(request: HttpRequest, run: str) -> HttpResponse:
    """The live metrics, from the last event on that a browser names: by a header after a break, by ``after`` later."""
    shown = visible_run(request, run)
    user: Any = request.user
    if watch.watchers[user.pk] >= settings.MAX_WATCHERS_PER_USER:
        return HttpResponse(_("You watch too many runs at once; close other pages."), status=429)
    known = request.headers.get("Last-Event-ID") or request.GET.get("after", "")
    offset = int(known) if known.isdecimal() and len(known) < 15 else 0
    session_key = request.session.session_key or ""
    size, total = run_facts.batch_size(shown), run_facts.total_steps(shown)
    stream = watch.events(shown, user.pk, session_key, offset, size, total)
    response = StreamingHttpResponse(stream, content_type="text/event-stream")
    response["X-Accel-Buffering"] = "no"
    return response


@require_GET
def run_log(request: HttpRequest, run: str) -> HttpResponse:
    """What the process of the run has printed."""
    shown = visible_run(request, run)
    return render(request, "app/run_log.html", {"run": shown, "tab": "log", "log": run_facts.log_text(shown)})


@require_POST
def run_stop(request: HttpRequest, run: str) -> HttpResponse:
    attempt(request, lambda: orders.stop(own_run(request, run)))
    return redirect("run", run)


@require_POST
def run_resume(request: HttpRequest, run: str) -> HttpResponse:
    attempt(request, lambda: orders.resume(own_run(request, run)))
    return redirect("run", run)


@require_POST
def run_rename(request: HttpRequest, run: str) -> HttpResponse:
    changed, name = own_run(request, run), request.POST.get("name", "")
    try:
        orders.rename(changed, name)
    except UserError as error:
        return _page(request, changed, 422, name_error=str(error), name_sent=name)
    messages.success(request, _("Renamed."))
    return redirect("run", run)


@require_POST
def run_archive(request: HttpRequest, run: str) -> HttpResponse:
    """Puts a run away, or takes it out again."""
    changed = own_run(request, run)
    Run.objects.filter(pk=changed.pk).update(archived=not changed.archived)
    messages.success(request, _("Taken out of the archive.") if changed.archived else _("Put into the archive."))
    return redirect("run", run)


@require_POST
def run_share(request: HttpRequest, run: str) -> HttpResponse:
    changed = own_run(request, run)
    sent, with_all = request.POST.get("names", ""), request.POST.get("with_all") == "on"
    try:
        orders.share(changed, with_all=with_all, names=[name.strip() for name in sent.split(",")])
    except UserError as error:
        changed.shared_with_all = with_all  # as it was sent, on the page alone
        return _page(request, changed, 422, share_error=str(error), shared_with=sent)
    messages.success(request, _("Saved who sees this run."))
    return redirect("run", run)


@require_POST
def run_delete(request: HttpRequest, run: str) -> HttpResponse:
    changed = own_run(request, run)
    gone = attempt(request, lambda: orders.delete(changed), _("Deleted %(name)s.") % {"name": changed.name})
    return redirect("runs") if gone else redirect("run", run)


@require_GET
def compare(request: HttpRequest) -> HttpResponse:
    """Best figures of several runs in a table, their curves over each other."""
    visible = Run.objects.visible_to(request.user).select_related("owner").exclude(kind=Run.Kind.FOLD)
    wanted = request.GET.getlist("run")[:20]
    chosen = {run.pk: run for run in visible.filter(pk__in=wanted)}
    rows = [{"run": chosen[pk], **run_facts.figures(chosen[pk])} for pk in dict.fromkeys(wanted) if pk in chosen]
    for number, row in enumerate(rows):
        row["colour"] = number % 8
    best = {
        name: max((row[name] for row in rows if row[name] is not None), default=None)
        for name in ("best_validation_accuracy", "test_accuracy")
    }
    offered = visible.filter(archived=False)[:100]
    return render(request, "app/compare.html", {"rows": rows, "best": best, "offered": offered, "chosen": set(chosen)})


def _place(run: Run) -> int | None:
    """How many runs are before this one in the queue."""
    if run.status != Status.QUEUED:
        return None
    return Run.objects.filter(status=Status.QUEUED, queued__lt=run.queued).count()


def _told(config: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """The settings of a run that are not those of a plain one."""
    plain = TrainConfig().model_dump(mode="json")
    found = []
    for name, value in config.items():
        if isinstance(value, dict) and not prefix and name != "options":
            found += [
                (f"{name}.{inner}", content)
                for inner, content in value.items()
                if content != plain.get(name, {}).get(inner)
                or f"{name}.{inner}" in ("data.name", "model.name", "norm.name")
            ]
        elif value != plain.get(name) or name in ("epochs", "batch_size", "seed"):
            found.append((name, value))
    return found
