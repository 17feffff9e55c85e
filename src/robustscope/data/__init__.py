"""Floor 1: the data room. Importing it registers every source of data; heavy readers are imported when used."""

import importlib
import pkgutil

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
