# %% [markdown]
# # 98 Tiny: a chapter for tests
# *Time: 1 minutes. Builds on: nothing.*

# %%
from llmcore import claims, figures

# %% tags=["parameters"]
SCALE = "quick"  # "quick" under a minute, "full" for a patient CPU, "gpu" for a GPU

# %%
print(sum(range(10)))


# %%
def draw(power: int) -> object:
    figure, axes = figures.new_figure()
    axes.plot([x**power for x in range(5)])
    return figure


for power in (1, 2, 3, 4):
    figures.interactive(draw, alt=f"A curve that rises with power {power} of x.", power=(1, 4, power))
    print("largest value:", 4**power)

# %%
variance = 64.3 / 64
claims.judge("C02.01", confirmed=abs(variance - 1) < 0.05, evidence={"variance / d_k": variance})
