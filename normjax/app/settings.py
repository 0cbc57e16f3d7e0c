"""Django's settings. What a lab may want to change are options of ``normjax app``, which come by the environment."""

import os
from pathlib import Path
from urllib.parse import urlsplit

from csp.constants import NONE, SELF
from django.utils.translation import gettext_lazy as _

from normjax.app.home import home

HOME = home()
DATA_DIR = Path(os.environ["TFDS_DATA_DIR"]) if os.environ.get("TFDS_DATA_DIR") else None
ORIGIN = os.environ.get("NORMJAX_APP_ORIGIN", "")  # https://lab.example behind a proxy, else empty
_TLS = urlsplit(ORIGIN).scheme == "https"

# Limits, so that one user cannot take the machine from the others.
MAX_JOBS_AT_ONCE = int(os.environ.get("NORMJAX_APP_JOBS", "1"))
MAX_JOBS_PER_USER = 10  # queued and running
MAX_EPOCHS = 1000
MAX_BATCH = 4096
MAX_WATCHERS_PER_USER = int(os.environ.get("NORMJAX_APP_WATCHERS", "20"))
MAX_UPLOAD_BYTES = 10 * 2**20
MAX_PIXELS = 25_000_000
MAX_PICTURES_AT_ONCE = 50
MAX_PICTURES_KEPT = 500  # of a user, for recognition
MAX_PICTURES_BYTES = 2 * 2**30
MAX_DATA_SETS = 20  # of a user
MAX_DATA_SET_PICTURES = 20_000
MAX_DATA_SET_BYTES = 2 * 2**30
MAX_CLASSES = 1000  # of a data set that a user sends, and of a matrix that is told whole
MAX_RUN_BYTES = 20 * 2**30  # of all runs of a user; beyond it nothing new is queued
STOP_GRACE_SECONDS = 60
# The server answers while a training computes; what else the machine does comes before trainings, too.
JOB_NICE = int(os.environ.get("NORMJAX_APP_NICE", "5"))

SECRET_KEY = HOME.secret_key()
DEBUG = False
ALLOWED_HOSTS = [urlsplit(ORIGIN).hostname] if ORIGIN else ["127.0.0.1", "localhost", "[::1]"]
CSRF_TRUSTED_ORIGINS = [ORIGIN] if ORIGIN else []

INSTALLED_APPS = [
    "normjax.app.apps.NormjaxAppConfig",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.humanize",
    "django.contrib.messages",
    "django.contrib.sessions",
    "django.contrib.staticfiles",
    "allauth",
    "allauth.account",
    "allauth.mfa",
    "allauth.usersessions",
    "csp",
    "ninja",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "csp.middleware.CSPMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "normjax.app.middleware.private_pages",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.locale.LocaleMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.auth.middleware.LoginRequiredMiddleware",  # every page, unless it says otherwise
    "django.contrib.messages.middleware.MessageMiddleware",
    "allauth.account.middleware.AccountMiddleware",
    "normjax.app.middleware.session_ends",
    "normjax.app.middleware.second_factor_of_administrators",
]
ROOT_URLCONF = "normjax.app.urls"
ASGI_APPLICATION = "normjax.app.asgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "django.template.context_processors.i18n",
            ]
        },
    }
]

DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": HOME.database,
        "OPTIONS": {
            # Writers wait for each other at the beginning of a transaction, where waiting is possible.
            "transaction_mode": "IMMEDIATE",
            "timeout": 20,
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
        },
    }
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}

AUTH_USER_MODEL = "normjax_app.User"
AUTHENTICATION_BACKENDS = ["allauth.account.auth_backends.AuthenticationBackend"]
PASSWORD_HASHERS = ["normjax.app.accounts.Argon2idHasher"]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 10}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
    {"NAME": "normjax.app.accounts.MaximumLengthValidator"},
]
LOGIN_URL = "account_login"
LOGIN_REDIRECT_URL = "runs"
ACCOUNT_ADAPTER = "normjax.app.accounts.AccountAdapter"
ACCOUNT_LOGIN_METHODS = {"username"}
ACCOUNT_SIGNUP_FIELDS = ["username*", "password1*", "password2*"]
ACCOUNT_EMAIL_VERIFICATION = "none"
ACCOUNT_LOGOUT_REDIRECT_URL = "account_login"
ACCOUNT_SESSION_REMEMBER = True  # for the length of SESSION_COOKIE_AGE
ACCOUNT_PREVENT_ENUMERATION = True
# By address as allauth has it. By name alone it is soft: whoever knows a name must not lock its owner out for long.
ACCOUNT_RATE_LIMITS = {"login_failed": "10/m/ip,20/10m/key"}
MFA_SUPPORTED_TYPES = ["totp", "recovery_codes"]
MFA_TOTP_ISSUER = "normjax"
ALLAUTH_TRUSTED_PROXY_COUNT = 1 if ORIGIN else 0

SESSION_COOKIE_AGE = 12 * 3600  # from the login on; a working day in front of a training
SESSION_IDLE_SECONDS = 3 * 3600
SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = CSRF_COOKIE_SAMESITE = LANGUAGE_COOKIE_SAMESITE = "Lax"
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = LANGUAGE_COOKIE_SECURE = _TLS
SESSION_COOKIE_NAME = "__Host-session" if _TLS else "normjax_session"
CSRF_COOKIE_NAME = "__Host-csrf" if _TLS else "normjax_csrf"
CSRF_COOKIE_HTTPONLY = True  # scripts read the token from the page
LANGUAGE_COOKIE_HTTPONLY = True
SECURE_HSTS_SECONDS = 365 * 24 * 3600 if _TLS else 0
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if _TLS else None
SECURE_REFERRER_POLICY = "same-origin"
SECURE_CROSS_ORIGIN_OPENER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": [NONE],
        "script-src": [SELF],
        "style-src": [SELF],
        "img-src": [SELF, "data:", "blob:"],  # data: of QR codes and small pictures, blob: of the picture to be sent
        "media-src": [SELF, "blob:"],
        "connect-src": [SELF],
        "form-action": [SELF],
        "base-uri": [NONE],
        "frame-ancestors": [NONE],
    }
}

# Each request that is worked on has a thread; those of the recogniser (8 at most) do little but wait.
REQUESTS_AT_ONCE = 12
REQUESTS_WAITING = 400
# Of a whole request, counted as it comes (body_limit.py), and less of it from somebody who is not logged in.
MAX_BODY_BYTES = 64 * 2**20
MAX_ANONYMOUS_BODY_BYTES = 64 * 2**10
DATA_UPLOAD_MAX_MEMORY_SIZE = 1 * 2**20  # without the files
DATA_UPLOAD_MAX_NUMBER_FIELDS = 500
DATA_UPLOAD_MAX_NUMBER_FILES = MAX_PICTURES_AT_ONCE

STATIC_URL = "static/"
WHITENOISE_USE_FINDERS = True  # straight from the package: nothing to collect at installation
WHITENOISE_AUTOREFRESH = False

USE_TZ = True
TIME_ZONE = os.environ.get("TZ") or "UTC"
LANGUAGE_CODE = "en"
LANGUAGES = [("en", _("English")), ("zh-hans", "中文")]
LOCALE_PATHS = [Path(__file__).parent / "locale"]

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"()": "normjax.app.logs.OneLine", "fmt": "%(asctime)s %(levelname)s %(name)s %(message)s"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"handlers": ["console"], "level": "WARNING"},
    "loggers": {"normjax.app": {"level": "INFO"}},
}
