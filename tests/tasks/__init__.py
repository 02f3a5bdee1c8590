"""Networks of many tasks, small and quick: what a practitioner brings."""
