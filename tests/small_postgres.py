"""A real PostgreSQL server, for the tests and the benchmark of the store."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import time
from itertools import count
from pathlib import Path

import psycopg


class Postgres:
    """A real server in a temporary folder, which can be stopped and started.

    It refuses to run as root, so there it runs as the user `postgres`.

    Args:
        folder: of its data; empty.
    """

    def __init__(self, folder: Path) -> None:
        found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
        where = str(found[-1]) if found else shutil.which("initdb")
        assert where, "the tests need PostgreSQL: apt-get install postgresql"
        self.programs = Path(where).parent
        self.folder = folder
        self.user = "postgres"
        self.names = count()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        if os.geteuid() == 0:
            found = pwd.getpwnam(self.user)
            os.chown(folder, found.pw_uid, found.pw_gid)
        made = self.program("initdb", "--auth=trust", f"--username={self.user}", "--no-sync")
        output, _ = made.communicate(timeout=60)
        assert made.returncode == 0, output
        self.start()

    def program(self, name: str, *options: str) -> subprocess.Popen:
        """One of PostgreSQL's programs, running."""
        ends_with_us = ["setpriv", "--pdeathsig", "SIGQUIT"] if shutil.which("setpriv") else []
        if os.geteuid() == 0:
            ends_with_us += [f"--reuid={self.user}", f"--regid={self.user}", "--init-groups"]
        return subprocess.Popen(
            [*ends_with_us, str(self.programs / name), "-D", str(self.folder / "data"), *options],
            cwd=self.folder,
            stdout=subprocess.PIPE if name == "initdb" else subprocess.DEVNULL,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def start(self) -> None:
        """Start the server, and wait until it answers."""
        settings = ("fsync=off", "listen_addresses=127.0.0.1", f"port={self.port}")
        options = [part for setting in settings for part in ("-c", setting)]
        self.process = self.program("postgres", *options, "-k", str(self.folder))
        until = time.monotonic() + 60
        while True:
            try:
                psycopg.connect(self.address("postgres")).close()
                return
            except psycopg.OperationalError:
                assert self.process.poll() is None and time.monotonic() < until
                time.sleep(0.05)

    def stop(self, how: int = signal.SIGINT) -> None:
        """End the server, and with it every open connection."""
        self.process.send_signal(how)
        self.process.wait(timeout=60)

    def address(self, database: str) -> str:
        """URL of a database, as psycopg takes it."""
        return f"postgresql://{self.user}@127.0.0.1:{self.port}/{database}"

    def new(self) -> str:
        """URL of a new, empty database."""
        name = f"store{next(self.names)}"
        with psycopg.connect(self.address("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return self.address(name).replace("postgresql:", "postgresql+psycopg:")
