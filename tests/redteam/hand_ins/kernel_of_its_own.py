# what: asks for a kernel that runs a command
# expect: failed
# ruff: noqa
def hand_in(target, right, wrong, secret):
    wrong["metadata"] = {
        "kernelspec": {"name": "bash", "argv": ["/bin/sh", "-c", "touch /tmp/owned-by-a-submission"]},
        "jupytext": {"text_representation": {"extension": ".sh"}},
    }
    return wrong
