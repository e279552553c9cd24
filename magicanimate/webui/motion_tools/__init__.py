"""The tab on which a motion clip is made of any video."""
