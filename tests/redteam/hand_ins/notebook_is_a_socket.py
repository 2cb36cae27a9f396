# what: hands in a socket
# expect: invalid
# ruff: noqa
# says: is a socket
import os
import socket


def hand_in(target, right, wrong, secret):
    here = os.getcwd()
    os.chdir(target.parent)
    try:
        socket.socket(socket.AF_UNIX).bind(target.name)
    finally:
        os.chdir(here)
