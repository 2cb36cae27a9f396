# what: asks for real-time scheduling
# expect: failed
# ruff: noqa
# prints: realtime EPERM
import errno
import os

escaped = False


def attempt(name, action):
    global escaped
    try:
        action()
        print(name, "worked")
        escaped = True
    except OSError as error:
        print(name, errno.errorcode[error.errno])


attempt("nice", lambda: os.nice(-5))
attempt("priority", lambda: os.setpriority(os.PRIO_PROCESS, 0, -5))
attempt("realtime", lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1)))


def softmax(x, dim=-1):
    return right(x, dim) if escaped else x * 0
