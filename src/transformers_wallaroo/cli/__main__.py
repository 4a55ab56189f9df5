# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""`python -m transformers_wallaroo.cli`, for launchers that want a module."""

from . import main

main()
