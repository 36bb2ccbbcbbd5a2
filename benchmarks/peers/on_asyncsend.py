from witness import note

from asyncsend import task


@task
def nothing():
    note()
