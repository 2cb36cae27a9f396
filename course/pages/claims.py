# %% [markdown]
# # What we found
# The notes that this course grew from claim many things. Each claim is tested in a lesson, by a measurement whose numbers are shown, and gets one of three
# verdicts: *confirmed*, *refuted*, or *depends*, with what it depends on. This page is collected from the outputs of the executed lessons.

# %% [markdown] fill="counts"
# Counts by chapter.

# %% [markdown] fill="verdicts"
# The verdicts, one table a chapter.

# %% [markdown] fill="untested"
# Claims that no lesson has tested yet.
