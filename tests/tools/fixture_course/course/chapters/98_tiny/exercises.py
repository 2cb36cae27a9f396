# %% [markdown]
# # 98 Tiny: a chapter for tests
# Two functions, then a sentence.

# %% given="imports"
import math

from grader import check, grade

# %% [markdown]
# ## 1. Twice a number


# %% exercise="double"
def double(x: float) -> float:
    """Twice `x`.

    `x` is any finite number, in units of your choice. Raises ValueError for an infinite one.
    """
    ### BEGIN SOLUTION
    if math.isinf(x):
        raise ValueError(f"x must be finite, got {x}")
    return x + x
    ### END SOLUTION


# %% check="double"
check(double)

# %% judge="double" points=2
grade(double)

# %% [markdown]
# ## 2. Twice, twice


# %% exercise="quadruple"
def quadruple(x: float) -> float:
    """Four times `x`, by way of `double`; errors as there."""
    ### BEGIN SOLUTION
    return double(double(x))
    ### END SOLUTION


# %% check="quadruple"
check(quadruple)

# %% judge="quadruple" points=3
grade(quadruple)

# %% [markdown] manual="why" points=1
# Because twice two is four.
