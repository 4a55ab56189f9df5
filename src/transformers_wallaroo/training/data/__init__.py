# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""Published data sets as samples: a small adapter a layout, filters, and what is left out and why (docs/data.md)."""
