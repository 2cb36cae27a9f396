# what: ends the process before there is a function
# expect: crashed
# ruff: noqa
# ends: exit code 0
import os

os._exit(0)
