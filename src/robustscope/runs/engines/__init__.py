"""Engines: who runs the missing shards. Each is a thin loop around ``execute.run_shard``."""
