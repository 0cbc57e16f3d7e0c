"""The API: what the pages do, for programs."""

from typing import Any

from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpRequest, HttpResponse
from ninja import NinjaAPI
from ninja.errors import ValidationError

from normjax import __version__
from normjax.app.api.auth import AUTH
from normjax.app.api.data_sets import router as data_sets
from normjax.app.api.recognition import router as recognition
from normjax.app.api.runs import router as runs
from normjax.app.api.schemas import PROBLEMS, Me
from normjax.app.config_form import RefusedError
from normjax.app.recognition.client import RecognitionError
from normjax.app.views.common import why_not
from normjax.errors import UserError

api = NinjaAPI(
    title="normjax",
    version=__version__,
    urls_namespace="api",
    description="Trainings and recognition. Send `Authorization: Bearer TOKEN` with a token of your account page.",
    auth=AUTH,
    docs_url=None,  # its page needs scripts of others
    docs_decorator=login_required,
)
api.add_router("/runs", runs)
api.add_router("/data-sets", data_sets)
api.add_router("/recognise", recognition)


@api.get("/me", response={200: Me, **PROBLEMS})
def me(request: HttpRequest) -> Any:
    """Whose token it is."""
    user: Any = request.user
    return {"username": user.username, "administrator": user.is_administrator}


@api.exception_handler(ValidationError)
def invalid(request: HttpRequest, error: ValidationError) -> HttpResponse:
    """Wrong fields, each with its place. What was sent is not sent back."""
    faults = [{"loc": list(fault["loc"]), "msg": fault["msg"]} for fault in error.errors]
    return api.create_response(request, {"detail": faults}, status=422)


@api.exception_handler(RefusedError)
def refused(request: HttpRequest, error: RefusedError) -> HttpResponse:
    """A config that asks for more than there is."""
    faults = [{"loc": ["body", error.place, *name.split(".")], "msg": text} for name, text in error.errors.items()]
    return api.create_response(request, {"detail": faults}, status=422)


@api.exception_handler(UserError)
def conflict(request: HttpRequest, error: UserError) -> HttpResponse:
    """An order that cannot be carried out as things are."""
    return api.create_response(request, {"detail": str(error)}, status=409)


@api.exception_handler(RecognitionError)
def unavailable(request: HttpRequest, error: RecognitionError) -> HttpResponse:
    """The recogniser gave no answer."""
    return api.create_response(request, {"detail": why_not(error)}, status=503)


@api.exception_handler(Http404)
def missing(request: HttpRequest, error: Http404) -> HttpResponse:  # noqa: ARG001 - of the handlers' signature
    """What is not there, or not for this user, which he is not told apart."""
    return api.create_response(request, {"detail": "Not found"}, status=404)
