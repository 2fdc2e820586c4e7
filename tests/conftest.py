"""Settings for all tests."""

from hypothesis import settings

# Examples may take as long as a busy machine needs; what counts is what they find.
settings.register_profile("dissect", deadline=None)
settings.load_profile("dissect")
