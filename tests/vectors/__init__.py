"""
Makes docs/vectors/*.json by running src/ on a fixed random stream.

    .venv/bin/python -m tests.vectors.make
"""
