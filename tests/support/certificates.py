# SPDX-License-Identifier: GPL-2.0-or-later
"""Certificates for members, made by certtool as QEMU's documents say, and shared keys."""

from __future__ import annotations

import secrets
import subprocess
from pathlib import Path


def _certtool(*arguments: str) -> None:
    subprocess.run(["certtool", *arguments], check=True, capture_output=True)


class Authority:
    """Signs certificates. Everything is in `folder`."""

    def __init__(self, folder: Path):
        folder.mkdir()
        self.folder, self.key, self.certificate = folder, folder / "key.pem", folder / "cert.pem"
        _certtool("--generate-privkey", "--key-type=ecdsa", "--outfile", str(self.key))
        template = folder / "ca.cfg"
        template.write_text(f'cn = "authority {folder.name}"\nca\ncert_signing_key\n'
                            "expiration_days = 10\n")
        _certtool("--generate-self-signed", "--load-privkey", str(self.key),
                  "--template", str(template), "--outfile", str(self.certificate))

    def issue(self, name: str, *lines: str) -> Path:
        """A folder as tls-creds-x509 wants it, for both endpoints, with a certificate of `name`;
        `lines` are more of certtool's template."""
        folder = self.folder / f"for-{len(list(self.folder.glob('for-*')))}-{name}"
        folder.mkdir()
        template, key = folder / "template.cfg", folder / "server-key.pem"
        dated = any(line.startswith("expiration") for line in lines)
        template.write_text("\n".join([
            f'cn = "{name}"', "signing_key", "tls_www_server", "tls_www_client",
            *([] if dated else ["expiration_days = 10"]), *lines, ""]))
        _certtool("--generate-privkey", "--key-type=ecdsa", "--outfile", str(key))
        _certtool("--generate-certificate", "--load-privkey", str(key),
                  "--load-ca-certificate", str(self.certificate),
                  "--load-ca-privkey", str(self.key), "--template", str(template),
                  "--outfile", str(folder / "server-cert.pem"))
        (folder / "ca-cert.pem").symlink_to(self.certificate)
        for what in ("key", "cert"):
            (folder / f"client-{what}.pem").symlink_to(folder / f"server-{what}.pem")
        return folder


EXPIRED = ('activation_date = "2020-01-01 00:00:00 UTC"',
           'expiration_date = "2020-01-02 00:00:00 UTC"')


def shared_key(folder: Path) -> Path:
    """A folder as tls-creds-psk wants it."""
    folder.mkdir()
    (folder / "keys.psk").write_text(f"qemu:{secrets.token_hex(32)}\n")
    return folder


def objects(kind: str, folder: Path) -> list[str]:
    """Options that give a member credentials for both of its ends."""
    return [word for end in ("server", "client") for word in
            ("-object", f"tls-creds-{kind},id=tls-{end},dir={folder},endpoint={end}")]


MEMBER_OPTIONS = ",tls-creds=tls-server,tls-creds-client=tls-client"
