"""What a frame costs: `python -m tests.bench` measures the stream agent against its floor."""
