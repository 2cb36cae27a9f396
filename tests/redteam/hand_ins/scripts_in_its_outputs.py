# what: leaves scripts in outputs, attachments and widgets
# expect: passed
# ruff: noqa
def hand_in(target, right, wrong, secret):
    script = '<script>fetch("/api/kernels", {method: "POST"})</script>'
    right["cells"][1]["outputs"] = [
        {
            "output_type": "display_data",
            "metadata": {},
            "data": {"text/html": script, "application/javascript": "alert(1)", "image/svg+xml": script},
        }
    ]
    right["cells"][0]["attachments"] = {"x.png": {"image/png": script}}
    right["metadata"]["widgets"] = {"application/vnd.jupyter.widget-state+json": {"state": {"x": script}}}
    return right
