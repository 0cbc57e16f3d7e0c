"""Every route, asked by everybody: what each may do, and that nothing is there for those whom it does not concern.

ASVS 8.2.1, 8.2.2, 8.2.3, 8.4.1 (check 12). The routes come from Django's list: one that the table does not have fails.
"""

import json
import re
from typing import NamedTuple

import pytest
from app_cases import digit_png, sent
from django.urls import URLPattern, URLResolver, get_resolver, reverse

from normjax.app.api import api
from normjax.app.models import OneTimeLink, Token

pytest_plugins = ["app_fixtures"]

NOT_FOUND = 404
LOGIN = "login"  # sent to the login page
OK = (200, 201, 202, 204, 302)
REFUSED = (*OK, 409, 422)  # reached, and told what is wrong as things are


class Rule(NamedTuple):
    """Who may ask, and how. ``owner`` is ada, whose run, picture and data set the addresses name."""

    method: str = "get"
    anonymous: object = LOGIN
    owner: object = OK
    other: object = OK
    administrator: object = OK
    data: dict | None = None


PUBLIC = Rule(anonymous=OK)
EVERYBODY = Rule()
OWN = Rule(other=NOT_FOUND, administrator=NOT_FOUND)
OWN_ORDER = Rule("post", owner=REFUSED, other=NOT_FOUND, administrator=NOT_FOUND)
FOR_ADMINISTRATORS = Rule(owner=NOT_FOUND, other=NOT_FOUND)
ADMINISTRATORS_ORDER = Rule("post", owner=NOT_FOUND, other=NOT_FOUND)
API = Rule(anonymous=401)
API_OWN = Rule(anonymous=401, other=NOT_FOUND, administrator=NOT_FOUND)
API_OWN_ORDER = Rule("post", anonymous=401, owner=REFUSED, other=NOT_FOUND, administrator=NOT_FOUND)

RULES = {
    "home": EVERYBODY,
    "set_language": Rule("post", anonymous=OK, data={"language": "en"}),
    "join": PUBLIC._replace(anonymous=404, owner=404, other=404, administrator=404),  # no such link
    "new_password": PUBLIC._replace(anonymous=404, owner=404, other=404, administrator=404),
    "account_login": PUBLIC,
    "account_inactive": PUBLIC,
    "account_logout": Rule(anonymous=OK),
    "account_reauthenticate": EVERYBODY,
    "account_change_password": EVERYBODY,
    "mfa_index": EVERYBODY,
    "mfa_authenticate": Rule(anonymous=LOGIN),
    "mfa_reauthenticate": EVERYBODY,
    "mfa_activate_totp": EVERYBODY,
    "mfa_deactivate_totp": Rule(owner=(302, 404), other=(302, 404)),
    "mfa_view_recovery_codes": Rule(owner=(302, 404), other=(302, 404), administrator=(302, 404)),
    "mfa_generate_recovery_codes": EVERYBODY,
    "mfa_download_recovery_codes": Rule(owner=(302, 404), other=(302, 404), administrator=(302, 404)),
    "account": EVERYBODY,
    "sessions_end": Rule("post"),
    "session_end": Rule("post", owner=404, other=404, administrator=404),  # of no session of theirs
    "token_new": Rule("post", data={"name": "script"}),
    "token_delete": OWN_ORDER,
    "runs": EVERYBODY,
    "run_new": EVERYBODY,
    "run": OWN,
    "run_metrics": OWN,
    "run_events": OWN,
    "run_log": OWN,
    "run_stop": OWN_ORDER,
    "run_resume": OWN_ORDER,
    "run_rename": OWN_ORDER,
    "run_archive": OWN_ORDER,
    "run_share": OWN_ORDER,
    "run_delete": OWN_ORDER,
    "run_confusion": OWN,
    "run_confusion_cell": OWN,
    "run_activations": OWN,
    "run_smaller": OWN,
    "run_prune": OWN_ORDER,
    "run_fold": OWN_ORDER,
    "run_folded": OWN._replace(owner=404),  # it is no folding
    "run_model_file": OWN,
    "compare": EVERYBODY,
    "recognise": EVERYBODY,
    "recognise_csv": EVERYBODY,
    "saliency": OWN,
    "picture": OWN,
    "picture_delete": OWN_ORDER,
    "data_sets": EVERYBODY,
    "data_set": OWN,
    "data_set_pictures": OWN_ORDER,
    "data_set_delete": OWN_ORDER,
    "users": FOR_ADMINISTRATORS,
    "user_invite": ADMINISTRATORS_ORDER,
    "invitation_withdraw": ADMINISTRATORS_ORDER,
    "user_reset": ADMINISTRATORS_ORDER,
    "user_second_factor": ADMINISTRATORS_ORDER,
    "user_role": ADMINISTRATORS_ORDER,
    "user_disable": ADMINISTRATORS_ORDER,
    "user_delete": ADMINISTRATORS_ORDER,
    "job_stop": ADMINISTRATORS_ORDER,
    "api:openapi-json": EVERYBODY,
    "api:api-root": None,  # a name without a page
}
API_RULES = {
    "get /api/v1/me": API,
    "get /api/v1/runs": API,
    "post /api/v1/runs": Rule("post", anonymous=401, data={}),
    "get /api/v1/runs/{run}": API_OWN,
    "patch /api/v1/runs/{run}": API_OWN_ORDER._replace(method="patch", data={"name": "another"}),
    "delete /api/v1/runs/{run}": API_OWN_ORDER._replace(method="delete"),
    "post /api/v1/runs/{run}/stop": API_OWN_ORDER,
    "post /api/v1/runs/{run}/resume": API_OWN_ORDER,
    "post /api/v1/runs/{run}/prune": API_OWN_ORDER._replace(data={"max_drop": 0.5}),
    "post /api/v1/runs/{run}/fold": API_OWN_ORDER,
    "get /api/v1/runs/{run}/metrics": API_OWN,
    "get /api/v1/runs/{run}/log": API_OWN,
    "get /api/v1/runs/{run}/confusion": API_OWN,
    "get /api/v1/runs/{run}/activations": API_OWN,
    "get /api/v1/runs/{run}/model": API_OWN,
    "get /api/v1/runs/{run}/model/{name}": API_OWN,
    "get /api/v1/data-sets": API,
    "post /api/v1/data-sets": Rule("post", anonymous=401, data={"name": "squares"}),
    "get /api/v1/data-sets/{data_set}": API_OWN,
    "delete /api/v1/data-sets/{data_set}": API_OWN_ORDER._replace(method="delete"),
    "post /api/v1/data-sets/{data_set}/pictures": API_OWN_ORDER,
    "post /api/v1/recognise": API_OWN_ORDER,
}
WHO = ("anonymous", "owner", "other", "administrator")


def routes() -> dict[str, str]:
    """Name and pattern of every page; the API tells its own."""
    found = {}

    def collect(patterns: list, prefix: str, namespace: str) -> None:
        for entry in patterns:
            pattern = prefix + str(entry.pattern)
            if isinstance(entry, URLResolver):
                collect(entry.url_patterns, pattern, f"{entry.namespace}:" if entry.namespace else namespace)
            elif isinstance(entry, URLPattern) and not getattr(entry.callback, "__qualname__", "").startswith(
                "PathView"
            ):
                found[namespace + (entry.name or pattern)] = pattern

    collect(get_resolver().url_patterns, "", "")
    return found


def operations() -> set[str]:
    """Method and path of everything that the API does."""
    paths = api.get_openapi_schema(path_prefix="/api/v1/")["paths"]
    return {f"{method} {path}" for path, methods in paths.items() for method in methods}


def test_every_route_has_a_rule():
    assert set(routes()) == set(RULES)
    assert operations() == set(API_RULES)
    # Nothing of the API is hidden from its description.
    assert sum(len(view.operations) for view in all_path_views()) == len(API_RULES)


def all_path_views() -> list:
    return [view for _prefix, router in api._routers for view in router.path_operations.values()]


@pytest.fixture
def things(trained, picture, data_set, ada, make_user):
    """What the addresses name, all of it ada's."""
    token = Token.objects.create(user=ada, name="script", digest="0")
    OneTimeLink.make(OneTimeLink.Purpose.INVITATION)
    return {
        "run": trained.pk,
        "picture": picture.pk,
        "data_set": data_set.pk,
        "token": token.pk,
        "user": make_user("carol").pk,
        "link": OneTimeLink.objects.get().pk,
        "session": 999,
        "secret": "unknown",
        "name": "config.json",
        "label": 0,
        "predicted": 0,
    }


@pytest.mark.parametrize("name", [name for name, rule in RULES.items() if rule])
def test_page(name, things, ada, bob, root, as_user):
    rule = RULES[name]
    pattern = routes()[name]
    wanted = {word: things[word] for word in re.findall(r"<\w+:(\w+)>", pattern)}
    address = reverse(name, kwargs=wanted)
    # The owner last: his order may take away what the others must not even see.
    for who, user in (("anonymous", None), ("other", bob), ("administrator", root), ("owner", ada)):
        client = as_user(user)
        response = getattr(client, rule.method)(address, rule.data or {})
        check(response, getattr(rule, who), f"{who}: {rule.method} {address}")
        if rule.method == "post":
            assert client.get(address).status_code in (405, 302, 404), f"{address} changes something by GET"
        if response.streaming:
            response.close()


@pytest.mark.parametrize("operation", API_RULES)
def test_operation(operation, things, ada, bob, root, as_user):
    rule = API_RULES[operation]
    address = operation.split()[1].format(**things)
    tokens = {
        "anonymous": None,
        **{who: Token.make(user, "t") for who, user in (("owner", ada), ("other", bob), ("administrator", root))},
    }
    for who in ("anonymous", "other", "administrator", "owner"):
        headers = {"Authorization": f"Bearer {tokens[who]}"} if tokens[who] else {}
        if address.endswith(("/pictures", "/recognise")):
            body = {
                "picture": sent("a.png", digit_png()),
                "pictures": sent("a.png", digit_png()),
                "label": "a",
                "runs": things["run"],
            }
            response = as_user(None).post(address, body, headers=headers)
        else:
            body = None if rule.data is None else json.dumps(rule.data)
            kind = {} if body is None else {"data": body, "content_type": "application/json"}
            response = getattr(as_user(None), rule.method)(address, headers=headers, **kind)
        check(response, getattr(rule, who), f"{who}: {operation}")
        if response.streaming:
            response.close()


def check(response, expected, what: str) -> None:
    if expected == LOGIN:
        assert response.status_code == 302, what
        assert response["Location"].startswith("/account/login/"), what
        return
    allowed = expected if isinstance(expected, tuple) else (expected,)
    assert response.status_code in allowed, f"{what} gave {response.status_code}"
    if response.status_code == 302 and expected is not None and "anonymous" not in what:
        assert not response["Location"].startswith("/account/login/"), what


def test_a_shared_run_is_seen_and_not_changed(trained, ada, bob, as_user):
    trained.shared_with.add(bob)
    client = as_user(bob)
    for page in ("run", "run_metrics", "run_log", "run_confusion", "run_activations", "run_smaller"):
        assert client.get(reverse(page, args=[trained.pk])).status_code == 200
    for order in ("run_stop", "run_rename", "run_archive", "run_share", "run_delete", "run_prune", "run_fold"):
        assert client.post(reverse(order, args=[trained.pk])).status_code == 404
    trained.shared_with.clear()
    assert client.get(reverse("run", args=[trained.pk])).status_code == 404
    trained.shared_with_all = True
    trained.save()
    assert client.get(reverse("run", args=[trained.pk])).status_code == 200
    assert ada.pk != bob.pk


def test_a_shared_pruning_does_not_name_the_private_run_that_it_was_made_of(ada, bob, make_run, as_user):
    parent = make_run(ada, status="finished", name="secret plans")
    pruned = make_run(ada, status="failed", kind="prune", parent=parent, shared_with_all=True)
    page = reverse("run_log", args=[pruned.pk])
    assert "secret plans" in as_user(ada).get(page).content.decode()
    assert "secret plans" not in as_user(bob).get(page).content.decode()


def test_an_administrator_without_a_second_factor_reaches_only_its_setup(make_user, as_user):
    # ASVS 6.3.3 (check 4)
    root = make_user("root", administrator=True, second_factor=False)
    client = as_user(root)
    for name, pattern in routes().items():
        if "<" in pattern or RULES[name] is None or name in ("account_login", "account_inactive", "mfa_authenticate"):
            continue
        response = client.get(reverse(name))
        if name in ("mfa_activate_totp", "account_reauthenticate", "account_logout", "set_language"):
            continue
        assert response.status_code == 302, name
        assert response["Location"] == "/account/second-factor/totp/activate/", name
    token = Token.make(root, "script")
    assert client.get("/api/v1/me", headers={"Authorization": f"Bearer {token}"}).status_code in (302, 401)
    assert as_user(None).get("/api/v1/me", headers={"Authorization": f"Bearer {token}"}).status_code == 401
