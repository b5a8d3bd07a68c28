"""Many models, one after the other or side by side: each folded in a process of its own, all of it journalled."""
