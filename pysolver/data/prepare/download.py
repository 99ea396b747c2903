"""Files from their homes: checked, retried, and kept in the user's cache folder."""

from __future__ import annotations

from pathlib import Path

from pysolver.errors import CaffeError
from pysolver.extras import require

_RETRIES = 3


def fetch(url: str, sha256: str) -> Path:
    """The local path of a file, downloaded unless it was before. Raises CaffeError if it cannot be had intact."""
    pooch = require("pooch")
    home, name = url.rsplit("/", 1)
    store = pooch.create(
        path=pooch.os_cache("pysolver"),
        base_url=f"{home}/",
        registry={name: f"sha256:{sha256}"},
        retry_if_failed=_RETRIES,
    )
    try:
        return Path(store.fetch(name, progressbar=True))
    except (OSError, ValueError) as error:  # no network; a file with another checksum
        raise CaffeError(f"{url} cannot be downloaded: {error}. With the files in a folder, use --from DIR") from None
