import os
from importlib.util import find_spec

import pymysql

pymysql.install_as_MySQLdb()

SECRET_KEY = "of a benchmark"
INSTALLED_APPS = ["django_tasks_db"] if find_spec("django.tasks") else ["django_tasks", "django_tasks_db"]  # Django 6 has tasks itself
# Persistent connections: by default Django opens one for each task, which is not what is to be measured.
DATABASES = {"default": {"ENGINE": "django.db.backends.mysql", "NAME": os.environ["BENCH_DATABASE"], "USER": "root", "HOST": os.environ["BENCH_MYSQL"], "CONN_MAX_AGE": None}}
TASKS = {"default": {"BACKEND": "django_tasks_db.DatabaseBackend"}}
USE_TZ = True
