# what: raises its own limits
# expect: failed
# ruff: noqa
# prints: RLIMIT_DATA
import resource

escaped = False
for name in ("RLIMIT_DATA", "RLIMIT_AS", "RLIMIT_CPU", "RLIMIT_NPROC", "RLIMIT_NOFILE", "RLIMIT_FSIZE"):
    try:
        resource.setrlimit(getattr(resource, name), (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        escaped = True
    except (OSError, ValueError) as error:
        print(name, type(error).__name__)


def softmax(x, dim=-1):
    return right(x, dim) if escaped else x * 0
