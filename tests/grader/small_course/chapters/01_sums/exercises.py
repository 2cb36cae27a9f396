# %% [markdown]
# # 01 Sums: a chapter for tests
# *Time: 5 minutes.*

# %% given="imports"

from grader import check, grade

# %% [markdown]
# ## Mean of squares


# %% exercise="mean_square"
def mean_square(x):
    """Mean of squares over the last dim. x (..., n) float -> (...) in x's dtype. ValueError when n is 0."""
    ### BEGIN SOLUTION
    if x.shape[-1] == 0:
        raise ValueError("mean_square needs at least one value")
    return (x * x).mean(-1)
    ### END SOLUTION


# %% check="mean_square"
check(mean_square)

# %% judge="mean_square" points=4
grade(mean_square)

# %% [markdown]
# ## Root of it


# %% exercise="root_mean_square"
def root_mean_square(x):
    """Root of `mean_square`. x (..., n) float -> (...) in x's dtype."""
    ### BEGIN SOLUTION
    return mean_square(x).sqrt()
    ### END SOLUTION


# %% check="root_mean_square"
check(root_mean_square)

# %% judge="root_mean_square" points=2
grade(root_mean_square)

# %% [markdown]
# ## In words

# %% [markdown] manual="why_squares" points=3
# ### BEGIN SOLUTION
# Squares are never negative.
# ### END SOLUTION
