"""The app as Django knows it."""

from django.apps import AppConfig


class NormjaxAppConfig(AppConfig):
    name = "normjax.app"
    label = "normjax_app"
    verbose_name = "normjax"

    def ready(self) -> None:
        from normjax.app import accounts, logs

        accounts.connect()
        logs.connect()
