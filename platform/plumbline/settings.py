"""The one settings file, and the only place that reads the Django side's environment (docs/operations.md lists it).

A bad value is refused here, at start, with a sentence.
"""

import os
from pathlib import Path

from csp.constants import NONE, SELF

from plumbline import environment

ENVIRONMENT = environment.read_choice(os.environ, "PLUMBLINE_ENV", environment.ENVIRONMENTS, "production")
DEVELOPMENT = ENVIRONMENT == "development"
DEBUG = environment.read_bool(os.environ, "DEBUG")
if DEBUG and not DEVELOPMENT:
    raise environment.ImproperlyConfigured(
        "DEBUG=1 shows the program's insides to every visitor, so it works only with PLUMBLINE_ENV=development. "
        "Unset DEBUG, or set PLUMBLINE_ENV=development on a machine of your own."
    )

PLUMBLINE_DATA_DIR = environment.read_data_dir(os.environ)
SECRET_KEY = environment.read_secret_key(os.environ, PLUMBLINE_DATA_DIR, development=DEVELOPMENT)
PLUMBLINE_BASE_URL = environment.read_base_url(os.environ)
ALLOWED_HOSTS = environment.read_allowed_hosts(os.environ, PLUMBLINE_BASE_URL, development=DEVELOPMENT)
LOG_LEVEL = environment.read_choice(os.environ, "PLUMBLINE_LOG_LEVEL", ("DEBUG", "INFO", "WARNING", "ERROR"), "INFO")

PACKAGE_DIR = Path(__file__).resolve().parent
CHECKOUT_DIR = PACKAGE_DIR.parent.parent
# Beside manage.py in a checkout, inside the package in a wheel.
TEMPLATE_DIR = CHECKOUT_DIR / "templates" if (CHECKOUT_DIR / "manage.py").exists() else PACKAGE_DIR / "templates"

ROOT_URLCONF = "plumbline.urls"
WSGI_APPLICATION = "plumbline.wsgi.application"
ASGI_APPLICATION = "plumbline.asgi.application"
AUTH_USER_MODEL = "plumbline.User"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

INSTALLED_APPS = [
    "plumbline",
    "annotation",
    "training",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.humanize",
    "whitenoise.runserver_nostatic",
    "django.contrib.staticfiles",
    "allauth",
    "allauth.account",
    "axes",
    "csp",
    "drf_spectacular",
    "rest_framework",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "csp.middleware.CSPMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.locale.LocaleMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "plumbline.same_person.refuse_another_person",
    # Behind the one that knows who asks; CSRF's, which reads the body, does so only when all of these have passed.
    "plumbline.limits.limit_bodies",
    "allauth.account.middleware.AccountMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    # Last: it turns a lockout into its own answer.
    "axes.middleware.AxesMiddleware",
]

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [TEMPLATE_DIR],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    }
]

# No ATOMIC_REQUESTS: with IMMEDIATE transactions on SQLite every GET would take the write lock.
DATABASES = {"default": environment.read_database(os.environ, PLUMBLINE_DATA_DIR)}

# Accounts: no open sign-up; five wrong passwords for a name lock that name from that address for a while.
AUTHENTICATION_BACKENDS = [
    "axes.backends.AxesStandaloneBackend",
    "django.contrib.auth.backends.ModelBackend",
    "allauth.account.auth_backends.AuthenticationBackend",
]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 10}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
    {"NAME": "django.contrib.auth.password_validation.NumericPasswordValidator"},
]
LOGIN_URL = "account_login"
LOGIN_REDIRECT_URL = "home"
LOGOUT_REDIRECT_URL = "account_login"
ACCOUNT_ADAPTER = "plumbline.accounts.ClosedSignUpAdapter"
ACCOUNT_FORMS = {
    "login": "plumbline.forms.SignInForm",
    "change_password": "plumbline.forms.OtherPasswordForm",
    "set_password": "plumbline.forms.NewPasswordForm",
}
ACCOUNT_LOGIN_METHODS = {"username", "email"}
ACCOUNT_EMAIL_VERIFICATION = "none"
ACCOUNT_SESSION_REMEMBER = True
ACCOUNT_LOGOUT_ON_GET = False
# Axes counts failures, in the database, over all web processes; a second count would only blur what the page says.
ACCOUNT_RATE_LIMITS = False
ACCOUNT_LOGOUT_REDIRECT_URL = "account_login"
AXES_FAILURE_LIMIT = 5
AXES_COOLOFF_TIME = 0.25  # hours
AXES_LOCKOUT_PARAMETERS = [["username", "ip_address"]]
AXES_CLIENT_IP_CALLABLE = "plumbline.accounts.client_address"
AXES_USERNAME_CALLABLE = "plumbline.accounts.typed_login"
AXES_LOCKOUT_CALLABLE = "plumbline.views.locked_out"
AXES_RESET_ON_SUCCESS = True
AXES_VERBOSE = False

# Sessions and transport
HTTPS = PLUMBLINE_BASE_URL.startswith("https://")
SESSION_COOKIE_NAME = "plumbline_session"
SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = "Lax"
SESSION_COOKIE_SECURE = HTTPS
SESSION_COOKIE_AGE = 14 * 24 * 3600
CSRF_COOKIE_SECURE = HTTPS
CSRF_COOKIE_SAMESITE = "Lax"
CSRF_TRUSTED_ORIGINS = [PLUMBLINE_BASE_URL] if PLUMBLINE_BASE_URL else []
CSRF_FAILURE_VIEW = "plumbline.views.csrf_failure"
SECURE_HSTS_SECONDS = 31_536_000 if HTTPS else 0
# With an https address, TLS ends at a proxy of yours, which must set (or strip) this header.
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if HTTPS else None
SECURE_CONTENT_TYPE_NOSNIFF = True
SECURE_REFERRER_POLICY = "same-origin"
SECURE_CROSS_ORIGIN_OPENER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": [NONE],
        "script-src": [SELF],
        "style-src": [SELF],
        "img-src": [SELF, "data:"],
        "font-src": [SELF],
        "connect-src": [SELF],
        "manifest-src": [SELF],
        "form-action": [SELF],
        "frame-ancestors": [NONE],
        "base-uri": [NONE],
        "object-src": [NONE],
    }
}
DATA_UPLOAD_MAX_MEMORY_SIZE = 20 * 1024 * 1024
LARGEST_UPLOAD_BYTES = 201 * 1024 * 1024  # the largest file of prompts, and the form around it
DATA_UPLOAD_MAX_NUMBER_FIELDS = 2000
FILE_UPLOAD_TEMP_DIR = PLUMBLINE_DATA_DIR / "uploads"

# Words
LANGUAGE_CODE = "en"
LANGUAGES = [("en", "English")]
LOCALE_PATHS = [PACKAGE_DIR / "locale"]
USE_I18N = True
USE_TZ = True
TIME_ZONE = environment.read_time_zone(os.environ)

# Static files: hashed names, made by `up` in the data directory. In development straight from the source folders.
STATIC_URL = "/static/"
STATIC_ROOT = PLUMBLINE_DATA_DIR / "static"
WHITENOISE_USE_FINDERS = DEVELOPMENT
STORAGES = {
    "default": {
        "BACKEND": "django.core.files.storage.FileSystemStorage",
        "OPTIONS": {"location": PLUMBLINE_DATA_DIR / "uploads"},
    },
    "staticfiles": {
        "BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"
        if DEVELOPMENT
        else "plumbline.storage.HashedStaticFiles"
    },
}
WHITENOISE_MANIFEST_STRICT = False

API_CALLS_PER_SECOND = environment.read_count(os.environ, "PLUMBLINE_API_CALLS_PER_SECOND", 100)

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "plumbline.api.TokenAuthentication",
        "rest_framework.authentication.SessionAuthentication",
    ],
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
    # No browsable API: it needs inline scripts, which the content security policy forbids.
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": [
        "rest_framework.parsers.JSONParser",
        "rest_framework.parsers.MultiPartParser",
        "rest_framework.parsers.FormParser",
    ],
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "DEFAULT_THROTTLE_CLASSES": ["plumbline.throttle.AccountThrottle"],
    "EXCEPTION_HANDLER": "plumbline.api.exception_handler",
    "TEST_REQUEST_DEFAULT_FORMAT": "json",
    "UNAUTHENTICATED_USER": "django.contrib.auth.models.AnonymousUser",
}
SPECTACULAR_SETTINGS = {
    "TITLE": "Plumbline API",
    "VERSION": "1",
    "SERVE_INCLUDE_SCHEMA": False,
    "SCHEMA_PATH_PREFIX": "/api/v1",
}

# Celery: a message is only a wake-up call (the row is the truth), so no results and one message at a time.
REDIS_EMBEDDED = "REDIS_URL" not in os.environ
CELERY_BROKER_URL = environment.read_redis_url(os.environ, PLUMBLINE_DATA_DIR)
CELERY_TASK_SERIALIZER = "json"
CELERY_ACCEPT_CONTENT = ["json"]
CELERY_TASK_IGNORE_RESULT = True
CELERY_TASK_DEFAULT_QUEUE = "short"
CELERY_TASK_ACKS_LATE = False
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
# A page must not hang when the broker is away; the reconciler sends the message again.
CELERY_TASK_PUBLISH_RETRY_POLICY = {"max_retries": 1, "interval_start": 0.1, "interval_step": 0.1, "interval_max": 0.2}
CELERY_BROKER_TRANSPORT_OPTIONS = {"socket_connect_timeout": 2, "visibility_timeout": 3600}

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(name)s: %(message)s"}},
    "filters": {"refusals": {"()": "plumbline.refusals.WithoutTraceback"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "line", "filters": ["refusals"]}},
    "root": {"handlers": ["console"], "level": LOG_LEVEL},
    "loggers": {
        "django": {"handlers": ["console"], "level": LOG_LEVEL, "propagate": False},
        "axes": {"level": "WARNING"},
    },
}

SILENCED_SYSTEM_CHECKS = []
