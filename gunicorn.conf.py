"""How Gunicorn serves the application: one process with threads by default - one model, shared caches."""

import os
import sys
from typing import Any

from service.errors import SettingsError
from service.settings import load_settings
from service.startup import welcome

try:
    settings = load_settings()
except SettingsError as error:
    sys.exit(f"sam-droplet: {error}")

admin_key_made = settings.admin_api_key is None
# Workers read the environment too, and all must accept the admin key that was made here.
os.environ["ADMIN_API_KEY"] = settings.admin_key

wsgi_app = "app:create_app()"
bind = f"{settings.flask_host}:{settings.flask_port}"
workers = settings.workers
worker_class = "gthread"
threads = settings.threads
timeout = 120
graceful_timeout = 120
keepalive = 5
accesslog = None
control_socket_disable = True
errorlog = "-"
loglevel = settings.log_level.lower()


def when_ready(_server: Any) -> None:
    """Tell the person at the terminal what to do next."""
    print(welcome(settings, admin_key_made), flush=True)
