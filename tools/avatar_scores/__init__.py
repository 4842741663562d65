"""What `tools/evaluate_avatars.py` measures: predictions with Avatars, and how good they are."""
