"""The certificate of a SeaweedFS that somebody else starts: `python -m gateway.engines.draw_storage_certificate FOLDER`.

Kept if it is there.
"""

from __future__ import annotations

import sys
from pathlib import Path

from gateway.engines.storage_tls import SECURITY, draw

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    if not (folder / SECURITY).exists():
        draw(folder)
