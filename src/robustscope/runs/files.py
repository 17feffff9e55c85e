"""Files of a run folder; see :mod:`robustscope.core.files`."""

from robustscope.core.files import RESTORE, read_json, write_atomically, write_json, write_text

__all__ = ["RESTORE", "read_json", "write_atomically", "write_json", "write_text"]
