"""What `tools/benchmark_speed.py` measures, and how it writes it down."""
