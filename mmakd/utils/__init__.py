"""What serves all parts: checkpoints, configs, random streams, references, messages."""
