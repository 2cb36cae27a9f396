"""nbgrader's settings for this course: `cd course`, then any `nbgrader` command. `llmcourse` reads them too."""

import os
import secrets
from pathlib import Path

c = get_config()

here = Path(__file__).resolve().parent

c.CourseDirectory.course_id = "llm_principles"
c.CourseDirectory.root = str(here)
# The gradebook is SQLite beside the course; several graders at once want a server, such as PostgreSQL.
if "LLM_COURSE_DB" in os.environ:
    c.CourseDirectory.db_url = os.environ["LLM_COURSE_DB"]

# Where `nbgrader release_assignment`, `fetch_assignment` and `collect` exchange files. A class on one server sets a folder that
# all can write; alone, it is course/exchange, ignored by git.
exchange = Path(os.environ.get("LLM_COURSE_EXCHANGE", here / "exchange"))
exchange.mkdir(parents=True, exist_ok=True)
c.Exchange.root = str(exchange)

# Grading with `nbgrader autograde` runs submissions as you, without a sandbox. `llmcourse grade` has one; these settings
# only close what can be closed here.
c.Execute.timeout = 120
c.Execute.shutdown_kernel = "immediate"
c.Execute.skip_cells_with_tag = secrets.token_hex(16)  # a submission cannot tag its graded cells to be skipped
c.OverwriteCells.add_missing_cells = True  # a deleted graded cell earns 0 instead of waiting for a person
# A warning is not a wrong answer: without this, any text on stderr scores 0.
c.IgnorePattern.enabled = True
c.IgnorePattern.pattern = r"Warning"
