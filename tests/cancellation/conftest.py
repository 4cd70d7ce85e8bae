"""Lets the assertions of `trial.py` and `clients.py` tell what they compared."""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite("tests.cancellation.trial", "tests.cancellation.clients")
