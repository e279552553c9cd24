"""The Animate tab: the form, what is checked beforehand, the way from a result back into the form."""
