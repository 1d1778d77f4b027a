"""Fetching a dataset's archive: a progress bar, resumed or thrown away, never half."""

from __future__ import annotations

import http.client
import os
import shutil
import urllib.error
import urllib.request
import zipfile

from tqdm import tqdm

from trainer import storage
from trainer.errors import SeamlineError

CCP_URL = "https://github.com/bearpaw/clothing-co-parsing/archive/refs/heads/master.zip"
_CHUNK = 1 << 20
_TIMEOUT = 30.0


def fetch_archive(url: str, folder: str) -> None:
    """Downloads a zip archive and unpacks its one top folder as `folder`.

    The archive grows in `folder + ".zip.partial"`; a later call goes on from there
    where the server can, else it starts anew. `folder` appears only when complete.

    Args:
      url: of the archive.
      folder: local folder to make.

    Raises:
      SeamlineError: no network, an interrupted transfer, or a broken archive.
    """
    host = url.split("/")[2]
    if not storage.reachable(url):
        raise SeamlineError(
            f"{url}: {host} cannot be reached; connect, or put the dataset into "
            f"{folder} (or use --dataset=sample)"
        )
    storage.make_folder(os.path.dirname(os.path.abspath(folder)))
    archive = f"{folder}.zip.partial"
    try:
        _transfer(url, archive)
    except (OSError, http.client.HTTPException) as error:
        raise SeamlineError(
            f"{url}: transfer stopped ({error}); run the same command again"
        ) from error
    try:
        _unpack(archive, folder)
    except (zipfile.BadZipFile, OSError, EOFError) as error:
        raise SeamlineError(
            f"{url}: not a sound archive ({error}); run the same command again"
        ) from error
    finally:
        os.remove(archive)


def _transfer(url: str, path: str) -> None:
    """Appends to `path` what it lacks; servers without ranges send all again."""
    have = os.path.getsize(path) if os.path.exists(path) else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"})
    try:
        response = urllib.request.urlopen(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return  # nothing is missing; the archive's own check follows
        raise
    with response:
        goes_on = response.status == http.HTTPStatus.PARTIAL_CONTENT
        have = have if goes_on else 0
        length = response.headers.get("Content-Length")
        total = have + int(length) if length else None
        bar = tqdm(
            desc="downloading", total=total, initial=have, unit="B", unit_scale=True
        )
        with bar, open(path, "ab" if goes_on else "wb") as file:
            while chunk := response.read(_CHUNK):
                file.write(chunk)
                bar.update(len(chunk))
            if total is not None and file.tell() != total:
                raise OSError(f"{file.tell()} of {total} bytes")


def _unpack(archive: str, folder: str) -> None:
    staging = f"{folder}.partial"
    shutil.rmtree(staging, ignore_errors=True)
    with zipfile.ZipFile(archive) as opened:
        broken = opened.testzip()
        if broken:
            raise zipfile.BadZipFile(f"{broken} fails its checksum")
        opened.extractall(staging)
    tops = os.listdir(staging)
    if len(tops) != 1:
        raise zipfile.BadZipFile(f"{len(tops)} top folders instead of one")
    os.replace(os.path.join(staging, tops[0]), folder)
    shutil.rmtree(staging)
