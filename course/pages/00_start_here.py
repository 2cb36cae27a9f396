# %% [markdown]
# # Start here
# How do language models work, and how do you know? In this course you take each part in your hands: you predict what will happen, move a
# slider, see whether you were right, and then write the part yourself. What is claimed is measured, and where the measurement disagrees it
# says so.

# %% [markdown] fill="map"
# The map of chapters.

# %% [markdown]
# ## Your progress
# Run the next cell (Shift+Enter). It counts the exercises whose `check` has passed on this machine.

# %% tags=["nbval-ignore-output"]
from grader import progress

progress()

# %% [markdown]
# ## How to read a lesson
# Run its cells from top to bottom (*Run > Run All Cells* does it at once). The sliders and menus come alive when their cell has run; until then
# you see a still picture. Change numbers, break things: the file is your own copy.
#
# ## How to do an assignment
# 1. Open it from the map above. Cells that say `YOUR CODE HERE` are yours; replace the line `raise NotImplementedError()`.
# 2. Run your cell, then the `check(...)` cell below it. In about a second a card says *passed*, or shows the first case that fails: the call, what
#    came, what was wanted, and often which mistake it looks like.
# 3. Stuck? Open *Hint 1* on the card, or run `check(name, hint=1)`. There are three, from a nudge to nearly the answer.
# 4. Write helper functions inside the exercise's own cell: only that cell is handed in.
# 5. When all checks pass, restart the kernel and run everything once more. In a class, `llmcourse submit CHAPTER` hands it in.
#
# ## How to get help
# - `help(name)` shows what a function wants; each exercise's docstring gives shapes, types, units and errors.
# - The worked solutions are in the repository's folder `solutions/`. An hour of your own thinking first is worth it.
# - Words and symbols: `glossary.md` and `conventions.md` in the folder above. What the notes claim and what we found: [the page of claims](claims.ipynb).
#
# ## How updates treat your copies
# Everything in `my_course/` belongs to you, and git ignores it. When the course is updated and you run `make lab`, a file that you never changed is
# renewed. A file that you changed stays as it is, and the new version is placed beside it as `NAME.updated.ipynb`. To start a file afresh, delete it
# and run `make lab`.
