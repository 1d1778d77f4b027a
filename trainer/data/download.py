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
from trainer.errors import SeamlineError, Unavailable
from trainer.storage import network

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
      SeamlineError: the server does not have it, no room for it, or a broken archive.
      Unavailable: no network, or an interrupted transfer.
    """
    check_host(url, folder)
    storage.make_folder(os.path.dirname(os.path.abspath(folder)))
    archive = f"{folder}.zip.partial"
    try:
        _transfer(url, archive)
    except (OSError, http.client.HTTPException) as error:
        if not network.may_pass(error):
            raise SeamlineError(
                f"{url}: cannot be fetched ({error}); mend that, or put the dataset "
                f"into {folder}"
            ) from error
        raise Unavailable(
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


def check_host(url: str, folder: str) -> None:
    """Does nothing where the host of `url` answers.

    Raises:
      Unavailable: it does not; `folder` is where the dataset could be put instead.
    """
    if not storage.reachable(url):
        raise Unavailable(
            f"{url}: {url.split('/')[2]} cannot be reached; connect, or put the "
            f"dataset into {folder} (or use --dataset=sample)"
        )


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
                raise ConnectionError(f"{file.tell()} of {total} bytes")


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
