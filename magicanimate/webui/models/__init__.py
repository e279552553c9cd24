"""The Models tab: what is here, what can be fetched, and which one animates."""
