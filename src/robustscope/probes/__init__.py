"""Floor 2: measurements that need the model and are not attacks."""
