"""`python -m asyncsend.web`: the application as a CGI program (RFC 3875), one request each."""

# httpoxy: a header Proxy arrives as HTTP_PROXY. Nothing here believes that name: tasks/http.py takes no proxy from the environment.
from wsgiref.handlers import CGIHandler  # nosec B412

from asyncsend.web import application

CGIHandler().run(application)  # nosec B412
