"""What a run tells when it has ended: one page."""
