"""What keeps a run from losing work: locks, stops, a watchdog, a look at its losses."""
