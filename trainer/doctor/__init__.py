"""Whether training can work here, and what to do where it cannot."""
