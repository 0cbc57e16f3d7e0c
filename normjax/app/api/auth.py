"""Who asks: the holder of a token, or somebody who is logged in."""

from typing import Any

from django.http import HttpRequest
from ninja.security import HttpBearer, SessionAuth

from normjax.app.models import Token


class TokenAuth(HttpBearer):
    """``Authorization: Bearer normjax_...``"""

    def authenticate(self, request: HttpRequest, token: str) -> Any:
        user = Token.owner(token)
        if user is not None:
            request.user = user
        return user


# A cookie comes along whoever makes the browser ask, so it needs the token against forgery as well.
AUTH = [TokenAuth(), SessionAuth(csrf=True)]
