"""What holds for all tests."""

import os

from hypothesis import HealthCheck, settings

# The first example compiles kernels, or loads them: no single example may be judged by its time.
settings.register_profile("ci", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("nightly", settings.get_profile("ci"), max_examples=2000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))
