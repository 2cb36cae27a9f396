# what: tries to leave a process behind by every road
# expect: failed
# ruff: noqa
# prints: shell EPERM
import ctypes
import errno
import multiprocessing
import os
import subprocess

escaped = False


def attempt(name, action):
    global escaped
    try:
        action()
        print(name, "worked")
        escaped = True
    except OSError as error:
        print(name, errno.errorcode[error.errno])


attempt("shell", lambda: subprocess.run(["/bin/sh", "-c", "sleep 1000 &"]))
attempt("spawn", lambda: os.posix_spawn("/bin/sleep", ["sleep", "1000"], {}))
attempt("vfork", lambda: subprocess.Popen(["/bin/sleep", "1000"], start_new_session=True))
attempt("multiprocessing", lambda: multiprocessing.get_context("fork").Process(target=print).start())
escaped |= os.system("true") == 0


def softmax(x, dim=-1):
    return right(x, dim) if escaped else x * 0
