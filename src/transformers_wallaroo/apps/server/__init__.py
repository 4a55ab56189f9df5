# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""A server that OpenAI's clients speak to: conversations, pictures and edits, in front of one engine.

Needs the extra `serve`: `pip install 'transformers-wallaroo[serve]'`.
"""

try:
    import fastapi  # noqa: F401
    import prometheus_client  # noqa: F401
    import python_multipart  # noqa: F401
    import uvicorn  # noqa: F401
except ImportError as error:
    raise ImportError(
        f"The server needs {error.name}, which is not installed: `pip install 'transformers-wallaroo[serve]'`."
    ) from error

from .app import create_app
from .run import Server, is_local, make_server
from .settings import ServerSettings

__all__ = ["Server", "ServerSettings", "create_app", "is_local", "make_server"]
