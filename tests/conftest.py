"""What holds for all tests."""

from hypothesis import HealthCheck, settings

# The first example compiles kernels, or loads them: no single example may be judged by its time.
settings.register_profile("varflow", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("varflow")
