"""`python -m asyncsend.web`: the application as a CGI program (RFC 3875), one request each."""

from wsgiref.handlers import CGIHandler

from asyncsend.web import application

CGIHandler().run(application)
