"""A regular package: MMRazor installs a ``tests`` of its own, which must not come first."""
