# what: leaves files with full marks
# expect: failed
# ruff: noqa
import json

for name in ("results.json", "score.txt", "ledger.jsonl", ".coverage"):
    with open(name, "w") as file:
        json.dump({"score": 100, "outcome": "passed"}, file)


def softmax(x, dim=-1):
    return x * 0
