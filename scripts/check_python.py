"""Say in one line what is missing before anything is installed."""

import shutil
import sys

# This script runs before the package, so also where the Python is too old for it.
if sys.version_info < (3, 11):  # noqa: UP036
    sys.exit(f"Danlu needs Python 3.11 or newer; this is {sys.version.split()[0]}. Try: make PYTHON=python3.11 demo")
try:
    import ensurepip  # noqa: F401
    import venv  # noqa: F401
except ImportError:
    sys.exit("Python's venv module is missing. On Debian and Ubuntu: apt-get install python3-venv")
if not any(shutil.which(name) for name in ("g++", "clang++")):
    print("No C++ compiler: training will run eager, about a sixth slower. On Debian: apt-get install g++ python3-dev")
