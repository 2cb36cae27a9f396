"""The notebook builder (`python -m tools.notebooks`) and the course linter (`python -m tools.lint`). Nothing imports them."""
