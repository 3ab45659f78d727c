"""Tuning: the plans that the cost model likes best are built and timed, and the winner is kept."""
