"""What a run is, on disk: written aside, checked, restored anywhere."""
