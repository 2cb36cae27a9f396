# what: hides the withheld routine in an encoded text that it executes
# expect: policy
# ruff: noqa
import base64

exec(
    base64.b64decode("aW1wb3J0IHRvcmNoCmRlZiBzb2Z0bWF4KHgsIGRpbT0tMSk6CiAgICByZXR1cm4gdG9yY2guc29mdG1heCh4LCBkaW0pCg==")
)
