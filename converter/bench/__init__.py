"""Latency parity: is B slower than A on this machine? Interleaved pairs, an interval, three answers."""
