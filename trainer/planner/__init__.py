"""Where tables live: planner configs, plans, their cost, and why nothing fits."""
