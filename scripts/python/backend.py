# SPDX-License-Identifier: GPL-2.0-or-later
"""The build backend of pyproject.toml (PEP 517 and 660), in one file that needs only Python.

Standard backends would have to be downloaded first, and many hosts of virtual machines reach no
package index. The wheel has the package `hotsnap`, the command, its completion,
its man page and its unit of systemd.
"""

from __future__ import annotations

import base64
import hashlib
import io
import os
import subprocess
import sys
import tarfile
import tomllib
import zipfile

HERE = os.path.dirname(os.path.abspath(__file__))
PACKAGE = "hotsnap"
LICENSES = ("LICENSE", os.path.join("..", "..", "LICENSE"))  # of an sdist, of a checkout
COMPLETION = os.path.join("completion", "hotsnap.bash")
UNIT = os.path.join("systemd", "hotsnap-every@.service.in")
EPOCH = (1980, 1, 1, 0, 0, 0)  # of all files, so that equal sources make equal wheels

Files = dict[str, bytes]


def build_wheel(wheel_directory: str, config_settings: object = None,
                metadata_directory: str | None = None) -> str:
    files = {path: _read(path) for path in _sources()}
    return _wheel(wheel_directory, files)


def build_editable(wheel_directory: str, config_settings: object = None,
                   metadata_directory: str | None = None) -> str:
    return _wheel(wheel_directory, {f"{PACKAGE}.pth": f"{HERE}\n".encode()})


def build_sdist(sdist_directory: str, config_settings: object = None) -> str:
    project = _project()
    stem = f"{project['name']}-{project['version']}"
    files = {path: _read(path) for path in (
        *_sources(), "backend.py", "manual.py", "pyproject.toml", COMPLETION, UNIT)}
    files["PKG-INFO"] = _metadata(project)
    files["LICENSE"] = _license()
    name = f"{stem}.tar.gz"
    with tarfile.open(os.path.join(sdist_directory, name), "w:gz") as archive:
        for path, data in sorted(files.items()):
            entry = tarfile.TarInfo(f"{stem}/{path}")
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return name


def _project() -> dict[str, object]:
    """The table [project] with the package's version in it."""
    with open(os.path.join(HERE, "pyproject.toml"), "rb") as stream:
        project = tomllib.load(stream)["project"]
    version: dict[str, object] = {}
    exec(_read(os.path.join(PACKAGE, "__init__.py")), version)
    return {**project, "version": version["__version__"]}


def _sources() -> list[str]:
    found = []
    for folder, folders, names in os.walk(os.path.join(HERE, PACKAGE)):
        folders.sort()
        found += [os.path.relpath(os.path.join(folder, name), HERE)
                  for name in sorted(names) if name.endswith(".py")]
    return found


def _read(path: str) -> bytes:
    with open(os.path.join(HERE, path), "rb") as stream:
        return stream.read()


def _license() -> bytes:
    return _read(next(path for path in LICENSES if os.path.exists(os.path.join(HERE, path))))


def _metadata(project: dict[str, object]) -> bytes:
    return (f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
            f"Summary: {project['description']}\nLicense: {project['license']['text']}\n"
            f"Requires-Python: {project['requires-python']}\n").encode()


def _manual() -> bytes:
    return subprocess.run([sys.executable, "-B", os.path.join(HERE, "manual.py")],
                          stdout=subprocess.PIPE, check=True).stdout


def _wheel(folder: str, files: Files) -> str:
    project = _project()
    stem = f"{project['name']}-{project['version']}"
    share, info = f"{stem}.data/data/share", f"{stem}.dist-info"
    scripts = "".join(f"{name} = {target}\n" for name, target in project["scripts"].items())
    files = {
        **files,
        f"{share}/man/man1/hotsnap.1": _manual(),
        f"{share}/bash-completion/completions/hotsnap": _read(COMPLETION),
        # A wheel does not know where it will be installed; systemd has a path of its own.
        f"{stem}.data/data/lib/systemd/system/hotsnap-every@.service":
            _read(UNIT).replace(b"@COMMAND@", b"hotsnap"),
        f"{info}/METADATA": _metadata(project),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: hotsnap\nRoot-Is-Purelib: true\n"
                         b"Tag: py3-none-any\n",
        f"{info}/entry_points.txt": f"[console_scripts]\n{scripts}".encode()}
    files[f"{info}/LICENSE"] = _license()
    files[f"{info}/RECORD"] = _record(files, f"{info}/RECORD")
    name = f"{stem}-py3-none-any.whl"
    with zipfile.ZipFile(os.path.join(folder, name), "w", zipfile.ZIP_DEFLATED) as archive:
        for path, data in files.items():
            entry = zipfile.ZipInfo(path, EPOCH)
            entry.external_attr = 0o644 << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, data)
    return name


def _record(files: Files, own: str) -> bytes:
    """The list of a wheel's files with their digests; it has none of itself."""
    lines = []
    for path, data in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        lines.append(f"{path},sha256={digest},{len(data)}\n")
    return ("".join(lines) + f"{own},,\n").encode()
