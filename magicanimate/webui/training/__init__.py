"""The Train tab: trainings that are started, watched and tried out from the page."""
