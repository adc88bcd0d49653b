"""How runs are started: recipes, plans and TorchX components."""
