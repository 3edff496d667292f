"""What holds for all tests."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# Tests run three at a time on two cores: how fast inputs are made says nothing of the strategy.
settings.register_profile("shared", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared")
