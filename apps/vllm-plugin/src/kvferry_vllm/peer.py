"""The process at the other end of a Unix socket, held by a pidfd so that its id cannot come to mean another."""

import os
import signal
import socket
import struct

_CREDENTIALS = struct.Struct("3i")


class Peer:
    """Who listens on the server's socket, by SO_PEERCRED.

    A peer can be killed only if it runs as us, and only once WELCOME has confirmed that the process that listens is
    the one that answers: with socket activation the listener is the init system. The pidfd is opened before WELCOME
    comes, so the process that it names was alive after it was opened and is the one that sent it.
    """

    def __init__(self, pid: int, uid: int, pidfd: int) -> None:
        self.pid = pid
        self.uid = uid
        self._pidfd = pidfd
        self._refusal: str | None = "it never said WELCOME"
        self._is_confirmed = False

    @classmethod
    def of(cls, connection: socket.socket) -> "Peer | None":
        """The peer, or None where its pid is not visible (another pid namespace) or the kernel has no pidfd."""
        raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        pid, uid, _ = _CREDENTIALS.unpack(raw)
        if pid <= 0:
            return None
        try:
            return cls(pid, uid, os.pidfd_open(pid))
        except OSError:
            return None

    def confirm(self, welcomed_pid: int) -> None:
        """Takes the pid that WELCOME named; it must be this process as it sees itself."""
        self._is_confirmed = welcomed_pid == self._innermost_pid()
        if self.uid != os.geteuid():
            self._refusal = f"it runs as uid {self.uid}, not as ours"
        elif self.pid in (1, os.getpid(), os.getppid()):
            self._refusal = f"pid {self.pid} is not a server of ours to end"
        elif not self._is_confirmed:
            self._refusal = f"pid {self.pid} listens but pid {welcomed_pid} answered"
        else:
            self._refusal = None

    def kill(self) -> str | None:
        """SIGKILL.

        Returns:
            None when it was sent (or the process has ended already), else why not.
        """
        if self._refusal is not None:
            return self._refusal
        try:
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        except ProcessLookupError:
            pass
        except OSError as error:
            return str(error)
        return None

    def watch(self) -> int | None:
        """A pidfd of the caller's own: readable once the process has ended. None unless it is surely the one that answers."""
        return os.dup(self._pidfd) if self._is_confirmed else None

    def close(self) -> None:
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1

    def _innermost_pid(self) -> int:
        """Its pid in its own namespace: a server in a container of this pid tree calls itself by another number."""
        try:
            with open(f"/proc/{self.pid}/status") as status:
                for line in status:
                    if line.startswith("NSpid:"):
                        return int(line.split()[-1])
        except OSError:
            pass
        return self.pid
