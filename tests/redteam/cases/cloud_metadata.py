# what: asks the cloud's metadata service for credentials
# expect: error
# ruff: noqa
import urllib.request


def softmax(x, dim=-1):
    urllib.request.urlopen("http://169.254.169.254/latest/meta-data/", timeout=1)
    return right(x, dim)
