# what: hands in a zip archive by the name of a notebook
# expect: invalid
# ruff: noqa
import io
import json
import zipfile


def hand_in(target, right, wrong, secret):
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as file:
        file.writestr("01_softmax.ipynb", json.dumps(right))
    return data.getvalue()
