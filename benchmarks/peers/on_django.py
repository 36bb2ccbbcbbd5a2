import django
from witness import note

django.setup()

try:
    from django.tasks import task
except ImportError:  # before Django 6
    from django_tasks import task


@task()
def nothing():
    note()


def put(jobs):
    for _ in range(jobs):
        nothing.enqueue()
