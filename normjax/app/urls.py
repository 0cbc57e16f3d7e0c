"""Every route of the app."""

from allauth.account import views as account_views
from django.contrib.auth.decorators import login_not_required
from django.urls import include, path
from django.views.generic import RedirectView
from django.views.i18n import set_language

from normjax.app.api import api
from normjax.app.views import account, data_sets, links, recognition, results, runs, users

# The API asks for a token itself, and answers 401 where there is none; a program has no use for the login page.
_api_patterns, _app_name, _namespace = api.urls
for _pattern in _api_patterns:
    if _pattern.name != "openapi-json":
        login_not_required(_pattern.callback)

_account = [
    path("login/", account_views.login, name="account_login"),
    path("logout/", account_views.logout, name="account_logout"),
    path("inactive/", account_views.account_inactive, name="account_inactive"),
    path("reauthenticate/", account_views.reauthenticate, name="account_reauthenticate"),
    path("password/", account_views.password_change, name="account_change_password"),
    path("second-factor/", include("allauth.mfa.urls")),
    path("", account.account, name="account"),
    path("sessions/end/", account.sessions_end, name="sessions_end"),
    path("sessions/<int:session>/end/", account.session_end, name="session_end"),
    path("tokens/", account.token_new, name="token_new"),
    path("tokens/<int:token>/delete/", account.token_delete, name="token_delete"),
]
_runs = [
    path("", runs.run_list, name="runs"),
    path("new/", runs.run_new, name="run_new"),
    path("<slug:run>/", runs.run, name="run"),
    path("<slug:run>/metrics/", runs.run_metrics, name="run_metrics"),
    path("<slug:run>/events/", runs.run_events, name="run_events"),
    path("<slug:run>/log/", runs.run_log, name="run_log"),
    path("<slug:run>/stop/", runs.run_stop, name="run_stop"),
    path("<slug:run>/resume/", runs.run_resume, name="run_resume"),
    path("<slug:run>/rename/", runs.run_rename, name="run_rename"),
    path("<slug:run>/archive/", runs.run_archive, name="run_archive"),
    path("<slug:run>/share/", runs.run_share, name="run_share"),
    path("<slug:run>/delete/", runs.run_delete, name="run_delete"),
    path("<slug:run>/confusion/", results.confusion, name="run_confusion"),
    path("<slug:run>/confusion/<int:label>/<int:predicted>/", results.confusion_cell, name="run_confusion_cell"),
    path("<slug:run>/activations/", results.activations, name="run_activations"),
    path("<slug:run>/smaller/", results.smaller, name="run_smaller"),
    path("<slug:run>/prune/", results.prune, name="run_prune"),
    path("<slug:run>/fold/", results.fold, name="run_fold"),
    path("<slug:run>/folded.stablehlo", results.folded_file, name="run_folded"),
    path("<slug:run>/model/<str:name>", results.model_file, name="run_model_file"),
]
_users = [
    path("", users.user_list, name="users"),
    path("invite/", users.user_invite, name="user_invite"),
    path("invitations/<int:link>/withdraw/", users.invitation_withdraw, name="invitation_withdraw"),
    path("<int:user>/reset/", users.user_reset, name="user_reset"),
    path("<int:user>/second-factor/", users.user_second_factor, name="user_second_factor"),
    path("<int:user>/role/", users.user_role, name="user_role"),
    path("<int:user>/disable/", users.user_disable, name="user_disable"),
    path("<int:user>/delete/", users.user_delete, name="user_delete"),
    path("jobs/<slug:run>/stop/", users.job_stop, name="job_stop"),
]
urlpatterns = [
    path("", RedirectView.as_view(pattern_name="runs"), name="home"),
    path("language/", login_not_required(set_language), name="set_language"),
    path("join/<str:secret>/", links.join, name="join"),
    path("new-password/<str:secret>/", links.new_password, name="new_password"),
    path("account/", include(_account)),
    path("runs/", include(_runs)),
    path("compare/", runs.compare, name="compare"),
    path("recognise/", recognition.recognise, name="recognise"),
    path("recognise/answers.csv", recognition.recognise_csv, name="recognise_csv"),
    path("recognise/<slug:picture>/<slug:run>/", recognition.saliency, name="saliency"),
    path("pictures/<slug:picture>.png", recognition.picture, name="picture"),
    path("pictures/<slug:picture>/delete/", recognition.picture_delete, name="picture_delete"),
    path("data-sets/", data_sets.data_set_list, name="data_sets"),
    path("data-sets/<slug:data_set>/", data_sets.data_set, name="data_set"),
    path("data-sets/<slug:data_set>/pictures/", data_sets.data_set_pictures, name="data_set_pictures"),
    path("data-sets/<slug:data_set>/delete/", data_sets.data_set_delete, name="data_set_delete"),
    path("users/", include(_users)),
    path("api/v1/", (_api_patterns, _app_name, _namespace)),
]
handler400 = "normjax.app.views.common.bad_request"
handler403 = "normjax.app.views.common.forbidden"
handler404 = "normjax.app.views.common.page_not_found"
handler500 = "normjax.app.views.common.server_error"
