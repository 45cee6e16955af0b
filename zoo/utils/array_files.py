"""What numpy raises for damaged files of arrays."""

import zlib
from zipfile import BadZipFile

# of np.load, and of the arrays of an NPZ file, a zip archive, which are read later
DAMAGED = (ValueError, OSError, EOFError, KeyError, NotImplementedError, BadZipFile, zlib.error)
