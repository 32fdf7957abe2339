# MIT or Apache-2.0, as you like.
"""Runs tasks over mutual TLS, through the program `legatus`."""

from __future__ import annotations

DOCUMENTATION = """
name: legatus
short_description: Run tasks over mutual TLS, through Legatus
description:
  - Commands and files go through the program C(legatus), which knows hosts and identities.
author: the authors of Legatus
options:
  host:
    description: The host, as C(legatus) knows it.
    default: inventory_hostname
    vars:
      - name: inventory_hostname
      - name: ansible_host
      - name: ansible_legatus_host
  port:
    description: The port.
    type: int
    vars:
      - name: ansible_port
      - name: ansible_legatus_port
  remote_user:
    description: Fail if calls run as somebody else there.
    vars:
      - name: ansible_user
      - name: ansible_legatus_user
  executable:
    description: The program.
    default: legatus
    env:
      - name: ANSIBLE_LEGATUS_EXECUTABLE
    vars:
      - name: ansible_legatus_executable
  arguments:
    description: Flags for the program, before its subcommand.
    default: ''
    env:
      - name: ANSIBLE_LEGATUS_ARGUMENTS
    vars:
      - name: ansible_legatus_arguments
  timeout:
    description: Seconds that connecting may take.
    type: int
    default: 10
    env:
      - name: ANSIBLE_TIMEOUT
    ini:
      - section: defaults
        key: timeout
    vars:
      - name: ansible_timeout
  pipelining:
    description: Give modules to the interpreter's standard input instead of copying them first.
    type: boolean
    default: false
    env:
      - name: ANSIBLE_PIPELINING
    ini:
      - section: defaults
        key: pipelining
      - section: connection
        key: pipelining
    vars:
      - name: ansible_pipelining
"""

import os
import shlex
import subprocess

from ansible.errors import AnsibleConnectionFailure, AnsibleError, AnsibleFileNotFound
from ansible.module_utils.common.text.converters import to_bytes, to_native, to_text
from ansible.plugins.connection import ConnectionBase
from ansible.utils.display import Display

display = Display()

# What the program itself ends with: denied, unavailable, lost or failed.
OUR_ERROR = 255
# An outcome of these kinds means that the host could not be reached.
UNREACHABLE = ("denied", "unavailable", "lost")


class Connection(ConnectionBase):
    """A connection; each call is one of the program's."""

    transport = "legatus.legatus.legatus"
    has_pipelining = True
    # Modules that need a terminal at the other side (requiretty) are of the past.
    has_tty = False

    def _connect(self):
        self._connected = True
        return self

    def _program(self, *arguments):
        """The program with its flags and these arguments."""
        flags = shlex.split(self.get_option("arguments"))
        timeout = ["--connect-timeout", str(self.get_option("timeout"))]
        words = [self.get_option("executable"), *flags, *timeout, *arguments]
        return [to_bytes(word, errors="surrogate_or_strict") for word in words]

    def _host(self):
        host, port = self.get_option("host"), self.get_option("port")
        if not port:
            return host
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def _run(self, words, data=None):
        """Runs the program -> (status, standard output, standard error)."""
        display.vvv(f"EXEC {shlex.join(to_text(word) for word in words)}", host=self.get_option("host"))
        try:
            ended = subprocess.run(
                words,
                input=data if data is not None else b"",
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                check=False,
            )
        except OSError as error:
            raise AnsibleError(f"cannot run {to_native(words[0])}: {to_native(error)}") from error
        return ended.returncode, ended.stdout, ended.stderr

    def _raise_if_unreachable(self, status, stderr):
        """A host that could not be reached is another thing than a command that has failed."""
        if status != OUR_ERROR:
            return
        text = to_text(stderr, errors="surrogate_or_replace")
        for line in text.splitlines():
            if line.startswith(tuple(f"legatus: {kind}:" for kind in (*UNREACHABLE, "failed"))):
                raise AnsibleConnectionFailure(line)
        if "legatus: " in text:
            raise AnsibleConnectionFailure(text.strip())

    def exec_command(self, cmd, in_data=None, sudoable=True):
        """Runs a line in the user's shell -> (status, standard output, standard error)."""
        super().exec_command(cmd, in_data=in_data, sudoable=sudoable)
        words = ["shell", self._host()]
        if self.get_option("remote_user"):
            words += ["--user", self.get_option("remote_user")]
        status, stdout, stderr = self._run(self._program(*words, "-c", cmd), in_data)
        self._raise_if_unreachable(status, stderr)
        return status, stdout, stderr

    def _copy(self, source, target):
        status, _, stderr = self._run(self._program("transfer-file", source, target))
        self._raise_if_unreachable(status, stderr)
        if status:
            text = to_native(stderr, errors="surrogate_or_replace").strip()
            raise AnsibleError(f"cannot copy {to_native(source)} to {to_native(target)}: {text}")

    def put_file(self, in_path, out_path):
        """Copies a file to the host."""
        super().put_file(in_path, out_path)
        if not os.path.exists(to_bytes(in_path, errors="surrogate_or_strict")):
            raise AnsibleFileNotFound(f"there is no file {to_native(in_path)}")
        self._copy(os.path.abspath(in_path), f"{self._host()}:{out_path}")

    def fetch_file(self, in_path, out_path):
        """Copies a file from the host."""
        super().fetch_file(in_path, out_path)
        self._copy(f"{self._host()}:{in_path}", os.path.abspath(out_path))

    def reset(self):
        """Nothing is kept between calls."""
        self.close()
        self._connect()

    def close(self):
        self._connected = False
