"""For Docker's HEALTHCHECK: exit code 0 when the server in this container is ready, on whatever port."""

import sys
from http.client import HTTPConnection

from lavatube.settings import read_settings

connection = HTTPConnection("127.0.0.1", read_settings().port, timeout=4)
try:
    connection.request("GET", "/readyz")
    sys.exit(connection.getresponse().status != 200)
except OSError:
    sys.exit(1)
