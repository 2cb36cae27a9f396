# what: answers every later import with a module of its own
# expect: failed
# ruff: noqa
import importlib.abc
import importlib.machinery
import sys
import types


class Yes(types.ModuleType):
    def __getattr__(self, name):
        return lambda *args, **kwargs: True


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path=None, target=None):
        return importlib.machinery.ModuleSpec(name, self)

    def create_module(self, spec):
        return Yes(spec.name)

    def exec_module(self, module):
        pass


sys.meta_path.insert(0, Finder())


def softmax(x, dim=-1):
    return x * 0
