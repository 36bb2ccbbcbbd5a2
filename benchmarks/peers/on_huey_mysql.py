import os

from huey.contrib.sql_huey import SqlHuey
from peewee import MySQLDatabase
from witness import note

huey = SqlHuey(database=MySQLDatabase(os.environ["BENCH_DATABASE"], unix_socket=os.environ["BENCH_MYSQL"], user="root"))


@huey.task()
def nothing():
    note()


def put(jobs):
    for _ in range(jobs):
        nothing()
